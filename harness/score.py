"""The card of one implementation: where it stands in every suite, beside the best and the median of the field, as stored.

The field of a question are all who answered it on the same machine, itself included; of what a clock tells, in the same run. What
came to no number stands in a table of its own, and so does a suite in which nothing is stored. Loads no code under test.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from harness import catalogue, clock, interval, plan
from harness.cell import OK, OUTCOMES, UNSUPPORTED, Record
from harness.store import Store

if TYPE_CHECKING:
    import pandas as pd

FAR = 16  # times the training length
NOT_LEARNT = ("exact solver", "context-blind")  # what a probe is set beside
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Mark:
    """One number of one implementation, and the question that it answers; the field are the marks of the same question."""

    subject: str
    group: str  # among whom: a spec, or language models
    question: str
    value: float | None  # None: it came to no number, and has no place
    more: bool = False  # whether more is better
    run: str = ""  # in which it was measured, where only numbers of one run can be compared
    further: Mapping[str, Any] | None = None  # what else the row says
    shown: bool = True  # on its own card; the cards of others are set beside it anyway

    @property
    def field(self) -> tuple[str, str, str]:
        return (self.group, self.question, self.run)


def resolved(name: str, subjects: Iterable[str]) -> list[str]:
    """The subjects that a name stands for: `spec/impl:variant`, `spec/impl` with all its variants, `impl` of whatever spec."""
    known = list(dict.fromkeys(subjects))
    if found := [subject for subject in known if name in _names(subject)]:
        return found
    files = dict.fromkeys(subject.partition(":")[0] for subject in known)
    if of_spec := [file for file in files if file.startswith(f"{name}/")]:
        raise catalogue.NotFound(f"{name} is a spec: {', '.join(of_spec)} compute it.\n  Try: harness score {of_spec[0]}")
    alike = files if "/" in name else dict.fromkeys(file.partition("/")[2] for file in files)
    raise catalogue.NotFound(
        f"no implementation named {name!r}.{catalogue.suggestion(name, alike, 'harness list implementations')}"
    )


def registered() -> list[str]:
    """Every implementation of the registry with each of its variants."""
    return [
        name + (f":{variant}" if variant else "")
        for name, item in catalogue.implementations().items()
        for variant in item.facts.get("variants", {"": {}})
    ]


def stored(store: Store, machine: str) -> list[Record]:
    """The newest record of every cell that was asked on a machine."""
    return list({record.cell.key: record for record in store.read(machine=machine)}.values())


def tables(subjects: Sequence[str], records: Sequence[Record]) -> "dict[str, pd.DataFrame]":
    """The card of some subjects (the variants of one implementation, say) as tables by title."""
    import pandas as pd

    if len(machines := {record.machine for record in records}) > 1:
        raise ValueError(f"records of {len(machines)} machines are not mixed: {', '.join(sorted(machines))}")
    found: dict[str, Rows] = {}
    for suite, (title, marks) in SUITES.items():
        own = [record for record in records if record.cell.suite == suite]
        found[title] = _standing(subjects, list(marks(own)))
    found["What came to no number"] = list(_without(subjects, records))
    found["Nothing is stored"] = list(_missing(subjects, records))
    return {title: pd.DataFrame(rows, dtype=object) for title, rows in found.items() if rows}  # a count stays one beside a time


def _names(subject: str) -> set[str]:
    """`attention/plain:x` is also called `attention/plain`, `plain:x` and `plain`."""
    own = subject.partition("/")[2]
    return {subject, subject.partition(":")[0], own, own.partition(":")[0]}


def _standing(subjects: Sequence[str], marks: Sequence[Mark]) -> Rows:
    """A row for each mark of theirs: the number, the best of the field and whose it is, the median, and its place."""
    fields: dict[tuple[str, str, str], dict[str, float]] = {}
    for mark in marks:
        if mark.value is not None:
            fields.setdefault(mark.field, {})[mark.subject] = mark.value
    own = [mark for subject in subjects for mark in marks if mark.subject == subject and mark.shown]
    return [_row(mark, fields.get(mark.field, {})) for mark in own]


def _row(mark: Mark, field: Mapping[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"implementation": mark.subject, "question": mark.question, "its own": None}
    if field:
        best, middle = (max if mark.more else min)(field, key=lambda name: field[name]), statistics.median(field.values())
        row |= {"best": _short(field[best]), "by": best, "median": _short(middle)}
    if mark.value is not None:
        better = sum(value > mark.value if mark.more else value < mark.value for value in field.values())
        row |= {"its own": _short(mark.value), "x best": _ratio(mark.value, field[best]), "x median": _ratio(mark.value, middle)}
        row |= {"by": row["by"] if better else "itself", "place": f"{better + 1} of {len(field)}"}
    return row | dict(mark.further or {})


def _of_correctness(records: Sequence[Record]) -> Iterator[Mark]:
    """The worst score in each dtype, which whoever fails a cell has not, and how many cells ended how."""
    for (subject, spec, dtype), cells in _by(records, lambda r: (r.cell.subject, r.cell.spec, r.cell.dtype)):
        good = [r for r in cells if r.outcome == OK]
        further: dict[str, Any] = {"cells": _counted(cells)}
        if not good or any(r.outcome not in (OK, UNSUPPORTED) for r in cells):
            yield Mark(subject, spec, dtype, None, further=further)
        else:
            further |= {"grade": max(r.values["grade"] for r in good)}
            yield Mark(subject, spec, dtype, max(float(r.values["score"]) for r in good), further=further)


def _of_speed(records: Sequence[Record]) -> Iterator[Mark]:
    """Milliseconds at the longest length of each form, in the newest run of each."""
    yield from _of_curves(records, {"milliseconds": ("seconds", 1000.0)}, in_one_run=True)


def _of_memory(records: Sequence[Record]) -> Iterator[Mark]:
    """Bytes at the longest length of each form."""
    told = {"KiB at the peak": "peak_bytes", "KiB from step to step": "state_bytes", "KiB of weights": "weights_bytes"}
    yield from _of_curves(records, {name: (key, 1 / 1024) for name, key in told.items()})


def _of_curves(
    records: Sequence[Record], quantities: Mapping[str, tuple[str, float]], in_one_run: bool = False
) -> Iterator[Mark]:
    """The middle of the samples of each quantity; the card shows the longest length that was answered, in its newest run."""
    from harness import curves

    for scale, mates in _by(records, lambda r: r.cell.settings["scale"]):
        for curve in curves.of(mates):
            about = [curve.case if curve.case != "plain" else "", curve.form, curve.dtype if curve.dtype != "float32" else ""]
            about += [f"batch {curve.batch}" if curve.batch > 1 else "", _place(scale, curve.device)]
            for length, answers in curve.good.items():
                newest = max(answers, key=lambda r: r.at).run
                for run, of in _by(answers, lambda r: r.run if in_one_run else ""):
                    for unit, (key, times) in quantities.items():
                        if samples := curves.samples(of, key):
                            question = f"{', '.join(filter(None, about))}, at {length:,}: {unit}"
                            value, shown = times * clock.middle(samples), length == max(curve.good) and run in ("", newest)
                            yield Mark(curve.subject, curve.group, question, value, run=run, shown=shown)


def _of_kernels(records: Sequence[Record]) -> Iterator[Mark]:
    """For each target, the worst of all kernels, shapes and dtypes."""
    worst = {"registers": ("registers", 1.0), "spills": ("spills", 1.0), "KiB shared": ("shared_bytes", 1 / 1024)}
    for (subject, spec, target), cells in _by(records, lambda r: (r.cell.subject, r.cell.spec, r.cell.settings["target"])):
        kernels = [kernel for r in cells for kernel in r.values.values()]
        for name, (key, times) in worst.items() if kernels else ():
            further = {"kernels": len(kernels), "with tensor cores": sum(kernel["tensor_core"] > 0 for kernel in kernels)}
            yield Mark(subject, spec, f"{target}: {name}, the most", times * max(k[key] for k in kernels), further=further)


def _of_long_context(records: Sequence[Record]) -> Iterator[Mark]:
    """What each task tells first, at the training length or far beyond it, over all seeds."""
    tasks = list(OF_TASKS)
    good = [r for r in records if r.outcome == OK and r.cell.case in tasks]
    about = lambda r: (r.cell.subject, tasks.index(r.cell.case), r.cell.settings["scale"], r.cell.device)  # noqa: E731
    for (subject, at, *place), mates in _by(good, about):
        task = tasks[at]
        of_each = [OF_TASKS[task](r.values) for r in mates]
        for question in dict.fromkeys(question for found in of_each for question in found):
            samples = [float(x) for found in of_each for x in _numbers(found.get(question))]
            if samples:
                told = question if task == "extrapolation" else f"{task}: {question}"
                value, more = statistics.mean(samples), question.startswith("share")
                yield Mark(subject, "", ", ".join(filter(None, [told, _place(*place)])), value, more)


def _extrapolation(values: Mapping[str, Any]) -> dict[str, Any]:
    of = {"bits per byte": values["bits_per_byte"], "share recalled": values["recall"]}
    far = {times: str(times * values["length"]) for times in (1, FAR)}
    return {f"{name} at {times} x the training length": by.get(n) for times, n in far.items() for name, by in of.items()}


def _depth(values: Mapping[str, Any]) -> dict[str, Any]:
    """All depths together."""
    return {f"share recalled at {FAR} x the training length": values["recall"].get(str(FAR * values["length"]))}


def _streaming(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing of a stream that was left before its end."""
    if values["stopped"]:
        return {}
    last = values["bits"][-len(values["bits"]) // 4 :]
    return {"bits per byte over the last quarter": last, "bytes carried at the end": values["state_bytes"][-1:]}


def _memory_task(values: Mapping[str, Any]) -> dict[str, Any]:
    last = max(values["accuracy"], key=int)
    return {f"share right at {last} segments": values["accuracy"][last]}


# By task of suite=long-context: questions of its card, with the numbers of one record, nested as they are stored.
OF_TASKS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "extrapolation": _extrapolation,
    "depth": _depth,
    "streaming": _streaming,
    **dict.fromkeys(("memorize", "detect", "reason"), _memory_task),
}


