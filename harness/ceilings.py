"""What this machine can do at most: bytes a second copied, and operations a second of matrix products, per dtype.

Measured once per machine, device and version of torch, and kept beside the trained weights; every timed record carries what it
was held against. `copied` is from memory to memory; `cached` is the fastest copy of any size, from the caches: nothing can move
its bytes faster than that, whatever lies in a cache.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from harness import clock, machine, weights

ROUNDS = 7
COPIED_BYTES = 2**28  # from memory to memory
CACHED_BYTES = (2**14, 2**16, 2**18, 2**20, 2**22)
SIDES = (256, 512, 1024)  # of square matrices; on a GPU 16 times that
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOOR = 0.5  # of the floor: what is faster than that is no noise


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second and operations a second, on so many threads."""

    threads: int
    copied: float
    cached: float
    products: dict[str, float]

    def floor_s(self, operations: float, moved: float) -> float:
        """Seconds below which no code can stay that does so many operations and moves so many bytes, in whatever dtype."""
        return max(operations / max(self.products.values()), moved / self.cached)

    def roofline_s(self, operations: float, moved: float, dtype: str) -> float:
        """Seconds at the roofline: as if all bytes came from memory, and products ran at the rate of their dtype."""
        return max(operations / self.products[dtype], moved / self.copied)


def here(device: str, threads: int) -> Ceilings:
    """The ceilings of this machine on so many threads, measured if nobody has yet: a few seconds."""
    words = [machine.name(), device, threads, machine.version("torch")]
    path = folder() / ("-".join(map(str, words)) + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return Ceilings(**json.loads(path.read_text()))
        with clock.on_threads(threads):
            found = measured(device, threads)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
            json.dump(asdict(found), part)
        os.replace(part.name, path)
    return found


def measured(device: str, threads: int) -> Ceilings:
    """Measure now: the fastest of several calls each, for a ceiling is what is possible, not what is usual."""
    copies = {size: _copies(size, device) for size in (*CACHED_BYTES, COPIED_BYTES)}
    sides = [side * (1 if device == "cpu" else 16) for side in SIDES]
    products = {name: max(_products(side, dtype, device) for side in sides) for name, dtype in DTYPES.items()}
    return Ceilings(threads, copies[COPIED_BYTES], max(copies.values()), products)


def _copies(size: int, device: str) -> float:
    """Bytes read and written a second."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    times = max(1, min(1000, 2**26 // size))

    def call() -> Any:
        for _ in range(times):
            target.copy_(source)

    return 2 * size * times / _fastest(call, device)


def _products(side: int, dtype: torch.dtype, device: str) -> float:
    """Operations a second of the product of square matrices."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _fastest(lambda: a @ b, device)


def _fastest(call: Any, device: str) -> float:
    clock.warm(lambda: call, device)
    return min(clock.seconds(call, device) for _ in range(ROUNDS))


def folder() -> Path:
    """Where they are kept; to measure anew, delete it."""
    return weights.folder() / "ceilings"
