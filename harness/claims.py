"""Headline claims of papers about costs, each a ratio of two curves measured in one run, held against what was measured here.

A claim shows where the interval of the ratio lies wholly on the claimed side of its bound, is refuted where it lies wholly on the
other, and is not resolved where it does neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.curves import Curve, between, ratio

if TYPE_CHECKING:
    import pandas as pd

only_tells = True  # no record hangs on it


@dataclass(frozen=True)
class Side:
    """A curve at its longest length that both sides have, or at its shortest."""

    subject: str
    form: str
    case: str = "plain"
    shortest: bool = False


@dataclass(frozen=True)
class Claim:
    """That `more` over `less` is above, or below, a bound; `per_length` divides both by their lengths."""

    sentence: str
    source: str
    paper: str
    more: Side
    less: Side
    above: float | None = None
    below: float | None = None
    per_length: bool = False


def verdict(low: float, high: float, above: float | None = None, below: float | None = None) -> str:
    """What an interval says of the claim that a quantity is above one bound, below another, or both."""
    shows = (above is None or low > above) and (below is None or high < below)
    refuted = (above is not None and high <= above) or (below is not None and low >= below)
    return "shows" if shows else "refuted" if refuted else "not resolved"


def claimed(claims: Sequence[Claim], curves: Sequence[Curve], key: str) -> list[dict[str, Any]]:
    """A row for each claim of which both sides were measured."""
    rows = []
    for claim in claims:
        both = _together(_curve(curves, claim.more), _curve(curves, claim.less), key)
        if both is None:
            continue
        more, less = both
        lengths = sorted(set(more) & set(less))
        if claim.more.shortest or claim.less.shortest:
            lengths = []  # each at its own
        elif not lengths:
            continue
        a, b = (_at(of, side, lengths) for of, side in ((more, claim.more), (less, claim.less)))
        if a == b and claim.more.subject == claim.less.subject:
            continue
        found = ratio(more[a], less[b])
        if found is None:
            continue
        middle, low, high = (x * (b / a if claim.per_length else 1) for x in found)
        rows.append(
            {
                "claim": claim.sentence,
                "source": claim.source,
                "the paper's": claim.paper,
                "ratio here": between(middle, (low, high), ".3g"),
                "of": f"{_told(claim.more, a)} over {_told(claim.less, b)}" + (", per token" if claim.per_length else ""),
                "here": verdict(low, high, claim.above, claim.below),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> "dict[str, pd.DataFrame]":
    """The rows under their title; no row makes no table."""
    import pandas as pd

    return {"What the papers claim": pd.DataFrame(rows)} if rows else {}


def _curve(curves: Sequence[Curve], side: Side) -> Curve | None:
    asked = (side.subject, side.form, side.case, "float32", 1)
    return next((c for c in curves if (c.subject, c.form, c.case, c.dtype, c.batch) == asked), None)


def _together(more: Curve | None, less: Curve | None, key: str) -> tuple[dict[int, list[float]], dict[int, list[float]]] | None:
    """What was measured of both, by the run that asked them over the widest range of lengths: of such runs, the last."""
    if more is None or less is None:
        return None
    others = less.by_run(key)
    pairs = [(of, others[run]) for run, of in more.by_run(key).items() if of and others.get(run)]
    return max(pairs, key=lambda pair: math.prod(max(of) / min(of) for of in pair), default=None)


def _at(of: dict[int, list[float]], side: Side, lengths: Sequence[int]) -> int:
    known = lengths or sorted(of)
    return known[0] if side.shortest else known[-1]


def _told(side: Side, n: int) -> str:
    return f"{side.subject} {side.form} at {n:,}"
