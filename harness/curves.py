"""Records of a cost as curves over length, one for each implementation, case, form and dtype: fitted, ranked and drawn."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from harness import catalogue, clock, growth, report
from harness.cell import OK, Record
from harness.plan import outside

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

only_tells = True  # no record hangs on it

MODELS = "language models"
PER_PANEL = 9  # curves, as many as can be told apart
TIMED = ("seconds",)  # values that hang on what else ran meanwhile; what is counted does not


@dataclass(frozen=True)
class Curve:
    """What one implementation was measured to take, by length: the records, and those that have no number."""

    spec: str
    subject: str
    case: str
    form: str
    dtype: str
    batch: int
    device: str
    good: Mapping[int, Sequence[Record]]
    failed: Sequence[Record]

    @property
    def question(self) -> tuple[str, str, str, str, int]:
        """What is asked of everybody alike, but for the length."""
        return (self.group, self.case, self.form, self.dtype, self.batch)

    @property
    def group(self) -> str:
        """The spec of an operator; all language models are asked the same."""
        return MODELS if _of_modules(self.spec) else self.spec

    @property
    def name(self) -> str:
        """The implementation as a row or a line names it, under its spec."""
        return self.subject if self.group == MODELS else self.subject.partition("/")[2]

    def samples(self, key: str) -> dict[int, list[float]]:
        """Samples of a value by length, in the order of rounds; a single number is one sample."""
        return {n: samples(of, key) for n, of in self.good.items()}

    def measured(self, key: str) -> dict[int, list[float]]:
        """Samples of a value by length, of the lengths that have one."""
        return {n: of for n, of in self.samples(key).items() if of}

    def by_run(self, key: str) -> dict[str, dict[int, list[float]]]:
        """What was measured of a value, run by run, the last one first: only within a run is one time held against another. What
        is counted hangs on no run, and all of it stands together under no name."""
        if key not in TIMED:
            return {"": self.measured(key)}
        ended: dict[str, str] = {}
        for r in (r for of in self.good.values() for r in of):
            ended[r.run] = max(ended.get(r.run, ""), r.at)
        runs = sorted(ended, key=ended.__getitem__, reverse=True)
        return {run: replace(self, good=self._good_in(run)).measured(key) for run in runs}

    def _good_in(self, run: str) -> dict[int, list[Record]]:
        return {n: kept for n, of in self.good.items() if (kept := [r for r in of if r.run == run])}

    def fitted(self, key: str) -> growth.Fit | None:
        """The growth of a value, by the run that went to the greatest length: of such runs, the last."""
        fits = filter(None, map(_fit, self.by_run(key).values()))
        return max(fits, key=lambda found: found.lengths[-1], default=None)

    @property
    def note(self) -> str:
        """How the cells ended that have no number: said once where it is the same, or differs by numbers alone."""
        by_length = sorted(self.failed, key=lambda r: int(r.cell.settings["length"]))
        said = report.once(r.in_brief for r in by_length)
        lengths = list(dict.fromkeys(int(r.cell.settings["length"]) for r in by_length))
        where = f" (at {', '.join(f'{n:,}' for n in lengths)})" if said and self.good else ""
        return "; ".join(said) + where

    def declared(self, what: str) -> str:
        """The growth that the file of an operator declares (of time, step, memory, state); of a model, what its paper says."""
        if self.group == MODELS:
            return growth.CLAIMED.get(self.spec, {}).get(OF_PAPERS.get((what, self.form), ""), "")
        of_a_step = {"time": "step", "state": "state"}
        key = of_a_step.get(what, "") if self.form == "step" else what
        return self._grows.get(key, "")

    @property
    def _grows(self) -> Mapping[str, str]:
        """What the file of the implementation declares, as it is now; nothing where the file is gone."""
        records = [*(r for of in self.good.values() for r in of), *self.failed]
        with suppress(catalogue.NotFound, OSError):
            return catalogue.implementation(self.spec, records[0].cell.implementation).facts.get("grows", {})
        return {}


def _fit(samples: Mapping[int, Sequence[float]]) -> growth.Fit | None:
    """The growth of samples by length; rounds are the same number at each."""
    least = min(map(len, samples.values()), default=0)
    return growth.fit({str(n): of[:least] for n, of in samples.items()}) if least else None


OF_PAPERS = {
    ("time", "forward"): "prefill_s",
    ("time", "training"): "training_s",
    ("time", "step"): "step_s",
    ("memory", "training"): "training_bytes",
    ("state", "step"): "state_bytes",
}


def of(records: Iterable[Record]) -> list[Curve]:
    """The curves of some records, in the order of their questions."""

    def about(r: Record) -> tuple[Any, ...]:
        asked = r.cell.settings
        return (r.cell.spec, r.cell.case, asked["form"], r.cell.dtype, asked["batch"], r.cell.device, r.cell.subject)

    found = []
    for (spec, case, form, dtype, batch, device, subject), group in groupby(sorted(records, key=about), key=about):
        mates = sorted(group, key=lambda r: (r.cell.seed, r.cell.settings.get("round", 0)))
        good: dict[int, list[Record]] = {}
        for r in mates:
            if r.outcome == OK:
                good.setdefault(int(r.cell.settings["length"]), []).append(r)
        bad = [r for r in mates if r.outcome != OK]
        found.append(Curve(spec, subject, case, form, dtype, batch, device, dict(sorted(good.items())), bad))
    return sorted(found, key=lambda curve: curve.question)


def grouped(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves by the table that they belong to."""
    return {name: list(group) for name, group in groupby(curves, key=lambda curve: curve.group)}


