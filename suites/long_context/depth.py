"""The map of depth by length: recall of facts that stand so deep in windows of such a length.

A window is a trial of `recall` laid out by depth: some text that opens it, then text, the facts, text again, the questions. Depth
0 is right after the opening, depth 1 right before the questions. Windows of one length differ in where their facts stand alone.
A pass key, to be copied digit by digit, is not asked for: models of this size and training are at chance even in short windows.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from harness import Unsupported, interval, readings
from harness.cell import Cell, Record
from harness.implementation import Implementation

from . import recall, rows, training
from .extrapolation import A_FACT, OPENING
from .scales import SCALES, TIMES, scale_of, text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Bytes of a window that are no text to place facts in: the opening, facts, questions with answers.
ASKED = OPENING + 3 * recall.KEYS
COLUMNS = 6  # small maps side by side


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core, its training included."""
    scale = scale_of(cell)
    return float(scale["cost_s"] + len(DEPTHS) * scale["depth_trials"] * sum(lengths(scale["length"])) * 5e-5)


def lengths(length: int) -> list[int]:
    """Of windows, in bytes: from half the training length on, as far as is measured, where they have room for text."""
    return [n for n in (length // 2, *(times * length for times in TIMES)) if n > ASKED]


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Train the model or take its trained weights, and ask at each depth of each length."""
    scale, corpus = scale_of(cell), text_of(cell)
    done = training.trained(cell, contestant, lambda share, doing: progress(0.7 * share, doing))
    ask, found = done.watched(contestant.spec, cell.device), {}
    places = [(n, depth) for n in lengths(scale["length"]) for depth in DEPTHS]
    for i, (n, depth) in enumerate(places):
        progress(0.7 + 0.3 * i / len(places), f"recall at depth {depth:g} of {n:,}")
        try:
            given = trials(corpus.held_out, n, depth, scale["depth_trials"], cell.seed)
            found.setdefault(str(n), {})[f"{depth:g}"] = recall.right(ask, given)
        except Unsupported as reason:
            found.setdefault(str(n), {})[f"{depth:g}"] = str(reason)
    return {"text": corpus.name, "length": scale["length"], "training": done.told, "recall": found}


def trials(documents: Sequence[bytes], n: int, depth: float, count: int, seed: int) -> recall.Trials:
    """`count` windows of n bytes, the last answer included, whose facts stand at this depth; the same ones for every depth.

    Raises ValueError where a window has no room for text, or no document is that long.
    """
    room = n - ASKED
    long = [document for document in documents if len(document) >= OPENING + room]
    if room < 1 or not long:
        raise ValueError(f"no window of {n} bytes: {ASKED} are no text, and the longest document has {max(map(len, documents))}")
    rng, before = random.Random(f"depth {seed} {n}"), round(depth * room)
    rows, asked, answers = [], [], []
    for _ in range(count):
        document = rng.choice(long)
        start = rng.randrange(len(document) - OPENING - room + 1)
        text = recall.plain(document[start : start + OPENING + room])
        values = {key: rng.randrange(recall.VALUES) for key in rng.sample(range(recall.KEYS), recall.KEYS)}
        order = rng.sample(range(recall.KEYS), recall.KEYS)
        told = b"".join(recall.fact(key, value) for key, value in values.items())
        questions = b"".join(recall.question(key, values[key]) for key in order)
        rows.append(list(text[: OPENING + before] + told + text[OPENING + before :] + questions))
        asked.append([n - 2 * recall.KEYS + 2 * i for i in range(recall.KEYS)])
        answers.append([values[key] for key in order])
    return recall.Trials(torch.tensor(rows), torch.tensor(asked), torch.tensor(answers))


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Recall by depth: a row for each model and length; means over seeds and trials, with half widths of 95 % intervals."""
    frames: dict[str, list[dict[str, Any]]] = {}
    for on in rows.by_text(records):
        length = SCALES[on.scale]["length"]
        title = f"Recall of a fact by depth and length of the window ({A_FACT}; trained at {length}; {on.where})"
        for model, good, failed in rows.by_model(on.records):
            for n in lengths(length) if good else [None]:
                by_seed = [r.values["recall"][str(n)] for r in good]
                unsupported = (f"unsupported: {reason}" for of in by_seed for reason in rows.reasons(of.values()))
                shown = {"length": n, **_row(by_seed), "note": rows.note([*failed, *unsupported])}
                frames.setdefault(title, []).append({**model, **shown})
    return {title: pd.DataFrame(found) for title, found in frames.items()}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """A small map for each model, for each scale: figures by title."""
    found = {}
    for scale, good in rows.by_scale(rows.good(records)):
        by_model: dict[str, list[Mapping[str, Any]]] = {}
        for record in good:
            by_model.setdefault(readings.short(record.cell.subject), []).append(record.values["recall"])
        found["depth" + ("" if scale == "default" else f" {scale}")] = _maps(by_model, SCALES[scale]["length"])
    return found


def _row(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for depth in (f"{depth:g}" for depth in DEPTHS):
        row |= rows.entry(f"depth {depth}", [of[depth] for of in by_seed], digits=2)
    return row


def _maps(by_model: Mapping[str, Sequence[Mapping[str, Any]]], length: int) -> "Figure":
    """Depth downwards, length to the right, one shade scale for all."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names, sizes = sorted(by_model), lengths(length)
    columns = min(COLUMNS, len(names))
    lines = -(-len(names) // columns)
    size = (1.5 + 2.0 * columns, 1.2 + 1.6 * lines)
    drawn, axes = pyplot.subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        image = _map(axis, [[_mean(by_model[name], str(n), f"{depth:g}") for n in sizes] for depth in DEPTHS])
        axis.axvline(sizes.index(length) + 0.5, color="white", linewidth=1.5)
        axis.set_title(name, fontsize=8)
        axis.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes], rotation=90, fontsize=6)
        axis.set_yticks(range(len(DEPTHS)), [f"{depth:g}" for depth in DEPTHS], fontsize=6)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(names) - columns) : len(names)]:
        axis.tick_params(labelbottom=True)
    drawn.supxlabel("bytes of the window; left of the white line as long as in training", fontsize=8)
    drawn.supylabel("depth of the facts (0: first, 1: last)", fontsize=8)
    bar = drawn.colorbar(image, ax=axes, shrink=0.8, aspect=30)
    bar.set_label(f"share recalled\nred: chance, {recall.CHANCE:g}; ×: unsupported", fontsize=7)
    bar.ax.axhline(recall.CHANCE, color="red", linewidth=2)
    pyplot.close(drawn)
    return drawn


def _map(axis: Any, shares: Sequence[Sequence[float | None]]) -> Any:
    """The map of one model: a line of shares for each depth; what is unsupported is blank, with a cross."""
    for i, line in enumerate(shares):
        for j, share in enumerate(line):
            if share is None:
                axis.text(j, i, "×", ha="center", va="center", color="gray", fontsize=7)
    shown = [[float("nan") if share is None else share for share in line] for line in shares]
    return axis.imshow(shown, vmin=0, vmax=1, cmap="viridis", aspect="auto")


def _mean(by_seed: Sequence[Mapping[str, Any]], n: str, depth: str) -> float | None:
    measured = [of[n][depth] for of in by_seed if not isinstance(of[n][depth], str)]
    return interval.of_trials_and_seeds(measured)[0] if measured else None
