"""Curves of the long-context suite over contexts or distances in bytes, with a line where training ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import interval, pictures
from harness.cell import Record

from . import memory

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


def influence(good: Sequence[Record], length: int) -> "Figure":
    """Effective memory by distance, and dotted what the analytic decay of a model, where it has one, would leave of it."""
    of = pictures.curves(good, lambda record: {int(k): bits for k, bits in record.values["influence"].items()})
    shares = pictures.curves(good, lambda r: {int(k): [share] for k, share in r.values.get("decay", {}).items()})
    expected = {}
    for name, curve in shares.items():
        at_once = interval.mean([interval.mean(bits) for bits in of[name][min(curve)].values()])
        left = {k: interval.mean([share for (share,) in seeds.values()]) for k, seeds in curve.items()}
        expected[name] = memory.expected(at_once, left)
    told = "bits of influence; dotted: by formula"
    return pictures.figure(of, told, "bytes back", length, paired=False, log="xy", beside=expected)
