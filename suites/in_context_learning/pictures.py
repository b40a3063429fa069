"""Curves of each probe over how hard it is, and of flipped labels over how many are flipped."""

import re
from collections.abc import Sequence
from typing import Any

from harness import pictures
from harness.cell import Record

from .remapping import FLIPS
from .training import TRAINED

only_tells = True  # no record hangs on it

# Of a probe: what its columns are over, and what they hold.
OVER = {
    "mqar": ("pairs to hold", "share recalled"),
    "induction": ("period of the repeats", "share right"),
    "regression": ("points seen", "error over that of predicting the mean"),
}


def of(good: Sequence[Record]) -> dict[str, Any]:
    """Figures by title, of the records of one scale."""
    found: dict[str, Any] = {}
    for probe, (place, label) in OVER.items():
        if own := [r for r in good if r.cell.case == probe]:
            log = "xy" if probe == "regression" else "x"
            chance = None if probe == "regression" else own[0].values["chance"]
            drawn = pictures.curves(
                own, lambda r: {_number(name): samples for name, samples in r.values["found"][TRAINED].items()}
            )
            found[probe] = pictures.figure(drawn, label, place, chance=chance, paired=False, log=log)
    if own := [r for r in good if r.cell.case == "remapping"]:
        drawn = pictures.curves(own, lambda r: {p: r.values["found"][TRAINED][f"prior, {p} %"] for p in FLIPS})
        place = "labels of the context that are flipped, %"
        found["flipped labels"] = pictures.figure(
            drawn, "agrees with what training taught", place, paired=False, log="", share=True
        )
    return found


def _number(column: str) -> int:
    """`8 pairs` is 8."""
    return int(re.findall(r"\d+", column)[0])