def figures(curves: Sequence[Curve], key: str, label: str, times: float = 1.0) -> "dict[str, Figure]":
    """For each group a log-log picture of a value over length: a panel for each question, 95 % intervals of medians as bars."""
    return {name: figure for name, group in grouped(curves).items() if (figure := _figure(group, key, label, times))}


def _figure(group: Sequence[Curve], key: str, label: str, times: float) -> "Figure | None":
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = _panels(group, key)
    if not panels:
        return None
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    drawn, axes = pyplot.subplots(
        rows, columns, figsize=(1 + 4.2 * columns, 3.6 * rows), squeeze=False, sharey=True, layout="constrained"
    )
    names = sorted({curve.name for lines in panels.values() for curve in lines})
    colours = {name: matplotlib.colormaps["tab20"](i % 20) for i, name in enumerate(names)}  # the same in every panel
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for curve in lines:
            _draw(axis, curve, key, times, colours[curve.name])
        axis.set_title(title, fontsize=9)
        _label(axis, sorted({n for curve in lines for n in curve.good}))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel(label)
    pyplot.close(drawn)
    return drawn


def _panels(group: Sequence[Curve], key: str) -> dict[str, list[Curve]]:
    """The curves with a number by the title of their panel: one panel for each question that was asked at two lengths or more,
    and several where there are too many for one."""
    panels: dict[str, list[Curve]] = {}
    several = len({curve.case for curve in group}) > 1
    for question, mates in groupby(group, key=lambda curve: curve.question):
        lines = [curve for curve in mates if curve.measured(key)]
        if len({n for curve in lines for n in curve.measured(key)}) < 2:
            continue
        _, case, form, dtype, batch = question
        told = ", ".join(filter(None, [case if several else "", form, dtype, f"batch {batch}" if batch > 1 else ""]))
        for i in range(0, len(lines), PER_PANEL):
            part = f" ({i // PER_PANEL + 1})" if len(lines) > PER_PANEL else ""
            panels[told + part] = lines[i : i + PER_PANEL]
    return panels


def _draw(axis: Any, curve: Curve, key: str, times: float, colour: Any) -> None:
    samples = curve.measured(key)
    middles = [times * clock.middle(of) for of in samples.values()]
    intervals = [clock.interval(of) or (min(of), max(of)) for of in samples.values()]
    low = [max(0.0, m - times * i[0]) for m, i in zip(middles, intervals, strict=True)]
    high = [max(0.0, times * i[1] - m) for m, i in zip(middles, intervals, strict=True)]
    style = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 1, "capsize": 2}
    axis.errorbar(list(samples), middles, yerr=[low, high], label=curve.name, **style)


