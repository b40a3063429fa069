"""A checkpoint as it came: bits per byte of the same tokens of held-out text under ever longer contexts, up to 4 times its own t.

It is asked in its own tokens: a context is a number of tokens, in multiples of the training length t that its folder tells, and
bits are counted over the bytes that the scored tokens tell. So models of other tokens compare. Nothing is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from harness import Unsupported, interval
from harness.cell import OK, Cell, Record
from harness.connect import checkpoint
from harness.implementation import Implementation
from harness.watched import Watched

from . import bits_per_byte
from .scales import scale_of, text_of

PARTS = {"t/4": (1, 4), "t/2": (1, 2), "t": (1, 1), "2t": (2, 1), "4t": (4, 1)}
WINDOWS = 8


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core; it hangs on the model, which is not looked at here."""
    return float(scale_of(cell)["cost_s"])


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Ask the checkpoint for the last t/8 tokens of windows that end at the same places, whatever the context."""
    corpus, folder = text_of(cell), cell.settings["model"]
    case = contestant.spec.case("plain", torch.float32, cell.device).resized({"model": folder})
    model = contestant.model({}, case).checkpoint
    texts = [checkpoint.text(document, model.tokenizer) for document in corpus.held_out]
    documents, longest = [text.ids for text in texts], max(len(text.ids) for text in texts) - 1
    sizes = {name: model.length * times // parts for name, (times, parts) in PARTS.items()}
    contexts, scored = _with_text(sizes, longest), max(1, model.length // 8)
    found = bits_per_byte.measure(Watched(model, cell.device), documents, contexts, scored, WINDOWS, progress).bits
    ends = bits_per_byte.ends(documents, max(contexts), WINDOWS)
    bits = {n: b if isinstance(b, str) else checkpoint.per_byte(b, texts, ends, scored) for n, b in found.items()}
    too_long = f"no held-out document has so many tokens; the longest has {longest}"
    return {
        "text": corpus.name,
        "length": model.length,
        "checkpoint": checkpoint.digest(folder),
        "parameters": sum(p.numel() for p in model.parameters()),
        "scored": scored,
        "horizon": bits_per_byte.horizon(bits),
        "bits_per_byte": {name: bits.get(n, too_long) for name, n in sizes.items()},
    }


def _with_text(sizes: Mapping[str, int], longest: int) -> list[int]:
    """The contexts that the `longest` document fills; Unsupported where it fills none."""
    name, least = min(sizes.items(), key=lambda size: size[1])
    if least > longest:
        raise Unsupported(
            f"no held-out document has {name} = {least:,} tokens; the longest has {longest:,}: say text=PATH for longer ones"
        )
    return [n for n in sizes.values() if n <= longest]


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """A row a checkpoint and way of asking it: means over windows, with half widths of 95 % intervals."""
    rows = []
    for record in records:
        row: dict[str, Any] = {"model": named(record), "t is": record.values.get("length")}
        notes = [record.in_brief] if record.outcome != OK else []
        for name in PARTS:
            bits = record.values.get("bits_per_byte", {}).get(name)
            told = isinstance(bits, list)
            row[name] = round(bits_per_byte.mean(bits), 3) if told else None
            row[f"{name} ±"] = round(interval.half_width(bits), 3) if told else None
            notes += [f"{name}: {bits}"] if isinstance(bits, str) else []
        rows.append(row | {"horizon": record.values.get("horizon"), "note": "; ".join(notes)})
    origin = next((record.values["text"] for record in records if record.outcome == OK), "the same text")
    return {
        f"Bits per byte of checkpoints (the last t/8 tokens of contexts in multiples of t tokens; {origin})": pd.DataFrame(rows)
    }


def named(record: Record) -> str:
    """A checkpoint and the way of asking it, as tables name them."""
    return f"{record.cell.settings['model']}{f':{record.cell.variant}' if record.cell.variant else ''}"
