"""How many bytes does it need? The peak of forward, training and a step of decoding over length, and what goes from step to step.

Peaks are counted by torch's own allocator, above the inputs; they hang on no clock and on no other process, so each cell is asked
once, and gates exactly. What is weighed is judged first, as in suite=speed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness import curves, judge, work
from harness.cell import OK, Answer, Cell, Record
from harness.claims import Claim, Side, claimed
from harness.curves import Curve
from harness.implementation import Implementation, check_compiled
from harness.plan import Selection

settings = {"scale": "default", "form": "*", "length": "*", "batch": "1", "threads": 1}
choices = {"scale": ("smoke", "default", "full")}
limits = {"timeout": 300.0, "memory": 16.0}
isolated = True

FLASH, PLAIN = "attention/torch_sdpa:flash", "attention/plain"
ROPE, RETNET = "transformer_rope/torch_sdpa", "retnet/torch_parallel"
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


def plan(selection: Selection) -> Iterator[Cell]:
    """A cell for each implementation, case, dtype, form, batch and length."""
    return work.cells(selection, "memory")


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes."""
    return 0.5 + (cell.settings["length"] / 1024) ** 2 * (1.5 if cell.settings["form"] == "training" else 0.5)


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


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """For each operator, and for language models together, peaks by length and the growth of peaks and states; then claims."""
    every = curves.of(records)
    frames = {
        f"{name} (peak KiB by length, above the inputs)": curves.frame([_row(curve, group) for curve in group])
        for name, group in curves.grouped(every).items()
    }
    kinds = ((OF_PEAKS, "peak_bytes"), (OF_STATES, "state_bytes"))
    if rows := [row for claims, key in kinds for row in claimed(claims, every, key)]:
        frames["What the papers claim"] = pd.DataFrame(rows)
    return frames


def _row(curve: Curve, group: Sequence[Curve]) -> dict[str, Any]:
    peaks = {n: of[0] for n, of in curve.samples("peak_bytes").items() if of}
    states = {n: of[0] for n, of in curve.samples("state_bytes").items() if of}
    lengths = sorted({n for mate in group for n in mate.good} | {int(r.cell.settings["length"]) for m in group for r in m.failed})
    row: dict[str, Any] = {
        "case": curve.case,
        "form": curve.form,
        "batch": curve.batch,
        "dtype": curve.dtype,
        "implementation": curve.subject,
    }
    row |= {f"{n:,}": round(peaks[n] / 1024, 1) if n in peaks else None for n in lengths}
    if not peaks:
        return row | {"note": curve.note}
    last = max(peaks)
    best = curves.standing(curve, "peak_bytes", group, last)
    row |= {
        "x best": None if best is None else round(best, 2),
        "exponent": curves.told(curve.fitted("peak_bytes")),
        "declared": curve.declared("memory") or None,
        "verdict": curves.verdict(curve.fitted("peak_bytes"), curve.declared("memory")),
    }
    if states:
        row |= {
            "state KiB": round(states[max(states)] / 1024, 2),
            "state exponent": curves.told(curve.fitted("state_bytes")),
            "state declared": curve.declared("state") or None,
            "state verdict": curves.verdict(curve.fitted("state_bytes"), curve.declared("state")),
        }
    return row | {"note": curve.note or None}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Peaks over length, and states over the length of the text, log-log."""
    every = curves.of(records)
    peaks = curves.figures(every, "peak_bytes", "peak bytes above the inputs")
    states = curves.figures([curve for curve in every if curve.form == "step"], "state_bytes", "bytes from step to step")
    return {**peaks, **{f"{name} state": figure for name, figure in states.items()}}
