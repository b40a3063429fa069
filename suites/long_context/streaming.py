"""A stream without end: text token by token from the state alone; how good, how many bytes are carried, how long a byte takes.

The streams are rotations of one text: it is cut into as many pieces as there are streams, and each begins with another piece. So
in every stretch, which is as long as a piece, all streams together read the same bytes: what changes from stretch to stretch is
the model. The first block of a stretch is not scored: in the first stretch it has less context than elsewhere.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Unsupported, asking, clock, interval, memory
from harness.cell import OK, Cell, Record
from harness.claims import verdict
from harness.implementation import Implementation
from harness.watched import check_steps

from . import bits_per_byte, claims, rows, training
from . import pictures as drawing
from .scales import SCALES, scale_of, text_of

STREAMS = 4
HELD_TIMES = 4  # training lengths over which the steps are held against the whole
BLOCK_TIMES, SETTLED_TIMES = 2, 32  # in training lengths: of what one sample is, and by when a state has stopped growing
WATCH = 7  # later in the stream bytes are counted every so many tokens: no power of two, so every place in a segment comes up


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core, its training included."""
    scale = scale_of(cell)
    return float(scale["cost_s"] + scale["stream"] * 1e-3)


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Train the model or take its trained weights, and let it read the streams."""
    scale, corpus = scale_of(cell), text_of(cell)
    streams = rotations(b"".join(corpus.held_out), scale["stream"], STREAMS).to(cell.device)
    done = training.trained(cell, contestant, lambda share, doing: progress(0.6 * share, doing))
    progress(0.6, "steps held against the whole")
    ask = done.watched(contestant.spec, cell.device)
    held = streams[:2, : HELD_TIMES * scale["length"]]
    with clock.on_threads(1):
        asking.check_stepwise(done.model)
        with suppress(Unsupported):  # a text that is longer than it can read, which the streams say too
            ask(held.cpu())
            check_steps(done.model, held, ask.digits)
        found = read(done.model, streams, scale["length"], lambda share, doing: progress(0.62 + 0.38 * share, doing))
    if not found["bits"]:
        raise Unsupported(found["stopped"])
    return {"text": corpus.name, "length": scale["length"], "streams": STREAMS, "training": done.told, **found}


def rotations(text: Sequence[int], length: int, count: int, unit: str = "byte") -> Tensor:
    """[count length+1]: a ring of `count` pieces, taken evenly from a text of bytes or tokens, read from each piece on.

    The last is the first again, for a byte has the same successor in every stream. Unsupported where the text is too short.
    """
    piece = length // count
    if len(text) < length:
        raise Unsupported(
            f"a stream takes {length:,} {unit}s of held-out text, and there are {len(text):,}: say text=PATH for more"
        )
    ring = [x for start in (k * len(text) // count for k in range(count)) for x in text[start : start + piece]]
    return torch.tensor([ring[i * piece :] + ring[: i * piece + 1] for i in range(count)])


@torch.inference_mode()
def read(
    model: Any, streams: Tensor, length: int, report: Callable[[float, str], None] | None = None, unit: str = "byte"
) -> dict[str, Any]:
    """What comes of `model.step(ids[b], state) -> (logits[b v], state)` over streams[b n+1], in blocks of 2 training lengths:
        bits          by block and stream, bits per byte, or whatever the unit of the streams is
        step_s        by block, seconds of a step over all streams, their mean
        state_bytes   by block, most bytes carried within it, a stream: those of the batch by the number of streams
        grows_by      bytes a byte of text over the last doubling, 0 where the most that is carried is no more than before it
        stopped       why the stream was left before its end; empty where it was not
    A state that still grows at 32 training lengths, or at a doubling of that, is not streaming: it is stopped there.
    """
    asking.check_stepwise(model)
    block, n = BLOCK_TIMES * length, streams.shape[1] - 1
    own = [*model.parameters(), *model.buffers()]
    found: dict[str, Any] = {"bits": [], "step_s": [], "state_bytes": [], "grows_by": 0.0, "stopped": ""}
    state: Any = None
    for start in range(0, n, block):
        if report:
            report(start / n, f"streaming, {unit} {start:,}")
        nats, took, carried = torch.zeros(len(streams), device=streams.device), 0.0, 0
        for at in range(start, start + block):
            began = time.perf_counter()
            try:
                logits, state = model.step(streams[:, at], state)
            except Unsupported as reason:
                return {**found, "stopped": str(reason)}
            took += time.perf_counter() - began
            nats += F.cross_entropy(logits, streams[:, at + 1], reduction="none")
            if start < SETTLED_TIMES * length or at % WATCH == 0 or at == start + block - 1:
                carried = max(carried, memory.kept_alive(state, besides=own))
        found["bits"].append([round(x, 4) for x in (nats / block * bits_per_byte.BITS).tolist()])
        found["step_s"].append(took / block)
        found["state_bytes"].append(carried // len(streams))
        end = start + block
        if end >= SETTLED_TIMES * length and end & (end - 1) == 0:
            found["grows_by"] = growth(found["state_bytes"], block)
            if found["grows_by"]:
                by, now = found["grows_by"], found["state_bytes"][-1]
                return {**found, "stopped": f"its state grows by {by:,.0f} bytes a {unit} of text, {now:,} bytes at {end:,}"}
    return found


def growth(state_bytes: Sequence[int], block: int) -> float:
    """Bytes a byte of text by which the most that is carried grew from the second quarter of blocks to their second half."""
    half = len(state_bytes) // 2
    return max(0, max(state_bytes[half:]) - max(state_bytes[half // 2 : half])) / (half * block)


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Quality over the stream, bytes and time over the stream, and what the papers claim: a row a model, its seeds together."""
    frames: dict[str, list[dict[str, Any]]] = {}
    for on in rows.by_text(records):
        length, n = SCALES[on.scale]["length"], SCALES[on.scale]["stream"]
        titles = (
            f"Bits per byte over a stream of {n:,} bytes (stretches of {n // STREAMS:,}, named by their ends, of the same bytes;"
            f" trained at {length}; {on.where})",
            f"Bytes carried and time a byte over a stream of {n:,} (a step over {STREAMS} streams on one thread; median,"
            f" quartiles; {on.where})",
        )
        for model, of_model, failed in rows.by_model(on.records):
            good = [r.values for r in of_model]
            note = rows.note([f"unsupported: {values['stopped']}" for values in good if values["stopped"]] + failed)
            for title, row in zip(titles, (quality(good, length, n), costs(good, length, n)), strict=True):
                frames.setdefault(title, []).append({**model, **row, "note": note})
        if claimed := readings(on.records, length, n):
            frames[f"Claims of the papers on streams (read from these records; {on.where})"] = claimed
    return {title: pd.DataFrame(found) for title, found in frames.items()}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Figures by title: bits per byte, and bytes carried, over the stream, for each scale."""
    found = {}
    for scale, good in rows.by_scale(rows.good(records)):
        length = SCALES[scale]["length"]
        mates = [replace(r, values={"bits": _by_doublings(r.values, length), "bytes": _carried(r.values, length)}) for r in good]
        where = "" if scale == "default" else f" {scale}"
        found[f"streaming{where}"] = drawing.figure(mates, "bits", "bits per byte since half as far", length, paired=False)
        found[f"bytes carried{where}"] = drawing.figure(mates, "bytes", "bytes carried by a stream", length, log=True)
    return found


def samples(values: Mapping[str, Any], stretch: int, length: int, n: int) -> list[float] | None:
    """Bits per byte of the scored blocks of a stretch, in the order of the text, which is the same in each."""
    blocks = n // STREAMS // (BLOCK_TIMES * length)
    rows = values["bits"][stretch * blocks : (stretch + 1) * blocks]
    if len(rows) < blocks:
        return None
    return [rows[block][(piece - stretch) % STREAMS] for piece in range(STREAMS) for block in range(1, blocks)]


def _first(values: Mapping[str, Any]) -> list[float]:
    """Bits per byte of the scored blocks up to where a growing state is stopped: the same bytes for every model."""
    return [bits for row in values["bits"][1 : SETTLED_TIMES // BLOCK_TIMES] for bits in row]


def quality(good: Sequence[Mapping[str, Any]], length: int, n: int, place: Callable[[int], str] = str) -> dict[str, Any]:
    """Bits per byte up to where a growing state is stopped, then of each stretch; `place` says how columns name places."""
    row = rows.entry(f"to {place(SETTLED_TIMES * length)}", [_first(values) for values in good])
    for stretch in range(STREAMS):
        row |= rows.entry(place((stretch + 1) * n // STREAMS), [samples(values, stretch, length, n) for values in good])
    return row | rows.entry("change", [change(values, length, n) for values in good])


def change(values: Mapping[str, Any], length: int, n: int) -> list[float] | None:
    """Bits per byte of the last stretch less those of the first, on the same bytes; None where the stream was stopped before."""
    first, last = (samples(values, stretch, length, n) for stretch in (0, STREAMS - 1))
    return [b - a for a, b in zip(first, last, strict=True)] if first and last else None


def costs(good: Sequence[Mapping[str, Any]], length: int, n: int, place: Callable[[int], str] = str) -> dict[str, Any]:
    """Bytes carried at three places, and time in two stretches; `place` says how columns name places."""
    row: dict[str, Any] = {}
    for end in (BLOCK_TIMES * length, SETTLED_TIMES * length, n):
        carried = [_carried(values, length).get(str(end)) for values in good]
        row[f"bytes at {place(end)}"] = max((bytes_ for of in carried if of for bytes_ in of), default=None)
    row["bytes a byte"] = max((round(values["grows_by"]) for values in good), default=None)
    last = n - n // STREAMS
    for name, start, end in (
        (f"to {place(SETTLED_TIMES * length)}", 0, SETTLED_TIMES * length),
        (f"from {place(last)}", last, n),
    ):
        block = BLOCK_TIMES * length
        took = [
            s * 1e6
            for values in good
            if len(values["step_s"]) * block >= end
            for s in values["step_s"][start // block : end // block]
        ]
        low, middle, high = (pd.Series(took).quantile(share) for share in (0.25, 0.5, 0.75)) if took else (None, None, None)
        row |= {
            f"{name}, µs": round(middle) if took else None,
            f"{name}, quartiles": f"{low:.0f} to {high:.0f}" if took else None,
        }
    return row


def _carried(values: Mapping[str, Any], length: int) -> dict[str, list[int]]:
    """By place in the stream, doubling: the most bytes carried in the block that ends there."""
    blocks = values["state_bytes"]
    return {str(end * BLOCK_TIMES * length): [blocks[end - 1]] for end in _doublings(len(blocks))}


def _by_doublings(values: Mapping[str, Any], length: int) -> dict[str, list[float]]:
    """By place in the stream, doubling: bits per byte of the blocks since half as far."""
    bits = values["bits"]
    return {str(end * BLOCK_TIMES * length): [x for row in bits[end // 2 : end] for x in row] for end in _doublings(len(bits))}


def _doublings(blocks: int) -> list[int]:
    return [2**i for i in range(blocks.bit_length()) if 2**i <= blocks]


STREAMING = "transformer_streaming/torch_blocks"
STABLE = {
    f"{STREAMING}:four_sinks": ("a rolling cache with sinks stays stable over the stream", "2309.17453"),
    "transformer_lm_infinite/torch_blocks": ("LM-Infinite stays stable over the stream", "2308.16137"),
    "transformer_window/torch_sdpa": ("a sliding window stays stable over the stream", "2310.06825"),
    "retnet/torch_parallel": ("RetNet stays stable over the stream", "2307.08621"),
}
CONSTANT = {
    "retnet/torch_parallel": ("RetNet carries constant bytes", "2307.08621"),
    "rwkv4/torch_chunks": ("RWKV carries constant bytes", "2305.13048"),
    "linear_transformer/torch_chunks": ("a linear transformer carries constant bytes", "2006.16236"),
    "lstm_lm/torch_lstm": ("an LSTM carries constant bytes", "doi:10.1162/neco.1997.9.8.1735"),
    f"{STREAMING}:four_sinks": ("a rolling cache carries constant bytes", "2309.17453"),
    "transformer_lm_infinite/torch_blocks": ("LM-Infinite carries constant bytes", "2308.16137"),
    "transformer_window/torch_sdpa": ("a sliding window carries constant bytes", "2310.06825"),
    "rmt/torch_sdpa": ("RMT carries constant bytes", "2304.11062"),
    "infinity_former/torch_sdpa": ("the infinity-former carries constant bytes", "2109.00301"),
}
LINEAR = {"transformer_rope/torch_sdpa": ("the cache of attention grows linearly", "1706.03762")}


def readings(records: Sequence[Record], length: int, n: int) -> list[dict[str, Any]]:
    """A row for each claim on models that are among these records."""
    by_subject: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        if record.outcome == OK:
            by_subject.setdefault(record.cell.subject, {})[record.cell.seed] = record.values
    rows = []
    for subject, (sentence, source) in STABLE.items():
        changes = [change(values, length, n) for values in by_subject.get(subject, {}).values()]
        rows += _rise(
            sentence, source, [of for of in changes if of], f"rises by under {claims.HOLDS:g} bits", claims.HOLDS, below=True
        )
    pairs = _paired(by_subject, f"{STREAMING}:no_sinks", f"{STREAMING}:four_sinks", length, n)
    rows += _rise("at its end, four sinks are better than none", "2309.17453", pairs, "differs by over 0 bits", 0.0, below=False)
    for subject, (sentence, source) in CONSTANT.items():
        rows += [_bytes(sentence, source, list(of.values()), length, n) for of in [by_subject.get(subject)] if of]
    for subject, (sentence, source) in LINEAR.items():
        rows += [_line(sentence, source, list(of.values()), length) for of in [by_subject.get(subject)] if of]
    return rows


def _paired(by_subject: Mapping[str, Mapping[int, Any]], more: str, less: str, length: int, n: int) -> list[list[float]]:
    """By seed, the difference in each block of the last stretch."""
    one, other = by_subject.get(more, {}), by_subject.get(less, {})
    pairs = [(samples(of[seed], STREAMS - 1, length, n) for of in (one, other)) for seed in sorted(one.keys() & other.keys())]
    return [[a - b for a, b in zip(a_s, b_s, strict=True)] for a_s, b_s in pairs if a_s and b_s]


def _rise(
    sentence: str, source: str, differences: Sequence[Sequence[float]], claimed: str, margin: float, below: bool
) -> list[dict[str, Any]]:
    if not differences:
        return []
    middle, width = interval.of_trials_and_seeds(differences)
    here = verdict(middle - width, middle + width, **{"below" if below else "above": margin})
    found = f"{middle:+.3f} ± {width:.3f} bits"
    return [_claim(sentence, source, claimed, found, len(differences), here)]


def _bytes(sentence: str, source: str, of: Sequence[Mapping[str, Any]], length: int, n: int) -> dict[str, Any]:
    last = max(len(values["state_bytes"]) for values in of) * BLOCK_TIMES * length
    held = all(not values["grows_by"] and not values["stopped"] for values in of) and last == n
    now = max(values["state_bytes"][-1] for values in of)
    found = f"{max(values['state_bytes'][0] for values in of):,} bytes at {BLOCK_TIMES * length:,}, {now:,} at {last:,}"
    return _claim(sentence, source, "grows by 0", found, len(of), "shows" if held else "refuted")


def _line(sentence: str, source: str, of: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
    """Equal growth in each block, and some."""
    steps = [b - a for values in of for a, b in zip(values["state_bytes"], values["state_bytes"][1:], strict=False)]
    held = bool(steps) and min(steps) == max(steps) > 0
    per = [step / (BLOCK_TIMES * length) for step in steps]
    found = f"by {min(per):,.0f} to {max(per):,.0f} bytes a byte" if steps else "nothing measured"
    return _claim(sentence, source, "grows evenly", found, len(of), "shows" if held else "refuted")


def _claim(sentence: str, source: str, claimed: str, found: str, seeds: int, here: str) -> dict[str, Any]:
    return {"claim": sentence, "arXiv": source, "claimed": claimed, "found": found, "seeds": seeds, "here": here}
