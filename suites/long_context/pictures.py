"""Curves of the long-context suite over contexts or distances in bytes, with a line where training ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import pictures
from harness.cell import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

only_tells = True  # no record hangs on it


def figure(
    good: Sequence[Record],
    key: str,
    label: str,
    length: int,
    chance: float | None = None,
    paired: bool = True,
    log: bool = False,
) -> "Figure":
    """What records hold under a key, by context; `log` where the values have no bounds, `paired` and `chance` as there."""
    of = pictures.curves(good, lambda record: {int(context): samples for context, samples in record.values[key].items()})
    return pictures.figure(of, label, "bytes", length, chance, paired, "xy" if log else "x")
