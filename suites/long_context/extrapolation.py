"""Extrapolation on real text: bits per byte and recall at up to 16 times the training length, and how far back a byte matters."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import pandas as pd
import torch

from harness import Unsupported, parameters, readings
from harness.cell import Cell, Record
from harness.implementation import Implementation
from harness.spec import Spec
from harness.watched import Watched

from . import bits_per_byte, claims, growth, recall, rows, training
from . import memory as effective_memory
from . import pictures as drawing
from .scales import FAR, SCALES, TIMES, longest, scale_of, text_of

OPENING = 16  # bytes of text before the facts of a trial of recall, more than any model here keeps as sinks
A_FACT = f"a fact is a byte: models of this size do not learn to copy a pass key; chance {recall.CHANCE:g}"  # as titles say it
MEMORY_TIMES = 4  # effective memory is measured in windows of so many training lengths


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core."""
    return float(scale_of(cell)["cost_s"])


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Train the model or take its trained weights, measure it beyond its training length."""
    scale, corpus = scale_of(cell), text_of(cell)
    done = training.trained(cell, contestant, lambda share, doing: progress(0.7 * share, doing))
    ask, length = done.watched(contestant.spec, cell.device), scale["length"]
    contexts = [times * length for times in TIMES]
    bits, by_position = bits_per_byte.measure(
        ask,
        corpus.held_out,
        contexts,
        length // 2,
        scale["windows"],
        lambda share, doing: progress(0.72 + 0.14 * share, doing),
        positions=True,
    )
    return {
        "text": corpus.name,
        "length": length,
        **parameters.counted(done.model, done.weights),
        "training": done.told,
        "bits_per_byte": {str(c): _rounded(b) for c, b in bits.items()},
        "by_position": {str(stop): _rounded(b) for stop, b in by_position.items()},
        "horizon": bits_per_byte.horizon(bits),
        **_further(cell, ask, lambda: progress(0.86, f"bits per byte at {FAR * length}")),
        "recall": _recalled(cell, ask, lambda share, doing: progress(0.89 + 0.08 * share, doing)),
        "influence": _influence(cell, ask, lambda: progress(0.97, "effective memory")),
        **_decay(cell, contestant.spec, done),
    }


def _further(cell: Cell, ask: Watched, begin: Callable[[], None]) -> dict[str, Any]:
    """Bits per byte at the farthest context, of models whose cost allows it."""
    if not growth.allows_far(cell.spec):
        return {}
    begin()
    scale, length = scale_of(cell), scale_of(cell)["length"]
    found = bits_per_byte.further(ask, text_of(cell).held_out, longest(cell), FAR * length, length // 2, scale["windows"])
    return {"further": {**found, "bits": _rounded(found["bits"])}}


def _recalled(cell: Cell, ask: Watched, report: Callable[[float, str], None]) -> dict[str, list[float] | str]:
    """By distance, the share of questions answered rightly in each trial."""
    scale, found = scale_of(cell), {}
    distances = [scale["length"] // 2, *(times * scale["length"] for times in TIMES)]
    for i, distance in enumerate(distances):
        report(i / len(distances), f"recall at {distance}")
        try:
            found[str(distance)] = recall.right(ask, after_text(text_of(cell).held_out, distance, scale["trials"], cell.seed))
        except Unsupported as reason:
            found[str(distance)] = str(reason)
    return found


def _influence(cell: Cell, ask: Watched, begin: Callable[[], None]) -> dict[str, list[float]] | str:
    """By distance, the bits by which the answer changes with that byte."""
    begin()
    scale, documents = scale_of(cell), text_of(cell).held_out
    try:
        found = effective_memory.influence(ask, documents, MEMORY_TIMES * scale["length"], scale["memories"], cell.seed)
    except Unsupported as reason:
        return str(reason)
    return {str(k): [round(bits, 6) for bits in of] for k, of in found.items()}


def _decay(cell: Cell, spec: Spec, done: training.Trained) -> dict[str, Any]:
    """By distance, the share of a token that is left by the formula of the spec, where it has one."""
    case = spec.case("plain").resized(done.sizes)
    found = effective_memory.decay(spec, case, done.weights, MEMORY_TIMES * scale_of(cell)["length"])
    return {"decay": {str(k): float(f"{share:.6g}") for k, share in found.items()}} if found else {}


def _rounded(bits: list[float] | str) -> list[float] | str:
    return bits if isinstance(bits, str) else [round(x, 4) for x in bits]


def after_text(documents: Sequence[bytes], distance: int, count: int, seed: int) -> recall.Trials:
    """Trials of recall whose facts come after some text: to keep the very first bytes for ever is not to remember a fact."""
    given = recall.trials(documents, distance, count, seed)
    opening = torch.tensor(list(recall.plain(documents[0][:OPENING])))
    ids = torch.cat([opening.expand(len(given.ids), -1), given.ids], 1)
    return recall.Trials(ids, given.asked + OPENING, given.values)


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Bits per byte and horizon, recall, and training: a row a model; means over seeds, with half widths of 95 % intervals."""
    frames: dict[str, list[dict[str, Any]]] = {}
    for on in rows.by_text(records):
        length = SCALES[on.scale]["length"]
        held = {key for r in on.records for key in r.values}
        for model, good, failed in rows.by_model(on.records):
            for title, row in _rows(good, length, on.where, held).items():
                note = rows.note([*failed, row.pop("note", "")])
                frames.setdefault(title, []).append({**model, **row, "note": note})
        if claimed := readings.readings(on.records, claims.on_text(length)):
            frames[f"Claims of the papers (read from these records, in bits per byte; {readings.RULE}; {on.where})"] = claimed
    return {title: _without_empty(pd.DataFrame(found)) for title, found in frames.items()}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Figures by title: the curves of the two first tables, for each scale."""
    found = {}
    for scale, mates in rows.by_scale(rows.good(records)):
        length = SCALES[scale]["length"]
        where = "" if scale == "default" else f" {scale}"
        found[f"bits per byte{where}"] = drawing.figure(
            mates, "bits_per_byte", f"bits per byte of the last {length // 2}", length
        )
        if placed := [r for r in mates if "by_position" in r.values]:
            found[f"bits per byte by position{where}"] = drawing.figure(
                placed, "by_position", "bits per byte", length, paired=False
            )
        found[f"recall{where}"] = drawing.figure(mates, "recall", "share recalled", length, recall.CHANCE)
        if measured := [r for r in mates if isinstance(r.values.get("influence"), dict)]:
            found[f"effective memory{where}"] = drawing.influence(measured, length)
    return found


def _rows(good: Sequence[Record], length: int, where: str, held: Set[str]) -> dict[str, dict[str, Any]]:
    """By title, what each table says of a model; `held` names what any model of the table was measured in."""
    contexts = [times * length for times in TIMES]
    horizon = {"horizon": min((r.values["horizon"] for r in good), default=None)}
    further = _further_row(good, length) if "further" in held else {}
    position = f"Bits per byte by position (of windows of {max(contexts)}, every byte scored; {where})"
    faded = f"Analytic decay (share of a token left k bytes on, by formula: of the slowest head or channel of a layer; {where})"
    bits, recalled = (_over(good, key, at) for key, at in (("bits_per_byte", contexts), ("recall", [length // 2, *contexts])))
    return {
        f"Bits per byte at a context (its last {length // 2} bytes; trained at {length}; {where})": bits
        | further
        | horizon
        | {"note": rows.note([bits["note"], further.get("note", "")])},
        **({position: _by_position(good)} if "by_position" in held else {}),
        f"Recall of a fact after further bytes ({A_FACT}; {where})": recalled,
        (
            f"Effective memory (bits by which the next byte's distribution changes with the byte k back, in windows of"
            f" {MEMORY_TIMES * length}; {where})"
        ): _memory_row(good, length),
        **({faded: _decay_row(good)} if any("decay" in r.values for r in good) else {}),
        f"Training (the same for all; {where})": _training_row(good),
    }


def _over(good: Sequence[Record], key: str, distances: Sequence[int]) -> dict[str, Any]:
    """What is measured at each distance."""
    row: dict[str, Any] = {}
    reasons: list[str] = []
    for distance in map(str, distances):
        samples = [r.values[key][distance] for r in good]
        row |= rows.entry(distance, samples)
        reasons += rows.reasons(samples)
    return row | {"note": rows.note(reasons)}


def _by_position(good: Sequence[Record]) -> dict[str, Any]:
    """What is measured between positions of the longest window that a model reads."""
    told = [r.values.get("by_position", _before_this_table(r)) for r in good]
    measured = [of for of in told if not isinstance(of, str)]
    row: dict[str, Any] = {}
    start = 0
    for stop in sorted({int(stop) for of in measured for stop in of}):
        row |= rows.entry(f"{start} to {stop}", [of.get(str(stop)) for of in measured])
        start = stop
    return row | {"note": rows.note(rows.reasons(told))}


def _further_row(good: Sequence[Record], length: int) -> dict[str, Any]:
    """What changes from the longest context that all are asked to the farthest, in the windows that have both."""
    near = str(max(TIMES) * length)
    changes = [_change(r.values["further"], r.values["bits_per_byte"][near]) for r in good if "further" in r.values]
    return rows.entry(f"{FAR * length} less {near}", changes) | {"note": rows.note(rows.reasons(changes))}


def _change(further: Mapping[str, Any], near: list[float] | str) -> list[float] | str:
    """By window, the bits at the farthest context less those near it; or why there are none."""
    if isinstance(further["bits"], str) or isinstance(near, str):
        return further["bits"] if isinstance(further["bits"], str) else near
    return [bits - near[i] for i, bits in zip(further["windows"], further["bits"], strict=True)]


def _memory_row(good: Sequence[Record], length: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    said = [r.values.get("influence", _before_this_table(r)) for r in good]
    measured = [x for x in said if not isinstance(x, str)]
    for k in effective_memory.distances(MEMORY_TIMES * length):
        row |= {f"k = {k}": f"{bits_per_byte.mean([b for of in measured for b in of[str(k)]]):.1g}" if measured else None}
    return row | {"note": rows.note(rows.reasons(said))}


def _decay_row(good: Sequence[Record]) -> dict[str, Any]:
    known = [r.values["decay"] for r in good if "decay" in r.values]
    return {f"k = {k}": f"{bits_per_byte.mean([of[k] for of in known]):.3g}" for k in sorted(known[0], key=int)}


def _before_this_table(record: Record) -> str:
    return f"seed {record.cell.seed} was measured before this table was there"


def _training_row(good: Sequence[Record]) -> dict[str, Any]:
    if not good:
        return {}
    told = [r.values["training"] for r in good]
    return {
        "parameters": good[0].values["parameters"],
        "bytes": told[0]["bytes"],
        "seeds": len(good),
        "lr": told[0].get("lr"),
        "score of conformance": round(max(float(r.values["score"]) for r in good), 2),
        "training bits per byte": round(sum(t["bits_per_byte"] for t in told) / len(good), 3),
        "time_s": round(sum(t["time_s"] for t in told) / len(good), 1),
        "note": parameters.note(good[0].values, scale_of(good[0].cell)["parameters"], told[0]),
    }


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="note") if "note" in frame and not frame["note"].any() else frame
