"""The memory tasks of the Recurrent Memory Transformer: is a fact of an early segment known in a late one, beyond the curriculum?

The rows are those of `facts`, the training that of `curriculum`. A language model answers at the last byte; an encoder, whose
whole output is one answer, takes part here alone. An exact solver and one that ignores the facts are asked beside each model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness import Unsupported, interval, parameters, readings
from harness import pictures as drawing
from harness.cell import Cell, Record
from harness.implementation import Implementation

from . import claims, curriculum, facts, rows
from .scales import SCALES, TIMES, scale_of, text_of

CONTRACTS = ("ids[b n]:int<v -> logits[b n v]", "ids[b n]:int<v -> logits[b v]")
EXACT, BLIND = "exact solver", "context-blind"
SEGMENTS = TIMES  # numbers of segments that are measured
ABOUT = {
    facts.MEMORIZE: ("Memorize", "a fact opens the first segment"),
    facts.DETECT: ("Detect and memorize", "a fact stands anywhere"),
    facts.REASON: ("Reason", "two facts stand anywhere, the answer takes both"),
}


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core."""
    return float(scale_of(cell)["memory"]["cost_s"])


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Train the model on the task or take its trained weights, ask it at each number of segments."""
    scale, corpus = scale_of(cell)["memory"], text_of(cell)
    done = curriculum.trained(cell, contestant, lambda share, doing: progress(0.9 * share, doing))
    asked = {"accuracy": done.watched(contestant.spec, cell.device), EXACT: facts.exact, BLIND: facts.blind}
    found: dict[str, dict[str, Any]] = {name: {} for name in asked}
    for i, segments in enumerate(SEGMENTS):
        progress(0.9 + 0.1 * i / len(SEGMENTS), f"{cell.case}, {segments} segments")
        for name, ask in asked.items():
            length = segments * scale["segment"]
            try:
                right = facts.right(cell.case, ask, corpus.held_out, length, scale["trials"], cell.seed)
            except Unsupported as reason:
                found[name][str(segments)] = str(reason)
            else:
                found[name][str(segments)] = right
    return {**found, "text": corpus.name, **parameters.counted(done.model, done.weights), "training": done.told}


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """The share right by segments of each task, a row a model and one each for the baselines; the claims; the training."""
    frames: dict[str, list[dict[str, Any]]] = {}
    papers: dict[str, list[dict[str, Any]]] = {}
    trainings: dict[str, list[dict[str, Any]]] = {}
    for on in rows.by_text(records):
        training = f"Training on the memory tasks (the same for all; the best of the rates; {on.where})"
        for task in (name for name in facts.NAMES if any(r.cell.case == name for r in on.records)):
            mates, title = [r for r in on.records if r.cell.case == task], _title(task, on)
            for model, good, failed in rows.by_model(mates):
                row, reasons = _row([r.values["accuracy"] for r in good])
                shown = {**model, **row, "seeds": len(good), "note": rows.note([*failed, *reasons])}
                frames.setdefault(title, []).append(shown)
                if good:
                    told = _training([r.values for r in good], SCALES[on.scale]["memory"])
                    trainings.setdefault(training, []).append({"task": task, **model, **told})
            frames[title] += _baselines(rows.good(mates))
        asked = claims.on_memory(len(SCALES[on.scale]["memory"]["curriculum"]), max(SEGMENTS))
        if claimed := readings.readings(on.records, asked):
            title = f"Claims of the papers on memory tasks (read from these records, in share right; {readings.RULE}; {on.where})"
            papers[title] = claimed
    return {title: pd.DataFrame(found) for title, found in (frames | papers | trainings).items()}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Figures by title: for each scale and task, the share right by segments."""
    found = {}
    for scale, good in rows.by_scale(rows.good(records)):
        where = "" if scale == "default" else f" {scale}"
        for task in (name for name in facts.NAMES if any(r.cell.case == name for r in good)):
            of = drawing.curves([r for r in good if r.cell.case == task], _by_segments)
            trained_on = len(SCALES[scale]["memory"]["curriculum"])
            found[f"{task}{where}"] = drawing.figure(
                of, f"share right, {task}; dotted is chance", "segments", trained_on, facts.CHANCE
            )
    return found


def _by_segments(record: Record) -> dict[int, Any]:
    return {int(segments): samples for segments, samples in record.values["accuracy"].items()}


def _title(task: str, on: rows.OnText) -> str:
    scale, (name, about) = SCALES[on.scale]["memory"], ABOUT[task]
    return (
        f"{name} (share right by segments of {scale['segment']} bytes, the question at their end; {about};"
        f" trained on up to {len(scale['curriculum'])}; chance {facts.CHANCE:g}; {on.where})"
    )


def _row(by_seed: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Share right by segments with half widths of intervals, and why there is none where there is none."""
    row: dict[str, Any] = {}
    reasons: list[str] = []
    for segments in map(str, SEGMENTS):
        row |= rows.entry(segments, [of[segments] for of in by_seed])
        reasons += rows.reasons(of[segments] for of in by_seed)
    return row, reasons


def _baselines(good: Sequence[Record]) -> list[dict[str, Any]]:
    """What the exact solver and the blind one get right: all models have the same rows, so one record of each seed says it."""
    one_a_seed = list({r.cell.seed: r.values for r in good}.values())
    return [
        {"model": baseline, **_row([values[baseline] for values in one_a_seed])[0], "seeds": len(one_a_seed), "note": ""}
        for baseline in ((EXACT, BLIND) if one_a_seed else ())
    ]


def _training(values: Sequence[Mapping[str, Any]], scale: Mapping[str, Any]) -> dict[str, Any]:
    told = [of["training"] for of in values]
    return {
        "parameters": values[0]["parameters"],
        "steps": told[0]["steps"],
        "learning rate": told[0]["lr"],
        "seeds": len(values),
        "score of conformance": round(max(float(of["score"]) for of in values), 2),
        "training bits per answer": round(interval.mean([t["bits_per_answer"] for t in told]), 3),
        "time_s": round(interval.mean([t["time_s"] for t in told]), 1),
        "note": parameters.note(values[0], scale["parameters"], told[0]),
    }