def _numbers(stored: Any) -> Iterator[float]:
    """Every number of nested lists and mappings; a sentence in their place has none."""
    if isinstance(stored, int | float):
        yield stored
    elif isinstance(stored, Mapping | list):
        for part in stored.values() if isinstance(stored, Mapping) else stored:
            yield from _numbers(part)


def _of_in_context_learning(records: Sequence[Record]) -> Iterator[Mark]:
    """The score of each probe, over all seeds."""
    good = [r for r in records if r.outcome == OK]
    about = lambda r: (r.cell.subject, r.cell.case, r.cell.settings["scale"], r.cell.device)  # noqa: E731
    for (subject, probe, *place), mates in _by(good, about):
        for stage in dict.fromkeys(stage for r in mates for stage in r.values["score"] if stage not in NOT_LEARNT):
            samples = [x for r in mates for x in interval.numbers(r.values["score"].get(stage, ()))]
            question = ", ".join(filter(None, [probe, stage if stage != "trained" else "", _place(*place)]))
            yield Mark(subject, "", question, statistics.mean(samples), more=True)


SUITES: dict[str, tuple[str, Callable[[Sequence[Record]], Iterable[Mark]]]] = {
    "correctness": ("Correctness (worst score by dtype; up to 1 is grade A)", _of_correctness),
    "speed": ("Speed (at the longest length of each form)", _of_speed),
    "memory": ("Memory (at the longest length of each form)", _of_memory),
    "kernels": ("Kernels (as compiled for each target)", _of_kernels),
    "long-context": ("Long context", _of_long_context),
    "in-context-learning": ("In-context learning (score by probe; more is better)", _of_in_context_learning),
}


