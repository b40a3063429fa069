"""Bits per byte of the same held-out bytes under ever longer contexts, and the horizon up to which they hold.

At context c the model reads a window of c bytes and is scored on its last `scored` bytes alone, and the windows of
all contexts end at the same places. So every context, and every model, is asked for the very same bytes, differences
are paired, and no model can hide late failures behind good early positions. Against the position, each byte of the longest
window is scored: that is one reading of one window, and its octaves are of different bytes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Unsupported
from harness.nn import room

BITS = 1 / math.log(2)  # bits in a nat
FAR_EVERY = 4  # windows of which one is asked at the farthest context
FIRST = 16  # bytes in the first bin of positions; each further one is as long as all before it
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


class Measured(NamedTuple):
    """Bits per byte of each window: by context, or why that is unsupported; where asked for, by the end of a bin of positions.

    The positions are those of the longest context that is supported.
    """

    bits: dict[int, list[float] | str]
    by_position: dict[int, list[float]]


def measure(
    model: Callable[[Tensor], Tensor],
    documents: Sequence[bytes],
    contexts: Sequence[int],
    scored: int,
    count: int,
    report: Callable[[float, str], None] | None = None,
    positions: bool = False,
) -> Measured:
    """At each context bits per byte of the last `scored` bytes of each of `count` windows; at the longest, by `positions` too.

    `model` maps ids[b n] to logits[b n v]; it is asked without gradients. The same documents give the same windows.
    """
    places = ends(documents, max(contexts), count)
    bits: dict[int, list[float] | str] = {}
    by_position: dict[int, list[float]] = {}
    for i, context in enumerate(sorted(contexts)):
        if report:
            report(i / len(contexts), f"bits per byte at {context}")
        try:
            each = _last(model, documents, places, context, context if positions else scored)
        except Unsupported as reason:
            bits[context] = str(reason)
            continue
        bits[context] = each[:, -scored:].mean(1).tolist()
        if positions:
            by_position = {stop: each[:, start:stop].mean(1).tolist() for start, stop in bins(context)}
    return Measured(bits, by_position)


def bins(context: int) -> list[tuple[int, int]]:
    """Positions from and to: the first few, then octaves up to the context."""
    stops = [FIRST]
    while stops[-1] < context:
        stops.append(2 * stops[-1])
    return [(start, min(stop, context)) for start, stop in zip([0, *stops], stops, strict=False)]


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
        last = _last(model, documents, [places[i] for i in reach], far, scored)
        return {"context": far, "windows": reach, "bits": last.mean(1).tolist()}
    except Unsupported as reason:
        return {"context": far, "windows": reach, "bits": str(reason)}


@torch.inference_mode()
def _last(
    model: Callable[[Tensor], Tensor], documents: Sequence[bytes], places: Sequence[tuple[int, int]], context: int, scored: int
) -> Tensor:
    """Bits of each of the last `scored` bytes of every window: [windows scored], on the CPU."""
    ids = torch.tensor([list(documents[document][end - context : end + 1]) for document, end in places])
    told: list[Tensor] = []
    for logits in room.in_parts(model, ids[:, :-1], AT_ONCE):
        done = sum(map(len, told))
        wanted = ids[done : done + len(logits), -scored:]
        loss = F.cross_entropy(logits[:, -scored:].flatten(0, 1), wanted.flatten(), reduction="none")
        told.append(loss.view_as(wanted) * BITS)
    return torch.cat(told)


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
