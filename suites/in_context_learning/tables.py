"""Records of in-context learning become rows: a row a model, and one each for the exact solver and the context-blind baseline.

Means, with half widths of 95 % intervals: over seeds, or over trials where there is one seed alone.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from harness import interval, parameters, readings
from harness.cell import OK, Cell, Record

from . import claims, comparison
from .baselines import BLIND, EXACT
from .remapping import FLIPS
from .scales import PROBES, SCALES, probe_of
from .training import TRAINED, TUNED

only_tells = True  # no record hangs on it

Rows = list[dict[str, Any]]


def of(records: Sequence[Record]) -> dict[str, Rows]:
    """The rows of every table, by its title."""
    tables: dict[str, Rows] = {}
    ordered = sorted(records, key=lambda r: (r.cell.settings["scale"], r.cell.device, r.cell.subject, r.cell.seed))
    for (scale, device), group in groupby(ordered, key=lambda r: (r.cell.settings["scale"], r.cell.device)):
        every = [_read(r) for r in group]
        good = [r for r in every if r.outcome == OK]
        where = (f", scale {scale}" if scale != "default" else "") + (f", on {device}" if device != "cpu" else "")
        tables |= {
            f"Score by probe (share right at its hardest; regression: variance explained{where})": _scores(every),
            f"Against the best model (score, paired over seeds; seed=0,1,2 and more resolve more; each as if compared alone, with"
            f" the best of the same data{where})": _differences(good),
            f"Multi-query associative recall (share right, by pairs to hold{where})": _details(good, "mqar"),
            f"Induction (share right, by period of the repeats{where})": _details(good, "induction"),
            f"In-context regression (error over that of predicting the mean, by points seen{where})": _details(
                good, "regression"
            ),
            f"In-context regression and least squares (error over that of least squares{where})": _over_least_squares(good),
            f"Languages of unseen automata (share of likeliest symbols that are permitted{where})": _details(good, "automata"),
            f"Flipped labels (share that agrees with whom, by labels flipped{where})": _flips(good),
            f"Symbol tuning (share right before and after{where})": _tuning(good),
            f"Claims of the papers (read from these records, in shares; {readings.RULE}{where})": readings.readings(
                good, claims.CLAIMS
            ),
            f"Training (the same rows and steps, parameters as noted; the best learning rate of each{where})": _training(good),
        }
    return {title: rows for title, rows in tables.items() if rows}


def _read(record: Record) -> Record:
    """With samples that are numbers alone: one of a row in which nothing is asked was stored as a word."""
    if record.outcome != OK:
        return record
    found = {
        stage: {name: interval.numbers(samples) for name, samples in columns.items()}
        for stage, columns in record.values["found"].items()
    }
    score = {stage: interval.numbers(samples) for stage, samples in record.values["score"].items()}
    return replace(record, values={**record.values, "found": found, "score": score})


def _scores(every: Sequence[Record]) -> Rows:
    """The one number of each probe, a row a model, and what did not come to a number."""
    rows: Rows = [{"model": model} for model in _by_model(every)] + [{"model": EXACT}, {"model": BLIND}]
    by_model = {row["model"]: row for row in rows}
    good = [r for r in every if r.outcome == OK]
    for probe in (name for name in PROBES if any(r.cell.case == name for r in every)):
        for row in rows:
            row |= _entry(probe, [])
        for about, own, stage in _groups(good, probe):
            by_model[about["model"]] |= _entry(probe, [r.values["score"][stage] for r in own])
    failed = [r for r in every if r.outcome != OK]
    for row in rows:
        own = [r for r in good if row["model"] in (r.cell.subject, EXACT, BLIND)]
        row["seeds"] = len({r.cell.seed for r in own})
        if failed:
            row["note"] = "; ".join(dict.fromkeys(r.in_brief for r in failed if r.cell.subject == row["model"]))
    return rows


def _differences(good: Sequence[Record]) -> Rows:
    """Each model beside the best one of a probe, seed by seed."""
    columns = ("probe", "model", "against", "seeds", "difference", "difference ±", "verdict")
    rows = []
    for probe in PROBES:
        models = _by_model(r for r in good if r.cell.case == probe)
        scores = {m: {r.cell.seed: interval.mean(r.values["score"][TRAINED]) for r in own} for m, own in models.items()}
        rows += [{"probe": probe, **row} for row in comparison.against_best(scores)]
    return [{name: row.get(name) for name in columns} for row in rows]


def _details(good: Sequence[Record], probe: str) -> Rows:
    """Every column that a probe measures."""
    rows = []
    for about, own, stage in _groups(good, probe):
        for name in _in_order(own[0].values["found"][stage]):
            about |= _entry(name, _samples(own, stage, name))
        rows.append(about)
    return rows


def _in_order(names: Iterable[str]) -> list[str]:
    """`period 8` before `period 12`: a store sorts names as texts."""
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _over_least_squares(good: Sequence[Record]) -> Rows:
    rows = []
    for about, own, stage in _groups(good, "regression"):
        for name in _in_order(own[0].values["found"][stage]):
            errors, least = (_samples(own, whose, name) for whose in (stage, EXACT))
            ratios = [interval.mean(e) / interval.mean(l) for e, l in zip(errors, least, strict=True)]
            about[name] = round(interval.mean(ratios), 1)
        rows.append(about)
    return rows


def _flips(good: Sequence[Record]) -> Rows:
    """Rows by model and by whose labels it is judged: those of the prior, or those that most of the context gives."""
    rows = []
    for about, own, stage in _groups(good, "remapping", (TRAINED, TUNED)):
        for whose in ("prior", "context"):
            row = {**about, "agrees with": f"the {whose}"}
            for percent in FLIPS:
                row |= _entry(f"{percent} %", _samples(own, stage, f"{whose}, {percent} %"))
            rows.append(row)
    return rows


def _tuning(good: Sequence[Record]) -> Rows:
    """Ordinary rows, flipped ones and held-out symbols, before symbol tuning and after."""
    columns = {
        "ordinary labels": "prior, 0 %",
        "all flipped": "context, 100 %",
        "held-out symbols, of two": "symbols, of two",
        "held-out symbols, of all tokens": "symbols, of all",
        "look-up": "look-up",
    }
    rows = []
    for about, own, stage in _groups(good, "remapping", (TRAINED, TUNED)):
        for column, name in columns.items():
            about |= _entry(column, _samples(own, stage, name))
        rows.append(about)
    return rows


def _training(good: Sequence[Record]) -> Rows:
    rows = []
    for probe in PROBES:
        for model, own in _by_model(r for r in good if r.cell.case == probe).items():
            for stage, first in own[0].values["training"].items() if "model" not in own[0].cell.settings else ():
                told = [r.values["training"][stage] for r in own]
                rows.append(
                    {
                        "probe": probe,
                        "model": model,
                        "stage": stage,
                        "parameters": own[0].values["parameters"],
                        "steps": first["steps"],
                        "learning rate": first["lr"],
                        "seeds": len(own),
                        "score of conformance": round(max(float(r.values["conformance"]) for r in own), 2),
                        "training bits per answer": round(interval.mean([t["bits_per_answer"] for t in told]), 3),
                        "time_s": round(interval.mean([t["time_s"] for t in told]), 1),
                        "note": parameters.note(own[0].values, _parameters(own[0].cell), first),
                    }
                )
    return rows


def _parameters(cell: Cell) -> int:
    """How many a model is to have, embedding and head included."""
    scale = SCALES[cell.settings["scale"]]
    return int(scale["parameters"] + 2 * probe_of(cell).v * scale["model"]["d"])


def _groups(
    good: Iterable[Record], probe: str, stages: Sequence[str] = (TRAINED,)
) -> Iterator[tuple[dict[str, Any], list[Record], str]]:
    """What a row begins with, its records (one a seed), and under which name they hold what it says."""
    own = [r for r in good if r.cell.case == probe]
    for model, mates in _by_model(own).items():
        for stage in stages:
            yield {"model": model, **({"after": stage} if len(stages) > 1 else {})}, mates, stage
    for baseline in (EXACT, BLIND) if own else ():
        # The same trials for all models, so one record of each seed says it.
        one_a_seed = list({r.cell.seed: r for r in own}.values())
        yield {"model": baseline, **({"after": ""} if len(stages) > 1 else {})}, one_a_seed, baseline


def _by_model(records: Iterable[Record]) -> dict[str, list[Record]]:
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(record.cell.subject, []).append(record)
    return models


def _samples(records: Iterable[Record], stage: str, name: str) -> list[list[float]]:
    """samples[seed][trial] of a column; a record made before the column was has none."""
    found: list[Mapping[str, list[float]]] = [r.values["found"][stage] for r in records]
    return [columns[name] for columns in found if name in columns]


def _entry(name: str, by_seed: Sequence[Sequence[float]]) -> dict[str, Any]:
    if not by_seed:
        return {name: None, f"{name} ±": None}
    middle, width = comparison.interval(by_seed)
    return {name: round(middle, 3) + 0.0, f"{name} ±": round(width, 3)}  # + 0.0: no minus zero