def _without(subjects: Sequence[str], records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """How cells ended that are not ok, and why: what it does not support, and what failed."""
    bad = [r for r in records if r.cell.subject in subjects and r.outcome != OK]
    for (subject, suite, outcome, note), mates in _by(
        bad, lambda r: (r.cell.subject, r.cell.suite, r.outcome, _first_line(r.note))
    ):
        cases = dict.fromkeys(" ".join(filter(None, (r.cell.case, r.cell.settings.get("form")))) for r in mates)
        yield {
            "implementation": subject,
            "suite": suite,
            "outcome": outcome.replace("_", " "),
            "cells": len(mates),
            "in": ", ".join(cases) if len(cases) <= 4 else f"{len(cases)} cases",
            "note": note,
        }


def command(suite: str, subjects: Iterable[str]) -> str:
    """What to type to have a suite ask these implementations."""
    files = [subject.partition(":")[0].partition("/") for subject in subjects]
    specs, names = (",".join(dict.fromkeys(file[i] for file in files)) for i in (0, 2))
    return f"harness run suite={suite} spec={specs} impl={names}"


def _missing(subjects: Sequence[str], records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Suites that would ask them something and have not, each with the command that asks."""
    for suite in catalogue.suites():
        asked = {record.cell.subject for record in records if record.cell.suite == suite}
        if left := [subject for subject in subjects if subject not in asked and _applies(suite, subject)]:
            yield {"suite": suite, "of": ", ".join(left), "run it": command(suite, left)}


def _applies(suite: str, subject: str) -> bool:
    """Whether a suite has cells for a subject."""
    spec, _, own = subject.partition("/")
    implementation, _, variant = own.partition(":")
    words = {"suite": suite, "spec": spec, "impl": implementation} | ({"variant": variant} if variant else {})
    try:
        return bool(plan.cells(*plan.selection(words)))
    except (plan.WrongRequest, catalogue.NotFound):
        return False


def _by(records: Iterable[Record], about: Callable[[Record], Any]) -> Iterator[tuple[Any, list[Record]]]:
    for key, mates in groupby(sorted(records, key=about), key=about):
        yield key, list(mates)


def _counted(cells: Sequence[Record]) -> str:
    counts = {outcome: sum(r.outcome == outcome for r in cells) for outcome in OUTCOMES}
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items() if count)


def _place(scale: str, device: str) -> str:
    """Said where it is not as by default."""
    return ", ".join([f"scale {scale}"] * (scale != "default") + [f"on {device}"] * (device != "cpu"))


def _first_line(note: str) -> str:
    return note.strip().partition("\n")[0].strip()


def _short(value: float) -> float:
    """To four digits, and all those before the point; whole numbers as they are."""
    if math.isfinite(value) and (abs(value) >= 1000 or value == int(value)):
        return round(value)
    return float(f"{value:.4g}")


def _ratio(value: float, to: float) -> float | None:
    return float(f"{value / to:.3g}") if to else None