def _label(axis: Any, lengths: Sequence[int]) -> None:
    """Both logarithmic, with numbers that are read at once: 1,024 and 0.1, and no power of ten."""
    from matplotlib import ticker

    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{n:,}" for n in lengths], minor=False)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:,.6g}")
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_xlabel("length")
    axis.legend(fontsize=6, frameon=False)


def standing(curve: Curve, key: str, among: Sequence[Curve], at: int) -> float | None:
    """How many times the best of those that answered the same question in the same run it takes, at one length."""
    mates = [_middles(mate, key, at) for mate in among if mate.question == curve.question]
    ratios = []
    for run, middle in _middles(curve, key, at).items():
        rivals = [of[run] for of in mates if run in of]
        if len(rivals) > 1 and (middle == min(rivals) or min(rivals) > 0):  # of nothing, nothing is a multiple but itself
            ratios.append(middle / min(rivals) if middle else 1.0)
    return clock.middle(ratios) if ratios else None


def _middles(curve: Curve, key: str, at: int) -> dict[str, float]:
    """Medians at one length, run by run."""
    return {run: clock.middle(of[at]) for run, of in curve.by_run(key).items() if at in of}


def ratio(more: Sequence[float], less: Sequence[float]) -> tuple[float, float, float] | None:
    """The ratio of two medians, and the widest that the 95 % intervals of both allow; None where there is none."""
    if not more or not less or not clock.middle(less):
        return None
    (a_low, a_high), (b_low, b_high) = (clock.interval(of) or (min(of), max(of)) for of in (more, less))
    return clock.middle(more) / clock.middle(less), a_low / b_high, a_high / b_low if b_low else math.inf


def tables(
    curves: Sequence[Curve], unit: str, row: Callable[[Curve, Sequence[Curve]], dict[str, Any]]
) -> "dict[str, pd.DataFrame]":
    """For each group a table, with a row for each of its curves."""
    return {f"{name} ({unit})": frame([row(curve, group) for curve in group]) for name, group in grouped(curves).items()}


def begun(curve: Curve, group: Sequence[Curve], by_length: Mapping[int, float]) -> dict[str, Any]:
    """What every row begins with: whom it is about, and a number at each length that its group was asked."""
    lengths = sorted({n for mate in group for n in mate.good} | {int(r.cell.settings["length"]) for m in group for r in m.failed})
    about = {"case": curve.case, "form": curve.form, "batch": curve.batch, "dtype": curve.dtype, "implementation": curve.subject}
    return {**about, **{f"{n:,}": by_length.get(n) for n in lengths}}


def growth_of(curve: Curve, key: str, what: str) -> dict[str, str | None]:
    """The exponent of a value with its interval, the growth that is declared of it, and what the one says of the other."""
    found, declared = curve.fitted(key), curve.declared(what)
    return {"exponent": told(found), "declared": declared or None, "verdict": verdict(found, declared)}


def told(found: growth.Fit | None) -> str | None:
    """An exponent with its interval, as a table says it."""
    return between(found.exponent, found.interval, ".2f") if found else None


def verdict(found: growth.Fit | None, declared: str) -> str | None:
    """What the growth measured says of the growth declared."""
    return growth.verdict(found, declared) if declared else None


def between(middle: float, interval: tuple[float, float] | None, form: str) -> str:
    """A number with its interval; what is exact, or has none, stands alone."""
    if interval is None or interval[0] == interval[1]:
        return f"{middle:z{form}}"  # z: no zero is negative
    return f"{middle:z{form}} ({interval[0]:z{form}} to {interval[1]:z{form}})"


def frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a table, notes last; the batch is told where it is not one everywhere."""
    import pandas as pd

    found = pd.DataFrame(rows)
    found = found if "batch" not in found or (found["batch"] != 1).any() else found.drop(columns="batch")
    return found[[name for name in found.columns if name != "note"] + ["note"]]


def samples(records: Iterable[Record], key: str) -> list[float]:
    """All samples of a value, record by record; a single number is one sample, and what is not there is none."""
    values = [value for r in records if (value := r.values.get(key)) is not None]
    return [float(x) for value in values for x in (value if isinstance(value, list | tuple) else [value])]


@cache
def _of_modules(spec: str) -> bool:
    return not outside(spec) and catalogue.load_spec(spec).of_modules
