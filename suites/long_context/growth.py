"""Growth with length: time and bytes of a training step, of prefill and of generation, as exponents beside what the papers say.

The models are untrained, with the sizes of the scale: neither time nor memory hangs on values here. Lengths double from the
training length on, until a call takes too long. Exponents are fitted as in `harness.growth`. Nothing is said where
the lengths end before 16 times the training length: models work in chunks, and may be quadratic within one.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Unsupported, asking, clock, memory, terms
from harness.cell import Cell, Record
from harness.growth import ATTENTION, CLAIMED, fit, verdict
from harness.implementation import Implementation

from . import pictures as drawing
from . import rows
from .scales import SCALES, scale_of

BATCH = 8  # of generation: with one row, what a step costs beside its state hides the state
LARGEST = 2 * 2**30  # bytes that a call may need at its peak
FAR_TIMES = 16  # training lengths, to which growth must be measured for a verdict
QUANTITIES = {
    "prefill_s": "Time of prefill (seconds; forward without gradients, one row, one thread)",
    "training_s": "Time of a training step (seconds; forward and backward, one row, one thread)",
    "step_s": f"Time of a step of generation (seconds, after so many bytes; {BATCH} rows at once, one thread)",
    "prefill_bytes": "Peak memory of prefill (bytes above what was there before)",
    "training_bytes": "Peak memory of a training step (bytes above what was there before, gradients included)",
    "state_bytes": "State of generation (bytes of a row, after so many bytes)",
}


def allows_far(spec: str) -> bool:
    """Whether the papers say that the cost of an architecture grows less than quadratically: it can be asked far out."""
    return CLAIMED.get(spec, ATTENTION)["prefill_s"] != "N^2"


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core."""
    return 2.0 + 2.0 * float(scale_of(cell)["growth_s"])


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Samples by length of each quantity, and by quantity why it ends where it does; on one thread."""
    with clock.on_threads(1):
        return _measured(cell, contestant, progress)


def _measured(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    scale, rng = scale_of(cell), torch.Generator().manual_seed(cell.seed)
    model, length = untrained(cell, contestant), scale["length"]
    lengths = [length * 2**i for i in range(scale["growth_doublings"] + 1)]
    found: dict[str, Any] = {"length": length, "parameters": sum(p.numel() for p in model.parameters()), "ended": {}}

    def ids(rows: int, n: int) -> Tensor:
        return torch.randint(0, 128, (rows, n), generator=rng).to(cell.device)

    for i, (name, make) in enumerate((("prefill", prefill), ("training", training))):
        progress(i / 3, name)
        seconds, bytes_, ended = over_lengths(
            partial(_made, make, model, ids), lengths, scale["growth_s"], scale["growth_rounds"], cell.device
        )
        found |= {f"{name}_s": seconds, f"{name}_bytes": bytes_}
        found["ended"] |= {f"{name}_s": ended, f"{name}_bytes": ended}
    progress(2 / 3, "generation")
    seconds, bytes_, ended = generation(model, ids, lengths, scale["growth_s"], scale["growth_rounds"], length // 4, cell.device)
    found |= {"step_s": seconds, "state_bytes": bytes_}
    found["ended"] |= {"step_s": ended, "state_bytes": ended}
    return found


def untrained(cell: Cell, contestant: Implementation) -> nn.Module:
    """The model of a cell with the sizes it would be trained at, and its first values."""
    scale, giver = scale_of(cell), terms.giver_of(cell)
    first = contestant if giver == cell else Implementation.of(giver)
    sizes = terms.sizes_of(giver, first, {"v": 256, "t": scale["length"], **scale["model"]}, scale["parameters"])
    case = contestant.spec.case("plain", torch.float32, cell.device).resized(sizes | terms.options_of(cell))
    return terms.fresh(cell, case, cell.seed).eval()


def _made(make: Callable[[nn.Module, Tensor], Any], model: nn.Module, ids: Callable[[int, int], Tensor], n: int) -> Any:
    return make(model, ids(1, n + 1))


def prefill(model: nn.Module, ids: Tensor) -> Callable[[], Any]:
    """A call: all but the last of ids[1 n+1] at once, without gradients."""

    def call() -> Tensor:
        with torch.inference_mode():
            return model(ids[:, :-1])

    return call


def training(model: nn.Module, ids: Tensor) -> Callable[[], Any]:
    """A call: the loss of ids[1 n+1] and its gradients, made anew; without the optimizer, whose step does not hang on length."""
    model.zero_grad(set_to_none=True)

    def call() -> None:
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()

    return call


def over_lengths(
    make: Callable[[int], Callable[[], Any]], lengths: Sequence[int], limit_s: float, rounds: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, list[int]], str]:
    """By length: seconds of `rounds` calls, and bytes at the peak of one; then why longer ones were not asked, if they were not.

    `make(n)` gives a call with fresh inputs. Each length is warmed up. The next is asked where all rounds fit into the limit.
    """
    warmed: dict[int, float] = {}
    bytes_: dict[str, list[int]] = {}
    ended = ""
    for n in lengths:
        before = list(warmed.values())
        if before:
            steeper = min(4.0, max(2.0, before[-1] / before[-2])) if len(before) > 1 else 2.0
            if rounds * (sum(before) + steeper * before[-1]) > limit_s:
                ended = f"{n:,} would take over {limit_s:g} s"
                break
            if 4 * bytes_[str(n // 2)][0] > LARGEST:
                ended = f"{n:,} could need over {LARGEST:,} bytes"
                break
        try:
            warmed[n] = min(clock.warm(partial(make, n), device))
            bytes_[str(n)] = [memory.peak(make(n), device)]
        except Unsupported as reason:
            ended = f"unsupported: {reason}"
        except MemoryError:  # to count millions of allocations takes memory itself
            what = f"to count the allocations of {n:,}" if n in warmed else f"{n:,}"
            ended = f"{what} takes more memory than a cell may"
        if ended:
            warmed.pop(n, None)
            break
    samples = clock.interleaved({n: partial(make, n) for n in warmed}, rounds, device=device)
    return {str(n): [float(f"{s:.4g}") for s in of] for n, of in samples.items()}, bytes_, ended


@torch.inference_mode()
def generation(
    model: Any, ids: Callable[[int, int], Tensor], lengths: Sequence[int], limit_s: float, rounds: int, steps: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[int]], str]:
    """By bytes that went before: seconds of one step, the mean of so many `steps` on, in each round; bytes carried, a row; why it
    ends. The state is copied for each round, and was made byte by byte, for half the limit at most."""
    try:
        asking.check_stepwise(model)
    except Unsupported as reason:
        return {}, {}, f"unsupported: {reason}"
    own, states, state, ended = [*model.parameters(), *model.buffers()], {}, None, ""
    began = time.perf_counter()
    text = ids(BATCH, lengths[-1])
    for at in range(lengths[-1]):
        try:
            _, state = model.step(text[:, at], state)
        except Unsupported as reason:
            ended = f"unsupported: {reason}"
            break
        if at + 1 in lengths:
            states[at + 1] = copy.deepcopy(state)
            spent = time.perf_counter() - began
            if at + 1 < lengths[-1] and 2 * spent > limit_s / 2:
                ended = f"{2 * (at + 1):,} would take over {limit_s:g} s"
                break

    def make(n: int) -> Callable[[], Any]:
        kept, further = copy.deepcopy(states[n]), ids(BATCH, steps)

        def call() -> None:
            state = kept
            for column in further.unbind(1):
                _, state = model.step(column, state)

        return call

    carried = {str(n): [memory.kept_alive(of, besides=own) // BATCH] for n, of in states.items()}
    try:
        for n in states:
            clock.warm(partial(make, n), device)
    except Unsupported as reason:  # it ends within the steps that are timed
        return {}, carried, f"unsupported: {reason}"
    samples = clock.interleaved({n: partial(make, n) for n in states}, rounds, device=device)
    return {str(n): [float(f"{s / steps:.4g}") for s in of] for n, of in samples.items()}, carried, ended


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """A table for each quantity: values at three lengths, the exponent with its interval, the papers, and the verdict."""
    frames: dict[str, list[dict[str, Any]]] = {}
    for scale, of_scale in rows.by_scale(records):
        for model, of_model, failed in rows.by_model(of_scale):
            good = [r.values for r in of_model]
            claimed = CLAIMED.get(model["model"].partition("/")[0], {})
            for key, told in QUANTITIES.items():
                title = f"{told}{'' if scale == 'default' else f', scale {scale}'}"
                ended = [values["ended"][key] for values in good]
                asked = [values[key] for values in good]
                if key.endswith("bytes"):
                    asked = asked[:1]  # they are counted, and the same for every seed
                row = _row(asked, SCALES[scale]["length"], claimed.get(key, ""))
                of_claim = claimed.get("note", "") if row["verdict"] else ""
                source = claimed["source"] if key in claimed else None
                note = rows.note([*failed, *(said for said in ended if "unsupported" in said), of_claim])
                frames.setdefault(title, []).append({**model, **row, "arXiv": source, "note": note})
    return {title: pd.DataFrame(found) for title, found in frames.items()}


def _row(by_seed: Sequence[Mapping[str, Sequence[float]]], length: int, claimed: str) -> dict[str, Any]:
    pooled = {n: [x for of in by_seed for x in of[n]] for n in (by_seed[0] if by_seed else {}) if all(n in of for of in by_seed)}
    middles = {int(n): clock.middle(of) for n, of in pooled.items()}
    found = fit(pooled)
    low, high = found.interval if found and found.interval else (None, None)
    return {
        f"at {length}": _short(middles.get(length)),
        f"at {8 * length}": _short(middles.get(8 * length)),
        "longest": max(middles, default=None),
        "at longest": _short(middles[max(middles)]) if middles else None,
        "exponent": found and round(found.exponent, 2),
        "low": None if low is None else round(low, 2),
        "high": None if high is None else round(high, 2),
        "the papers": claimed or None,
        "verdict": verdict(found, claimed, FAR_TIMES * length) if claimed and middles else None,
    }


def _short(value: float | None) -> float | None:
    """Three digits of seconds, all of bytes."""
    return value if value is None or isinstance(value, int) else float(f"{value:.3g}")


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """A figure for each quantity and scale: medians against length, both in logarithms."""
    found = {}
    for scale, mates in rows.by_scale(rows.good(records)):
        where = "" if scale == "default" else f" {scale}"
        for key, told in QUANTITIES.items():
            medians = [
                replace(r, values={key: {n: [clock.middle(of)] for n, of in r.values[key].items() if clock.middle(of) > 0}})
                for r in mates
            ]
            label = f"{told.partition(' (')[0]}, {'seconds' if key.endswith('_s') else 'bytes'}"
            title = f"growth {key.replace('_', ' ')}{where}"
            found[title] = drawing.figure(medians, key, label, SCALES[scale]["length"], paired=False, log=True)
    return found
