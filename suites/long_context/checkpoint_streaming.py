"""A checkpoint reads a stream token by token: bits per byte over 64 times its own t, bytes really carried, time a byte of text.

The streams are those of `streaming`, of tokens instead of bytes, and as there a state that grows is stopped at 32 t. Lengths are
multiples of t, the training length in tokens that the folder tells, and bits are counted over the bytes that the tokens tell: so
checkpoints of other tokens compare. Nothing is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from harness import Unsupported, clock, judge
from harness.cell import OK, WRONG, Answer, Cell, Record
from harness.connect import checkpoint
from harness.implementation import Implementation

from . import rows, streaming
from .checkpoint import cost as cost
from .checkpoint import named
from .scales import text_of

STREAM_TIMES = 64  # training lengths in a stream: twice as far as where a state must have stopped growing


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> Answer | dict[str, Any]:
    """Check that step by step the checkpoint says what it says of the whole, then let it read the streams."""
    corpus, folder = text_of(cell), cell.settings["model"]
    case = contestant.spec.case("plain", torch.float32, cell.device).resized({"model": folder})
    checked = judge.values(contestant, case, "normal", cell.seed, "step")
    if checked.outcome == WRONG:
        return replace(checked, note=f"not read: step by step it does not say what its whole says\n{checked.note}")
    if checked.outcome != OK:
        return checked
    model = contestant.model({}, case).checkpoint
    texts = [checkpoint.text(document, model.tokenizer) for document in corpus.held_out]
    tokens = torch.tensor([token for text in texts for token in text.ids])
    widths = torch.cat([torch.tensor(text.bytes_until).diff(prepend=torch.zeros(1, dtype=torch.long)) for text in texts])
    order = streaming.rotations(range(len(tokens)), STREAM_TIMES * model.length, streaming.STREAMS, "token")
    with clock.on_threads(1):
        found = streaming.read(model, tokens[order].to(cell.device), model.length, progress, "token")
    if not found["bits"]:
        raise Unsupported(found["stopped"])
    told = {"text": corpus.name, "length": model.length, "checkpoint": checkpoint.digest(folder)}
    return told | found | per_byte(found, widths[order[:, 1:]], streaming.BLOCK_TIMES * model.length)


def per_byte(found: Mapping[str, Any], widths: Tensor, block: int) -> dict[str, Any]:
    """Bits, seconds and growth of a token as those of a byte; `widths`[b n] is how many bytes each token of the streams tells."""
    bytes_ = [part.sum(1).tolist() for part in widths.split(block, 1)][: len(found["bits"])]
    if not all(map(all, bytes_)):
        raise ValueError("the tokens of a block tell no byte")
    bits = [[bits * block / told for bits, told in zip(*of, strict=True)] for of in zip(found["bits"], bytes_, strict=True)]
    a_token, per_step = widths.double().mean().item(), [sum(told) / len(told) / block for told in bytes_]
    return {
        "bits": [[round(x, 4) for x in row] for row in bits],
        "step_s": [took / told for took, told in zip(found["step_s"], per_step, strict=True)],
        "grows_by": found["grows_by"] / a_token,
        "bytes_a_token": a_token,
    }


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Quality over the stream, and bytes and time over the stream: a row a checkpoint and way of asking it."""
    quality, costs = [], []
    for record in records:
        values = record.values
        good, t = [values] if record.outcome == OK else [], values.get("length", 1)
        stopped = [f"unsupported: {values['stopped']}"] if good and values["stopped"] else []
        note = rows.note([record.in_brief] if record.outcome != OK else stopped)
        model = {"model": named(record), "t is": values.get("length")}
        width = {"a token is, bytes": round(values["bytes_a_token"], 2) if good else None}
        quality.append(model | streaming.quality(good, t, STREAM_TIMES * t, _times(t)) | {"note": note})
        costs.append(model | width | streaming.costs(good, t, STREAM_TIMES * t, _times(t)) | {"note": note})
    origin = next((record.values["text"] for record in records if record.outcome == OK), "the same text")
    stretch = STREAM_TIMES // streaming.STREAMS
    return {
        f"Bits per byte of checkpoints over a stream of {STREAM_TIMES}t (t: training length in tokens; stretches of {stretch}t,"
        f" named by their ends, of the same text; {origin})": pd.DataFrame(quality),
        f"Bytes carried, and time a byte of text, of checkpoints over a stream of {STREAM_TIMES}t (a step over"
        f" {streaming.STREAMS} streams on one thread; median, quartiles; {origin})": pd.DataFrame(costs),
    }


def _times(t: int) -> Callable[[int], str]:
    """Places of the stream as multiples of t."""
    return lambda place: f"{place // t}t"
