"""As many rows at once as the memory of a device holds: doubled until it runs out. No result hangs on how many they are."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

MOST = 2**20  # tokens at once, beyond which a device is busy anyway


def most(ask: Callable[[int], Any], limit: int) -> int:
    """The most rows, doubled from one up to `limit`, with which `ask(rows)` has room; OutOfMemoryError where one has none."""
    fits = 0
    while fits < limit:
        rows = min(max(1, 2 * fits), limit)
        try:
            ask(rows)
        except torch.OutOfMemoryError:
            if not fits:
                raise
            break
        fits = rows
    _give_back()
    return fits


def in_parts(ask: Callable[[Tensor], Tensor], ids: Tensor, tokens: int) -> Iterator[Tensor]:
    """What `ask` says of ids[b n], rows in their order: about so many tokens at once; elsewhere than on a CPU, which `ask.device`
    tells, twice as many each time as long as there is room."""
    rows, start, grows = max(1, tokens // ids.shape[1]), 0, getattr(ask, "device", "cpu") != "cpu"
    largest = max(rows, MOST // ids.shape[1])
    while start < len(ids):
        said = _answer(ask, ids[start : start + rows])
        if said is None:
            rows, grows = rows // 2, False
            _give_back()
            continue
        yield said
        start += rows
        rows = min(2 * rows, largest) if grows else rows


def _answer(ask: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor | None:
    """None where there is no room; the error, which holds on to what was computed so far, is gone then."""
    try:
        return ask(ids)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise
        return None


def _give_back() -> None:
    """What the allocator keeps for later may be in too small pieces."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
