"""Bits per byte of the same held-out bytes under ever longer contexts, and the horizon up to which they hold.

At context c the model reads a window of c bytes and is scored on its last `scored` bytes alone, and the windows of
all contexts end at the same places. So every context, and every model, is asked for the very same bytes, differences
are paired, and no model can hide late failures behind good early positions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Unsupported
from harness.nn import room

BITS = 1 / math.log(2)  # bits in a nat
FAR_EVERY = 4  # windows of which one is asked at the farthest context
AT_ONCE = 2048  # bytes in a batch: enough to keep a core busy, little enough to stay near it


def ends(documents: Sequence[bytes], longest: int, count: int) -> list[tuple[int, int]]:
    """`count` places (document, end), evenly over all documents that hold a window of `longest` bytes and one more.

    Raises ValueError where no document is that long.
    """
    rooms = [max(0, len(document) - longest) for document in documents]
    total = sum(rooms)
    if not total:
        raise ValueError(
            f"no held-out document is longer than {longest} bytes; the longest has {max(map(len, documents), default=0)}"
        )
    places = []
    for i in range(count):
        room, document = int((i + 0.5) * total / count), 0
        while room >= rooms[document]:
            room, document = room - rooms[document], document + 1
        places.append((document, longest + room))
    return places


def measure(
    model: Callable[[Tensor], Tensor],
    documents: Sequence[bytes],
    contexts: Sequence[int],
    scored: int,
    count: int,
    report: Callable[[float, str], None] | None = None,
) -> dict[int, list[float] | str]:
    """By context: bits per byte of the last `scored` bytes of each of `count` windows, or why it is unsupported.

    `model` maps ids[b n] to logits[b n v]; it is asked without gradients. The same documents give the same windows.
    """
    places = ends(documents, max(contexts), count)
    bits: dict[int, list[float] | str] = {}
    for i, context in enumerate(contexts):
        if report:
            report(i / len(contexts), f"bits per byte at {context}")
        try:
            bits[context] = _at(model, documents, places, context, scored)
        except Unsupported as reason:
            bits[context] = str(reason)
    return bits


def further(
    model: Callable[[Tensor], Tensor], documents: Sequence[bytes], longest: int, far: int, scored: int, count: int
) -> dict[str, Any]:
    """Bits per byte at the context `far`, of some of the windows that `measure` has up to `longest`, and which ones these are.

    They are those with so much text before them, one in FAR_EVERY: what changes between the two contexts is paired.
    """
    places = ends(documents, longest, count)
    reach = [i for i, (_, end) in enumerate(places) if end >= far][::FAR_EVERY]
    if not reach:
        return {"context": far, "windows": [], "bits": f"no window has {far} bytes of its document before its end"}
    try:
        return {"context": far, "windows": reach, "bits": _at(model, documents, [places[i] for i in reach], far, scored)}
    except Unsupported as reason:
        return {"context": far, "windows": reach, "bits": str(reason)}


@torch.inference_mode()
def _at(
    model: Callable[[Tensor], Tensor], documents: Sequence[bytes], places: Sequence[tuple[int, int]], context: int, scored: int
) -> list[float]:
    ids = torch.tensor([list(documents[document][end - context : end + 1]) for document, end in places])
    bits: list[float] = []
    for logits in room.in_parts(model, ids[:, :-1], AT_ONCE):
        wanted = ids[len(bits) : len(bits) + len(logits), -scored:]
        loss = F.cross_entropy(logits[:, -scored:].flatten(0, 1), wanted.flatten(), reduction="none")
        bits += (loss.view(len(wanted), scored).mean(1) * BITS).tolist()
    return bits


def horizon(bits: dict[int, list[float] | str], tolerance: float = 0.05) -> int:
    """The longest context up to which, at every one measured, the mean stays within `tolerance` of that at the shortest."""
    contexts = sorted(bits)
    first = bits[contexts[0]]
    if isinstance(first, str):
        return 0
    held = 0
    for context in contexts:
        here = bits[context]
        if isinstance(here, str) or not mean(here) <= (1 + tolerance) * mean(first):
            break
        held = context
    return held


def mean(samples: Sequence[float]) -> float:
    """The mean over windows."""
    return sum(samples) / len(samples)
