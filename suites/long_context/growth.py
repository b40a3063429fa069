"""Growth with length: time and bytes of a training step, of prefill and of generation, as exponents beside what the papers say.

The models are untrained, with the sizes of the scale: neither time nor memory hangs on values here. Lengths double from the
training length on, until a call takes too long for the budget. The exponent is the slope of a straight line through the three
longest lengths, in logarithms: least squares in each round of the clock, which visits all lengths, and the median of these slopes
with its 95 % interval. What papers say are upper bounds, of lengths without end: growth at these lengths can confirm them, or
refute them where it is steeper and does not flatten. Flatter growth refutes nothing, for what is constant may hide the rest. Nor
does any where the lengths end before 16 times the training length: models work in chunks, and may be quadratic within one.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Unsupported, clock, memory, terms
from harness.cell import Cell, Record
from harness.implementation import Implementation

from . import pictures as drawing
from . import rows
from .scales import SCALES, scale_of

BATCH = 8  # of generation: with one row, what a step costs beside its state hides the state
LARGEST = 2 * 2**30  # bytes that a call may need at its peak
FITTED = 3  # longest lengths, through which the line goes
TOLERANCE = 0.15  # of an exponent
BENDS = 0.05  # exponent of the last doubling above or below that of the one before
FAR_TIMES = 16  # training lengths, to which growth must be measured for a verdict
GROWTHS: dict[str, Callable[[float], float]] = {
    "1": lambda n: 1.0,
    "N": lambda n: n,
    "N log N": lambda n: n * math.log(n),
    "N^(4/3)": lambda n: n ** (4 / 3),
    "N^2": lambda n: n**2,
}
QUANTITIES = {
    "prefill_s": "Time of prefill (seconds; forward without gradients, one row, one thread)",
    "training_s": "Time of a training step (seconds; forward and backward, one row, one thread)",
    "step_s": f"Time of a step of generation (seconds, after so many bytes; {BATCH} rows at once, one thread)",
    "prefill_bytes": "Peak memory of prefill (bytes above what was there before)",
    "training_bytes": "Peak memory of a training step (bytes above what was there before, gradients included)",
    "state_bytes": "State of generation (bytes of a row, after so many bytes)",
}
# What the papers say of each architecture, with the arXiv numbers where they say it.
ATTENTION = {
    "prefill_s": "N^2",
    "training_s": "N^2",
    "step_s": "N",
    "training_bytes": "N^2",
    "state_bytes": "N",
    "source": "1706.03762 (table 1), 2307.08621 (table 1)",
}
BOUNDED = {"prefill_s": "N", "training_s": "N", "step_s": "1", "state_bytes": "1"}
CLAIMED: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        (
            "transformer_" + kind
            for kind in (
                "alibi",
                "interpolated",
                "learnable_sinusoidal",
                "learned",
                "nope",
                "quantized",
                "rope",
                "sinusoidal",
                "t5",
                "xpos",
            )
        ),
        ATTENTION,
    ),
    "transformer_window": {**BOUNDED, "source": "2310.06825"},
    "transformer_streaming": {**BOUNDED, "source": "2309.17453"},
    "transformer_lm_infinite": {**BOUNDED, "source": "2308.16137"},
    "retnet": {**BOUNDED, "training_bytes": "N", "source": "2307.08621 (table 1)"},
    "linear_transformer": {**BOUNDED, "training_bytes": "N", "source": "2006.16236"},
    "rwkv4": {**BOUNDED, "source": "2305.13048 (table 1)"},
    "lstm_lm": {**BOUNDED, "source": "1706.03762 (table 1)"},
    "rmt": {**BOUNDED, "source": "2304.11062"},
    "infinity_former": {**BOUNDED, "source": "2109.00301"},
    "aft_lm": {"prefill_s": "N", "training_s": "N", "training_bytes": "N", "source": "2105.14103 (table 1)"},
    "hyena_lm": {"prefill_s": "N log N", "training_s": "N log N", "step_s": "N", "source": "2302.10866, 2307.08621 (table 1)"},
    "megabyte": {
        "prefill_s": "N^(4/3)",
        "training_s": "N^(4/3)",
        "source": "2305.07185",
        "note": "the paper's patches grow as N^(1/3), those of this model do not",
    },
}


def allows_far(spec: str) -> bool:
    """Whether the papers say that the cost of an architecture grows less than quadratically: it can be asked far out."""
    return CLAIMED.get(spec, ATTENTION)["prefill_s"] != "N^2"


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core."""
    return 2.0 + 2.0 * float(scale_of(cell)["growth_s"])


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Samples by length of each quantity, and by quantity why it ends where it does; on one thread."""
    with clock.one_thread():
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
    make: Callable[[int], Callable[[], Any]], lengths: Sequence[int], budget_s: float, rounds: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, list[int]], str]:
    """By length: seconds of `rounds` calls, and bytes at the peak of one; then why longer ones were not asked, if they were not.

    `make(n)` gives a call with fresh inputs. Each length is warmed up. The next is asked where all rounds fit into the budget.
    """
    warmed: dict[int, float] = {}
    bytes_: dict[str, list[int]] = {}
    ended = ""
    for n in lengths:
        before = list(warmed.values())
        if before:
            steeper = min(4.0, max(2.0, before[-1] / before[-2])) if len(before) > 1 else 2.0
            if rounds * (sum(before) + steeper * before[-1]) > budget_s:
                ended = f"{n:,} would take over {budget_s:g} s"
                break
            if 4 * bytes_[str(n // 2)][0] > LARGEST:
                ended = f"{n:,} could need over {LARGEST:,} bytes"
                break
        try:
            warmed[n] = clock.warm(partial(make, n), device)
            bytes_[str(n)] = [memory.peak(make(n), device)]
        except Unsupported as reason:
            ended = f"unsupported: {reason}"
            warmed.pop(n, None)
            break
    samples = clock.interleaved({n: partial(make, n) for n in warmed}, rounds, device=device)
    return {str(n): [float(f"{s:.4g}") for s in of] for n, of in samples.items()}, bytes_, ended


@torch.inference_mode()
def generation(
    model: Any, ids: Callable[[int, int], Tensor], lengths: Sequence[int], budget_s: float, rounds: int, steps: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[int]], str]:
    """By bytes that went before: seconds of one step, the mean of so many `steps` on, in each round; bytes carried, a row; why it
    ends. The state is copied for each round, and was made byte by byte, for half the budget at most."""
    if not hasattr(model, "step"):
        return {}, {}, "unsupported: has no step form"
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
            if at + 1 < lengths[-1] and 2 * spent > budget_s / 2:
                ended = f"{2 * (at + 1):,} would take over {budget_s:g} s"
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


@dataclass(frozen=True)
class Fit:
    """An exponent, its 95 % interval (None: too few rounds), its lengths, and by how much slopes rise along them."""

    exponent: float
    interval: tuple[float, float] | None
    lengths: tuple[int, ...]
    bend: float


def fit(by_length: Mapping[str, Sequence[float]]) -> Fit | None:
    """The exponent of samples[round] by length; None where fewer than three lengths were measured. One sample each is exact."""
    lengths = tuple(sorted(map(int, by_length)))[-FITTED:]
    if len(lengths) < FITTED:
        return None
    rounds = list(zip(*(by_length[str(n)] for n in lengths), strict=True))
    if any(x <= 0 for of in rounds for x in of):
        return None
    slopes = [slope(lengths, of) for of in rounds]
    middles = [clock.middle(by_length[str(n)]) for n in lengths]
    local = [slope(lengths[i : i + 2], middles[i : i + 2]) for i in range(FITTED - 1)]
    exponent = clock.middle(slopes)
    interval = (exponent, exponent) if len(slopes) == 1 else clock.interval(slopes)
    return Fit(exponent, interval, lengths, local[-1] - local[-2])


def slope(lengths: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through the logarithms, by least squares."""
    x, y = [math.log(n) for n in lengths], [math.log(value) for value in values]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def verdict(found: Fit | None, claimed: str, far: int = 0) -> str:
    """Whether growth is as claimed: `confirmed` where the interval lies within TOLERANCE of the claim at these very lengths.

    Nothing is said of lengths that end before `far`.
    """
    if found is None:
        return f"cannot tell: fewer than {FITTED} lengths"
    if found.lengths[-1] < far:
        return f"cannot tell: measured up to {found.lengths[-1]:,} only"
    if found.interval is None:
        return "cannot tell: too few rounds"
    (low, high), wanted = found.interval, slope(found.lengths, [GROWTHS[claimed](n) for n in found.lengths])
    if wanted - TOLERANCE <= low and high <= wanted + TOLERANCE:
        return "confirmed"
    if low > wanted + TOLERANCE:
        return "cannot tell: it flattens still" if found.bend < -BENDS else "refuted: it grows faster"
    if high < wanted - TOLERANCE:
        return "cannot tell: it steepens still" if found.bend > BENDS else "cannot tell: slower so far"
    return "cannot tell: the interval is too wide"


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
