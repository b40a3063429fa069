"""Rows of the memory tasks of the Recurrent Memory Transformer in miniature (Bulatov et al. 2023, arXiv:2304.11062, section 4).

    memorize   F . . . . . . . . . . . ?    -> the place that F names: the fact opens the first segment
    detect     . . . . . F . . . . . . ?    -> the same: it may stand anywhere, and has to be found first
    reason     . . M . . . . . F . . . ?    -> the place so many steps on from that of F as M says: two facts, in any order

A row is bytes of text (.), as the papers' noise is text; the question is its last byte, the answer is read after it.
Where the papers take facts and questions from bAbI, with six places, a fact is one byte here that no text holds, and there are
four places, on a circle. Their two facts for reasoning name two places each, and often one of them answers alone; here the
answer hangs on both alike: who knows one of them is right as often as who ignores them, once in four times.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.nn import room, train

MEMORIZE, DETECT, REASON = NAMES = ("memorize", "detect", "reason")
PLACES = 4
FACT, STEPS, ASK, ANSWER = 128, 160, 224, ord("0")
CHANCE = 1 / PLACES
AT_ONCE = 2048  # bytes in a batch


def asked(task: str, text: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """text[b n] of bytes -> ids[b n] with facts and a question in place of some, the place [b] that is the answer."""
    ids = text.where(text < FACT, ord("?"))
    place, steps = torch.randint(PLACES, (2, len(ids)), generator=rng)
    stands = torch.rand(len(ids), ids.shape[1] - 1, generator=rng).argsort(1)[:, :2]
    if task == MEMORIZE:
        stands = torch.zeros_like(stands)
    ids.scatter_(1, stands[:, :1], FACT + place[:, None])
    if task == REASON:
        ids.scatter_(1, stands[:, 1:], STEPS + steps[:, None])
        place = (place + steps) % PLACES
    ids[:, -1] = ASK
    return ids, place


def batches(
    task: str, documents: Sequence[bytes], lengths: Sequence[int], batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch for each length: ids[b n], and the byte [b 1] that is to be said at its end. The same for the same seed."""
    texts = {length: train.windows(documents, length, batch, seed) for length in set(lengths)}
    rng = torch.Generator().manual_seed(seed)
    for length in lengths:
        ids, place = asked(task, next(texts[length]), rng)
        yield ids, ANSWER + place[:, None]


def right(
    task: str, ask: Callable[[Tensor], Tensor], documents: Sequence[bytes], length: int, count: int, seed: int
) -> list[float]:
    """Of each of `count` rows of this length, 1 where the likeliest of the places is the answer, else 0; the same for all models.

    `ask` maps ids[b n] to what it says at the end of each row, [b 256].
    """
    text = next(train.windows(documents, length, count, seed))
    ids, place = asked(task, text, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        said = torch.cat([*room.in_parts(ask, ids, AT_ONCE)])
    return (said[:, ANSWER : ANSWER + PLACES].argmax(1) == place).double().tolist()


def exact(ids: Tensor) -> Tensor:
    """Finds the facts: logits[b 256] of the answer."""
    place, steps = (torch.where((ids >= of) & (ids < of + PLACES), ids - of, 0).sum(1) for of in (FACT, STEPS))
    return F.one_hot(ANSWER + (place + steps) % PLACES, 256).double()


def blind(ids: Tensor) -> Tensor:
    """Says the same place whatever it is given: logits[b 256]."""
    return F.one_hot(torch.full((len(ids),), ANSWER), 256).double()
