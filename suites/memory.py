"""How many bytes does it need? The peak of forward, training and a step over length, what steps hand on, and what weights take.

Peaks are counted by torch's own allocator, above the inputs, with what is kept between calls (a workspace, a mask, a table); they
hang on no clock and on no other process, so each cell is asked once, and gates exactly. What is weighed is judged first, as in
suite=speed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import claims, curves, judge, work
from harness.cell import OK, Answer, Cell, Record
from harness.claims import Claim, Side, claimed
from harness.curves import Curve
from harness.implementation import Implementation, check_compiled

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Selection

settings = {"scale": "default", "form": "*", "length": "*", "batch": "1", "threads": 1}
choices = {"scale": ("smoke", "default", "full")}
limits = {"timeout": 300.0, "memory": 16.0}
cost = work.cost
isolated = True

FLASH, PLAIN = "attention/torch_sdpa:flash", "attention/plain"
ROPE, RETNET = "transformer_rope/torch_sdpa", "retnet/torch_parallel"
QUANTIZED = "transformer_quantized/torch_plain"
OF_PEAKS = (
    Claim(
        "fused attention needs memory linear in length",
        "2205.14135",
        "linear",
        Side(FLASH, "forward", case="causal"),
        Side(FLASH, "forward", case="causal", shortest=True),
        below=1.5,  # quadratic, it would be the ratio of the lengths; tiles grow a little with them
        per_length=True,
    ),
    Claim(
        "attention that writes its scores to memory needs more",
        "2205.14135 (fig. 3)",
        "up to 20 times",
        Side(PLAIN, "forward", case="causal"),
        Side(FLASH, "forward", case="causal"),
        above=1.0,
    ),
    Claim(
        "... and so does its training",
        "2205.14135 (fig. 3)",
        "up to 20 times",
        Side(PLAIN, "training", case="causal"),
        Side(FLASH, "training", case="causal"),
        above=1.0,
    ),
)
OF_STATES = (
    Claim(
        "RetNet carries constant bytes from step to step",
        "2307.08621 (fig. 6)",
        "constant",
        Side(RETNET, "step"),
        Side(RETNET, "step", shortest=True),
        below=1.01,
    ),
    Claim(
        "a cache of keys and values grows with the text",
        "2307.08621 (fig. 6)",
        "linear",
        Side(ROPE, "step"),
        Side(ROPE, "step", shortest=True),
        above=2.0,
    ),
)
# Of the matrices in the blocks alone: embedding, head, norms and biases stay float32, and are more of a model the smaller it is.
# The papers begin at 16 bits a weight and the models here at 32. Bounds leave room for the scales: of int8, one for each row.
OF_WEIGHTS = (
    Claim(
        "NF4 keeps a weight of a matrix in 4.5 bits, of 32",
        "2305.14314",
        "4.5 bits: 7.11 times fewer than 32",
        Side(ROPE, "forward"),
        Side(f"{QUANTIZED}:nf4", "forward"),
        above=7.0,
    ),
    Claim(
        "... and in 4.127 with magnitudes quantized too",
        "2305.14314",
        "4.127 bits: 7.75 times fewer",
        Side(ROPE, "forward"),
        Side(f"{QUANTIZED}:nf4_double", "forward"),
        above=7.5,
    ),
    Claim(
        "int8 codes alone keep it in a little over 8, as bitsandbytes has LLM.int8()",
        "2208.07339",
        "half of 16 bits: 4 times fewer",
        Side(ROPE, "forward"),
        Side(f"{QUANTIZED}:llm_int8_codes", "forward"),
        above=3.5,
    ),
)


def plan(selection: "Selection") -> Iterator[Cell]:
    """A cell for each implementation, case, dtype, form, batch and length."""
    return work.cells(selection, "memory")


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> Answer:
    """Bytes of a call that was judged, with what it must read and write at least."""
    check_compiled(cell)
    spec, question = contestant.spec, work.question(cell, contestant.spec)
    progress(0.1, "judging")
    wrong = judge.before_work(contestant, cell, question, work.small(spec, question), cell.seed)
    if wrong.outcome != OK:
        return replace(wrong, note=f"not weighed: {wrong.note.strip()}")
    progress(0.6, "weighing")
    values, got = contestant.costed("weighed", question)
    again = judge.at_work(contestant, question, values.pop("checked"), got)
    if again.outcome != OK:
        return replace(again, note=f"weighed it answers otherwise than judged: {again.note.strip()}")
    return Answer(OK, {**values, "flops": work.operations(spec, question), "bytes": work.moved(spec, question)})


def table(records: Sequence[Record]) -> "dict[str, pd.DataFrame]":
    """For each operator, and for language models together, peaks by length and the growth of peaks and states; then claims."""
    every = curves.of(records)
    of_each = {"peak_bytes": OF_PEAKS, "state_bytes": OF_STATES, "bits_per_weight": OF_WEIGHTS}
    said = [row for key, of in of_each.items() for row in claimed(of, every, key)]
    return curves.tables(every, "peak KiB by length, above the inputs", _row) | claims.table(said)


def _row(curve: Curve, group: Sequence[Curve]) -> dict[str, Any]:
    peaks = {n: of[0] for n, of in curve.samples("peak_bytes").items() if of}
    states = {n: of[0] for n, of in curve.samples("state_bytes").items() if of}
    row = curves.begun(curve, group, {n: round(peak / 1024, 1) for n, peak in peaks.items()})
    if not peaks:
        return row | {"note": curve.note}
    last = max(peaks)
    best = curves.standing(curve, "peak_bytes", group, last)
    row |= {"x best": None if best is None else round(best, 2), **curves.growth_of(curve, "peak_bytes", "memory")}
    if held := sum(curve.samples("held_bytes")[last]):
        row |= {"kept KiB": round(held / 1024, 1)}
    if states:
        growth = curves.growth_of(curve, "state_bytes", "state")
        row |= {"state KiB": round(states[max(states)] / 1024, 2), **{f"state {name}": told for name, told in growth.items()}}
    if weights := curve.samples("weights_bytes")[last]:
        row |= {"weights KiB": round(weights[0] / 1024, 1)}
    if bits := curve.samples("bits_per_weight")[last]:
        row |= {"bits a weight": round(bits[0], 3)}
    return row | {"note": curve.note or None}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Peaks over length, and states over the length of the text, log-log."""
    every = curves.of(records)
    peaks = curves.figures(every, "peak_bytes", "peak bytes above the inputs")
    states = curves.figures([curve for curve in every if curve.form == "step"], "state_bytes", "bytes from step to step")
    return {**peaks, **{f"{name} state": figure for name, figure in states.items()}}
