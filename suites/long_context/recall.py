"""Recall at distance: a fact stated once, then text, then the question. Episodes to learn it from, trials to test it on.

A fact is one byte that no plain text holds: FACT + VALUES * key + value. A question is one byte, ASK + key, and its
answer the digit of the value. So the recall itself is a look-up in one hop, not an induction over two, which models of
this size do not learn in a minute: what is tested is how far the look-up reaches, not whether it can be discovered.
A trial states one fact for each key, in random order, then `distance` bytes of held-out text, then asks for each key
in another random order. A model that ignores the facts is right once in VALUES times; one that knows the stated
values but not whose they are, once in about KEYS times.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.nn import room

KEYS, VALUES = 4, 8
FACT, ASK, ANSWER = 128, 224, ord("0")
CHANCE = 1 / VALUES
AT_ONCE = 2048  # bytes in a batch


@dataclass(frozen=True)
class Trials:
    """ids[n length]; the answer to question j of row i stands after position asked[i, j], and is values[i, j]."""

    ids: Tensor
    asked: Tensor
    values: Tensor


def fact(key: int, value: int) -> bytes:
    return bytes([FACT + VALUES * key + value])


def question(key: int, value: int) -> bytes:
    """The question and its answer."""
    return bytes([ASK + key, ANSWER + value])


def plain(text: bytes) -> bytes:
    """The text without bytes that could be taken for facts or questions."""
    return bytes(byte if byte < FACT else ord("?") for byte in text)


def episode(text: bytes, questions: int, rng: random.Random) -> bytes:
    """As many bytes as `text`, the last ones replaced by facts and questions strewn into it; each fact is stated once.

    Distances from a fact to its questions vary from a byte to the whole window.
    """
    values = {key: rng.randrange(VALUES) for key in rng.sample(range(KEYS), KEYS)}
    untold, told = list(values), []
    strewn = KEYS + questions
    text = plain(text[: len(text) - KEYS - 2 * questions])
    out, start = b"", 0
    for left, place in zip(range(strewn, 0, -1), sorted(rng.choices(range(len(text) + 1), k=strewn)), strict=True):
        out += text[start:place]
        start = place
        if untold and (not told or left <= len(untold) or rng.random() < 0.3):
            told.append(untold.pop())
            out += fact(told[-1], values[told[-1]])
        else:
            key = rng.choice(told)
            out += question(key, values[key])
    return out + text[start:]


def with_episodes(batches: Iterable[Tensor], share: float, questions: int, seed: int) -> Iterator[Tensor]:
    """The batches ids[b n] with the first rows, `share` of each batch, turned into episodes; the same for the same seed."""
    rng = random.Random(seed)
    for ids in batches:
        for row in range(round(share * len(ids))):
            ids[row] = torch.tensor(list(episode(bytes(ids[row].tolist()), questions, rng)))
        yield ids


def trials(documents: Sequence[bytes], distance: int, count: int, seed: int) -> Trials:
    """`count` trials with `distance` bytes of these documents between facts and questions."""
    rng = random.Random(f"{seed} {distance}")
    rooms = [max(0, len(document) - distance) for document in documents]
    if not any(rooms):
        raise ValueError(f"no held-out document is longer than {distance} bytes")
    rows, asked, answers = [], [], []
    for _ in range(count):
        (document,) = rng.choices(documents, rooms)
        start = rng.randrange(len(document) - distance)
        values = {key: rng.randrange(VALUES) for key in rng.sample(range(KEYS), KEYS)}
        order = rng.sample(range(KEYS), KEYS)
        told = b"".join(fact(key, value) for key, value in values.items())
        rows.append(
            list(told + plain(document[start : start + distance]) + b"".join(question(key, values[key]) for key in order))
        )
        asked.append([KEYS + distance + 2 * i for i in range(KEYS)])
        answers.append([values[key] for key in order])
    return Trials(torch.tensor(rows), torch.tensor(asked), torch.tensor(answers))


@torch.inference_mode()
def right(model: Callable[[Tensor], Tensor], given: Trials) -> list[float]:
    """Of each trial, the share of questions to which the likeliest of the VALUES answers is the right one.

    `model` maps ids[b n] to logits[b n v]. Questions of one trial share their text: an interval counts trials.
    """
    shares: list[float] = []
    for logits in room.in_parts(model, given.ids[:, :-1], AT_ONCE):
        rows = slice(len(shares), len(shares) + len(logits))
        said = logits.gather(1, given.asked[rows, :, None].expand(-1, -1, logits.shape[-1]))
        correct = said[..., ANSWER : ANSWER + VALUES].argmax(-1) == given.values[rows]
        shares += correct.double().mean(1).tolist()
    return shares


def solver(ids: Tensor) -> Tensor:
    """The exact answers, as logits[b n 256]: reads the facts, looks each question up."""
    logits = torch.zeros(*ids.shape, 256)
    for row, bytes_ in enumerate(ids.tolist()):
        values = {}
        for place, byte in enumerate(bytes_):
            if FACT <= byte < FACT + KEYS * VALUES:
                values[(byte - FACT) // VALUES] = (byte - FACT) % VALUES
            elif ASK <= byte < ASK + KEYS and byte - ASK in values:
                logits[row, place, ANSWER + values[byte - ASK]] = 1.0
    return logits


def blind(ids: Tensor) -> Tensor:
    """Logits that know nothing of the context: the same answer always."""
    logits = torch.zeros(*ids.shape, 256)
    logits[..., ANSWER] = 1.0
    return logits
