"""Curves of language models: those that answer the same question share a panel, and RoPE is in each, dashed.

Bands are 95 % intervals: of the change since the first point where samples are paired, or of the mean.
"""

from collections.abc import Callable, Mapping, Sequence
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

Curve = dict[int, dict[int, list[float]]]  # by place, by seed: the samples


def curves(records: Sequence[Record], points: Callable[[Record], Mapping[int, Any]]) -> dict[str, Curve]:
    """By short name of a model, the samples of its records that are ok; `points` gives them by place, or a sentence there."""
    found: dict[str, Curve] = {}
    for record in records:
        if record.outcome == OK:
            curve = found.setdefault(short(record.cell.subject), {})
            for place, samples in points(record).items():
                if not isinstance(samples, str):
                    curve.setdefault(place, {})[record.cell.seed] = samples
    return {name: curve for name, curve in found.items() if curve}


def figure(
    of: Mapping[str, Curve],
    label: str,
    place: str,
    line: int | None = None,
    chance: float | None = None,
    paired: bool = True,
    log: str = "x",
    share: bool = False,
    beside: Mapping[str, Mapping[int, float]] | None = None,
) -> "Figure":
    """Means over all samples of all seeds, against a `place`, which is said under each axis.

    `line` is where training ends; `chance` a value; `log` names the logarithmic axes. `paired` says that sample i is of the same
    question at every place. What has a chance is not. That, and a `share`, ends at 0 and 1, whatever an interval says. What
    stands `beside` a curve, a number by place, is dotted.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = _panels(of)
    wide = max(1, len(panels))
    drawn, axes = pyplot.subplots(1, wide, figsize=(1 + 3.6 * wide, 4.8), sharey=True, squeeze=False, layout="constrained")
    for axis, (title, found) in zip(axes[0], panels.items(), strict=False):
        _scale(axis, log)
        if ANCHOR in of:
            axis.plot(*_line(of[ANCHOR]), color="black", linestyle="--", label=ANCHOR)
        for name, curve in found.items():
            _draw(axis, name, curve, paired and chance is None, (beside or {}).get(name, {}))
        if line is not None:
            axis.axvline(line, color="gray", linewidth=0.8)
        if chance is not None:
            axis.axhline(chance, color="gray", linewidth=0.8, linestyle=":")
        axis.set_title(title)
        axis.set_xlabel(f"{place}; the line is the training length" if line is not None and axis is axes[0][0] else place)
        axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # below, on no line
    middles = [y for curve in of.values() for y in _line(curve)[1]]
    if share or chance is not None:
        axes[0][0].set_ylim(-0.03, 1.03)
    elif "y" in log and middles and min(middles) > 0:
        axes[0][0].set_ylim(min(middles) / 2, max(middles) * 2)  # bands may reach down to nothing
    axes[0][0].set_ylabel(label)
    pyplot.close(drawn)
    return drawn


def _scale(axis: Any, log: str) -> None:
    if "x" in log:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1024:g}k" if x >= 1024 and not x % 1024 else f"{x:,.6g}")
    if "y" in log:
        axis.set_yscale("log")


def _panels(of: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """The curves of each panel that has some; those of no other stand together."""
    panel = {name: title for title, names in PANELS.items() for name in names.split()}
    found: dict[str, dict[str, Curve]] = {title: {} for title in (*PANELS, "others")}
    for name, curve in of.items():
        if name != ANCHOR:
            found[panel.get(name.partition(":")[0], "others")][name] = curve
    return {title: curves for title, curves in found.items() if curves}


def _draw(axis: Any, name: str, curve: Curve, paired: bool, beside: Mapping[int, float]) -> None:
    """A line in its band, and what stands beside it."""
    x, middle = _line(curve)
    (line,) = axis.plot(x, middle, marker="o", markersize=3, label=name)
    low, high = ([y + sign * w for y, w in zip(middle, _widths(curve, paired), strict=True)] for sign in (-1, 1))
    if axis.get_yscale() == "log":  # which has no zero: a band that would reach it goes as far down as up
        low = [b if b > 0 or not t else y * y / t for b, y, t in zip(low, middle, high, strict=True)]
    axis.fill_between(x, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axis.plot(list(beside), list(beside.values()), linestyle=":", linewidth=1, color=line.get_color())


def _line(curve: Curve) -> tuple[list[int], list[float]]:
    return sorted(curve), [interval.mean([interval.mean(x) for x in curve[place].values()]) for place in sorted(curve)]


def _widths(curve: Curve, paired: bool) -> list[float]:
    """Half widths of intervals: of the change since the first context where samples are paired. A single sample has none."""
    first = curve[min(curve)]
    widths = []
    for place in sorted(curve):
        of = curve[place]
        if paired:
            of = {seed: [a - b for a, b in zip(of[seed], first[seed], strict=True)] for seed in of.keys() & first.keys()}
        single = not of or min(map(len, of.values())) < 2
        widths.append(0.0 if single else interval.of_trials_and_seeds(list(of.values()))[1])
    return widths
