"""How long does it take? Time of forward, training and a step of decoding over length, beside the machine's ceilings.

What is timed is judged first: in its named case with the rounding budget, then at the very sizes that are timed. The inputs that
are timed are drawn by a seed that nobody knows before; two of the timed answers, chosen by chance, are judged again. The cells of
all implementations are interleaved, each in a fresh process, `rounds` times over.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from harness import ceilings, claims, clock, curves, judge, work
from harness.catalogue import WrongRequest
from harness.cell import OK, WRONG, Answer, Cell, Record
from harness.claims import Claim, Side, claimed
from harness.cost import of_sample
from harness.curves import Curve
from harness.implementation import Implementation, check_compiled
from harness.isolated import Isolated

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Selection

settings = {"scale": "default", "form": "*", "length": "*", "batch": "1", "threads": 1, "rounds": 2}
choices = {"scale": ("smoke", "default", "full")}
limits = {"timeout": 300.0, "memory": 16.0, "workers": 1}
cost = work.cost
isolated = True  # what is timed stands in a process of its own, and the judge's clock runs beside its own
SLOWER_CLOCK, LOST_S = 0.05, 0.25  # by how much the clock over there may fall behind the judge's: a share, and seconds
# What may pass around a call beside its time; medians, which no other process moves. On a GPU caches are emptied meanwhile.
AROUND, AROUND_S = 0.05, {"cpu": 2e-4, "cuda": 2e-2}
MORE = 0.1  # threads at once beyond those given, in calls of LONG_S: what is shorter gains nothing by a second
LONG_S = 1e-3
AGAIN_S = 5.0  # of judging one timed answer: where it takes longer, the other is not judged
ONCE = {"prepare": "prepare_s", "first call": "first_s"}  # milliseconds of what is done once, by column

FLASH, PLAIN = "attention/torch_sdpa:flash", "attention/plain"
ROPE, STREAMING = "transformer_rope/torch_sdpa", "transformer_streaming/torch_blocks:four_sinks"
RETNET, LINEAR = "retnet/torch_parallel", "linear_transformer/torch_chunks"
RMT, MEGABYTE = "rmt/torch_sdpa", "megabyte/torch_sdpa"
CHUNKWISE, PARALLEL = "retention/chunkwise:chunk_64", "retention/parallel"
CLAIMS = (
    Claim(
        "fused attention is faster than attention that writes its scores to memory",
        "2205.14135",
        "up to 7.6 times (GPT-2, A100)",
        Side(PLAIN, "forward", case="causal"),
        Side(FLASH, "forward", case="causal"),
        above=1.0,
    ),
    Claim(
        "... and so is its training",
        "2205.14135",
        "2 to 4 times",
        Side(PLAIN, "training", case="causal"),
        Side(FLASH, "training", case="causal"),
        above=1.0,
    ),
    Claim(
        "a step of RetNet takes as long after a long text as after a short one",
        "2307.08621 (fig. 6)",
        "constant",
        Side(RETNET, "step"),
        Side(RETNET, "step", shortest=True),
        below=1.2,
    ),
    Claim(
        "a step with a cache of keys and values takes longer the longer the text",
        "2307.08621 (fig. 6)",
        "8.4 times slower than RetNet (7B, 8k)",
        Side(ROPE, "step"),
        Side(ROPE, "step", shortest=True),
        above=1.2,
    ),
    Claim(
        "retention in chunks trains faster than in parallel",
        "2307.08621 (table 4)",
        "-",
        Side(PARALLEL, "training"),
        Side(CHUNKWISE, "training"),
        above=1.0,
    ),
    Claim(
        "a step of linear attention takes constant time",
        "2006.16236",
        "constant",
        Side(LINEAR, "step"),
        Side(LINEAR, "step", shortest=True),
        below=1.2,
    ),
    Claim(
        "a rolling cache with sinks is faster than computing a sliding window anew for each token",
        "2309.17453 (fig. 10)",
        "up to 22.2 times",
        Side(ROPE, "forward", shortest=True),
        Side(STREAMING, "step"),
        above=1.0,
    ),
    Claim(
        "RMT is linear in the number of segments",
        "2304.11062",
        "exponent 1",
        Side(RMT, "forward"),
        Side(RMT, "forward", shortest=True),
        below=1.2,
        per_length=True,
    ),
    Claim(
        "MEGABYTE generates faster than a transformer that reads each byte",
        "2305.07185 (table 6)",
        "1.4 times, with 3.7 times the parameters",
        Side(ROPE, "step"),
        Side(MEGABYTE, "step"),
        above=1.0,
    ),
)


def plan(selection: "Selection") -> Iterator[Cell]:
    """A cell for each implementation, case, dtype, form, batch and length, in each round."""
    if not selection.settings["rounds"]:
        raise WrongRequest("rounds=0 asks nothing: each round times every cell once.\n  Try: rounds=2")
    return work.cells(selection, "speed", selection.settings["rounds"])


def measure(cell: Cell, contestant: Implementation | Isolated, progress: Callable[[float, str], None]) -> Answer:
    """Samples in seconds of a call that was judged, with what it must do at least and what this machine can do at most."""
    check_compiled(cell)
    spec, question = contestant.spec, work.question(cell, contestant.spec)
    limit = ceilings.here(cell.device, question.threads)
    progress(0.1, "judging")
    before = judge.before_work(contestant, cell, question, work.small(spec, question), cell.seed)
    if before.outcome != OK:
        return replace(before, note=f"not timed: {before.note.strip()}")
    progress(0.5, "timing")
    chance = random.SystemRandom()
    question = replace(question, seed=chance.randrange(2**32))
    began = time.perf_counter()
    values, got = contestant.costed("timed", question, chance.randrange(2**16))
    took = (contestant.heard if isinstance(contestant, Isolated) else time.perf_counter()) - began
    values |= {key: before.values[key] for key in ("first_s", "prepare_s")}
    if complaint := _clock_complaint(values, took, cell.device) or _threads_complaint(values, question.threads, cell.device):
        return Answer(WRONG, {}, complaint)
    progress(0.8, "judging what was timed")
    for i in (values["checked"], values["checked"] - 1):
        began = time.perf_counter()
        again = judge.at_work(contestant, question, i, of_sample(i, got))
        if again.outcome != OK:
            return replace(again, note=f"timed it answers otherwise than judged: {again.note.strip()}")
        if time.perf_counter() - began > AGAIN_S:
            break
    operations, moved = work.operations(spec, question), work.moved(spec, question)
    floor = ceilings.FLOOR * ceilings.here(cell.device, 0).floor_s(operations, moved)
    if min(values["seconds"]) < floor:
        floor = ceilings.FLOOR * ceilings.here(cell.device, 0, anew=True).floor_s(operations, moved)
    if min(values["seconds"]) < floor:
        return Answer(
            WRONG,
            {},
            f"faster than this machine can be: {min(values['seconds']):.3g} s for {operations:.3g} operations and {moved:.3g} "
            f"bytes, which take {floor:.3g} s at the fastest rates seen here",
        )
    told = {key: values[key] for key in ("seconds", "first_s", "prepare_s", "steady")} | {"seed": question.seed}
    held = {"flops": operations, "bytes": moved, "roofline_s": limit.roofline_s(operations, moved, cell.dtype)}
    return Answer(OK, {**told, **held, "score": before.values["score"], "ceilings": asdict(limit)})


def _clock_complaint(values: dict[str, Any], took: float, device: str) -> str:
    """What is wrong with times that the other process tells, by the clock of this one; nothing, as a rule."""
    seconds, lost = [values["prepare_s"], values["first_s"], values["whole_s"], *values["seconds"]], values["lost_s"]
    numbers = all(isinstance(s, int | float) for s in (*seconds, lost, values["at_once"]))
    if not values["seconds"] or not numbers or not all(0 < s < math.inf for s in seconds):
        return "its clock says what is no time"
    if values["whole_s"] < (1 - SLOWER_CLOCK) * took - LOST_S or sum(values["seconds"]) > took:
        return f"its clock is not the judge's: {values['whole_s']:.3g} s over there were {took:.3g} s here"
    usual = clock.middle(values["seconds"])
    if not abs(lost) <= AROUND * usual + AROUND_S[device]:
        return f"its clock is not the judge's: around a call of {usual:.3g} s pass {lost:.3g} s that it does not count"
    return ""


def _threads_complaint(values: dict[str, Any], threads: int, device: str) -> str:
    """What is wrong with how many threads work at once: of torch's or of whatever library, as many as are given."""
    long = device == "cpu" and clock.middle(values["seconds"]) >= LONG_S
    if not threads or not long or values["at_once"] <= threads + MORE:
        return ""
    return f"it works on {values['at_once']:.2g} threads at once where it was given {threads}; threads=0 gives it all cores"


