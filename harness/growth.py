"""How a cost grows with length: the exponent of a fit with its interval, and a verdict on the growth that somebody declares.

The exponent is the slope of a straight line through the three longest lengths, in logarithms: least squares in each round, and
the median of these slopes with its 95 % interval. Declared growth is an upper bound, of lengths without end: what is measured can
confirm it, or refute it where it is steeper and does not flatten. Flatter growth refutes nothing: what is constant may hide the
rest. Nor does one jump after growth as declared: there a cache ends, or the system begins to hand out memory page by page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness import clock

FITTED = 3  # longest lengths, through which the line goes
TOLERANCE = 0.15  # of an exponent
BENDS = 0.05  # exponent of the last doubling above or below that of the one before
JUMPS = 0.75  # the same, where it is no bend
GROWTHS: dict[str, Callable[[float], float]] = {
    "1": lambda n: 1.0,
    "N": lambda n: n,
    "N log N": lambda n: n * math.log(n),
    "N^(4/3)": lambda n: n ** (4 / 3),
    "N^2": lambda n: n**2,
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


@dataclass(frozen=True)
class Fit:
    """An exponent, its 95 % interval (None: too few rounds), its lengths, and the slopes between these."""

    exponent: float
    interval: tuple[float, float] | None
    lengths: tuple[int, ...]
    slopes: tuple[float, float]

    @property
    def bend(self) -> float:
        """By how much slopes rise along the lengths."""
        return self.slopes[1] - self.slopes[0]


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
    first, last = (slope(lengths[i : i + 2], middles[i : i + 2]) for i in range(2))
    exponent = clock.middle(slopes)
    interval = (exponent, exponent) if len(slopes) == 1 else clock.interval(slopes)
    return Fit(exponent, interval, lengths, (first, last))


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
        if found.slopes[0] <= wanted + TOLERANCE and found.bend > JUMPS:
            return "cannot tell: it jumps at the last length"
        return "cannot tell: it flattens still" if found.bend < -BENDS else "refuted: it grows faster"
    if high < wanted - TOLERANCE:
        return "cannot tell: it steepens still" if found.bend > BENDS else "cannot tell: slower so far"
    return "cannot tell: the interval is too wide"
