"""Curves of the long-context suite: models that answer the same question share a panel, and RoPE is in each, dashed.

Bands are 95 % intervals: of the change since the training length where all contexts are asked for the same bytes, or of the mean.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import interval
from harness.cell import OK, Record
from harness.readings import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

only_tells = True  # no record hangs on it

PANELS = {
    "positions": "nope learned sinusoidal learnable_sinusoidal alibi xpos t5",
    "after training": "interpolated lm_infinite streaming window",
    "weights in memory": "quantized",
    "other mixers": "retnet linear_transformer rwkv4 lstm_lm hyena_lm aft_lm",
    "segments and patches": "rmt rmt_encoder megabyte infinity_former hat",
}
ANCHOR = "rope"


def figure(
    good: Sequence[Record],
    key: str,
    label: str,
    length: int,
    chance: float | None = None,
    paired: bool = True,
    log: bool = False,
) -> "Figure":
    """Means over all samples of all seeds against the context or the distance in bytes; `log` where the values have no bounds.

    `paired` says that sample i is of the same bytes at every context. What has a chance is not.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = _curves(good, key)
    panels = {title: found for title, names in PANELS.items() if (found := _among(curves, names.split()))}
    known = {name for found in panels.values() for name in found} | {ANCHOR}
    if others := {name: curve for name, curve in curves.items() if name not in known}:
        panels["others"] = others
    drawn, axes = pyplot.subplots(
        1, max(1, len(panels)), figsize=(1 + 3.6 * max(1, len(panels)), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, found) in zip(axes[0], panels.items(), strict=False):
        if ANCHOR in curves:
            axis.plot(*_line(curves[ANCHOR]), color="black", linestyle="--", label=ANCHOR)
        for name, curve in found.items():
            x, middle = _line(curve)
            (line,) = axis.plot(x, middle, marker="o", markersize=3, label=name)
            widths = _widths(curve, paired=paired and chance is None)
            low, high = ([y + sign * w for y, w in zip(middle, widths, strict=True)] for sign in (-1, 1))
            axis.fill_between(x, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
        axis.axvline(length, color="gray", linewidth=0.8)
        if chance is not None:
            axis.axhline(chance, color="gray", linewidth=0.8, linestyle=":")
        axis.set_xscale("log", base=2)
        if log:
            axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("bytes; the line is the training length" if title == next(iter(panels)) else "bytes")
        axis.legend(fontsize=7, frameon=False)
    axes[0][0].set_ylabel(label)
    pyplot.close(drawn)
    return drawn


Curve = dict[int, dict[int, list[float]]]  # by context, by seed: the samples


def _curves(good: Sequence[Record], key: str) -> dict[str, Curve]:
    """By short name of the model."""
    curves: dict[str, Curve] = {}
    for record in good:
        if record.outcome == OK:
            curve = curves.setdefault(short(record.cell.subject), {})
            for context, samples in record.values[key].items():
                if not isinstance(samples, str):
                    curve.setdefault(int(context), {})[record.cell.seed] = samples
    return {name: curve for name, curve in curves.items() if curve}


def _among(curves: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: curve for name, curve in curves.items() if name.partition(":")[0] in names}


def _line(curve: Curve) -> tuple[list[int], list[float]]:
    return sorted(curve), [interval.mean([interval.mean(x) for x in curve[context].values()]) for context in sorted(curve)]


def _widths(curve: Curve, paired: bool) -> list[float]:
    """Half widths of intervals: of the change since the first context where samples are paired. A single sample has none."""
    first = curve[min(curve)]
    widths = []
    for context in sorted(curve):
        of = curve[context]
        if paired:
            of = {seed: [a - b for a, b in zip(of[seed], first[seed], strict=True)] for seed in of.keys() & first.keys()}
        single = not of or min(map(len, of.values())) < 2
        widths.append(0.0 if single else interval.of_trials_and_seeds(list(of.values()))[1])
    return widths