def table(records: Sequence[Record]) -> "dict[str, pd.DataFrame]":
    """For each operator, and for language models together, a row an implementation and question; then the papers' claims."""
    every = curves.of(records)
    row = partial(_row, limits=_limits(every))
    return curves.tables(every, "milliseconds by length; medians", row) | claims.table(claimed(CLAIMS, every, "seconds"))


def _limits(every: Sequence[Curve]) -> dict[tuple[Any, ...], ceilings.Ceilings]:
    """By machine, device and threads, the highest of the ceilings that records carry; and the rate of operations that a judged
    cell reached is one that the machine can do. Bytes may come faster from its caches than from memory, which says nothing of it.
    """
    found: dict[tuple[Any, ...], ceilings.Ceilings] = {}
    for curve in every:
        for n, samples in curve.samples("seconds").items():
            middle = clock.middle(samples)
            for r in curve.good[n]:
                known = ceilings.Ceilings(**r.values["ceilings"])
                reached = replace(known, products={curve.dtype: r.values["flops"] / middle})
                found[_where(r)] = ceilings.highest(found.get(_where(r), known), ceilings.highest(known, reached))
    return found


def _where(r: Record) -> tuple[Any, ...]:
    return (r.machine, r.cell.device, r.cell.settings["threads"])


def _row(curve: Curve, group: Sequence[Curve], limits: Mapping[tuple[Any, ...], ceilings.Ceilings]) -> dict[str, Any]:
    samples = {n: of for n, of in curve.samples("seconds").items() if of}
    row = curves.begun(curve, group, {n: float(f"{1000 * clock.middle(of):.4g}") for n, of in samples.items()})
    if not samples:
        return row | {"note": curve.note}
    last = max(samples)
    middle, record = clock.middle(samples[last]), curve.good[last][0]
    restless = [f"{n:,}" for n, of in curve.good.items() if not all(r.values.get("steady", True) for r in of)]
    notes = [curve.note, f"never became steady (at {', '.join(restless)})" if restless else ""]
    between = clock.interval(samples[last])
    best = curves.standing(curve, "seconds", group, last)
    roofline_s = limits[_where(record)].roofline_s(record.values["flops"], record.values["bytes"], curve.dtype)
    return row | {
        "95 % of the last": f"{1000 * between[0]:.4g} to {1000 * between[1]:.4g}" if between else None,
        "x best": None if best is None else round(best, 2),
        "GFLOP/s": float(f"{record.values['flops'] / middle / 1e9:.3g}") if record.values["flops"] else None,
        "GB/s": float(f"{record.values['bytes'] / middle / 1e9:.3g}"),
        "of roofline": f"{roofline_s / middle:.1%}",
        **{name: float(f"{1000 * clock.middle([r.values[key] for r in curve.good[last]]):.3g}") for name, key in ONCE.items()},
        **curves.growth_of(curve, "seconds", "time"),
        "note": "; ".join(filter(None, notes)) or None,
    }


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Time over length, for each operator and for language models; and where all of it stands under the roofline."""
    every = curves.of(records)
    drawn: dict[str, Any] = curves.figures(every, "seconds", "milliseconds", 1000)
    known = [
        curve for curve in every if curve.form == "forward" and curve.good and curve.good[max(curve.good)][0].values["flops"]
    ]
    if found := _roofline(known):
        drawn["roofline"] = found
    return drawn


def _roofline(found: Sequence[Curve]) -> Any:
    """Operations a second against operations a byte, at the longest length, under what the machine can do."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    if not found:
        return None
    drawn, axis = pyplot.subplots(figsize=(9, 6), layout="constrained")
    limit = _limits(found)[_where(next(iter(next(iter(found[0].good.values())))))]
    spots = []
    for i, (name, group) in enumerate(curves.grouped(found).items()):
        last = [(curve.good[n := max(curve.good)][0].values, clock.middle(curve.samples("seconds")[n])) for curve in group]
        x = [values["flops"] / values["bytes"] for values, _ in last]
        y = [values["flops"] / middle for values, middle in last]
        spots += x
        shape = "x" if name == curves.MODELS else "osD"[i // 10 % 3]  # there are ten colours
        axis.plot(x, y, shape, markersize=5, label=name)
    for dtype in sorted({curve.dtype for curve in found}):
        top = limit.products[dtype]
        ridge = top / limit.copied
        line = [min(ridge / 8, *(x / 2 for x in spots)), ridge, max(2 * ridge, *(2 * x for x in spots))]
        axis.plot(line, [min(top, x * limit.copied) for x in line], color="black", linewidth=1)
        told = f"{dtype}, {limit.threads} thread{'s' * (limit.threads > 1)}" if limit.threads else f"{dtype}, all threads"
        axis.annotate(told, (line[-1], top), ha="right", va="bottom")
    axis.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="operations a second")
    axis.legend(fontsize=7, frameon=False, ncols=2, loc="lower right")
    pyplot.close(drawn)
    return drawn
