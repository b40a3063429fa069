"""What this machine can do at most: bytes a second copied, and operations a second of matrix products, per dtype.

Measured once per machine, device and version of torch, and kept beside the trained weights; every timed record carries what it
was held against. `copied` is from memory to memory; `cached` is the fastest copy of any size, from the caches: nothing can move
its bytes faster than that, whatever lies in a cache.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from harness import clock, machine, weights

LEAST, MOST = 3, 14  # calls
ENOUGH_S = 0.5  # of calls of one kind and size; in a dtype that is emulated a product takes seconds
COPIED_BYTES = 2**28  # from memory to memory
CACHED_BYTES = (2**14, 2**16, 2**18, 2**20, 2**22)
SIDES = (256, 512, 1024)  # of square matrices; on a GPU 16 times that
# int8 for the floor: what works on codes may be faster than any product of floating-point numbers.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
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


def here(device: str, threads: int, anew: bool = False) -> Ceilings:
    """The ceilings of this machine on so many threads, measured if nobody has yet: a few seconds.

    `anew` measures again and keeps the higher: before anybody is accused, for they may have been found on a busy machine."""
    path = file(device, threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        known = Ceilings(**json.loads(path.read_text())) if path.exists() else None
        if known and not anew:
            return known
        with clock.on_threads(threads):
            found = measured(device, threads)
        found = highest(found, known) if known else found
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
            json.dump(asdict(found), part)
        os.replace(part.name, path)
    return found


def measured(device: str, threads: int) -> Ceilings:
    """Measure now: the fastest of several calls each, for a ceiling is what is possible, not what is usual."""
    copies = {size: _copies(size, device) for size in (*CACHED_BYTES, COPIED_BYTES)}
    products = {name: _products(dtype, device) for name, dtype in DTYPES.items()}
    return Ceilings(threads, copies[COPIED_BYTES], max(copies.values()), products)


def highest(one: Ceilings, other: Ceilings) -> Ceilings:
    """Of each rate the higher."""
    products = {name: max(of.products.get(name, 0.0) for of in (one, other)) for name in {**one.products, **other.products}}
    return Ceilings(one.threads, max(one.copied, other.copied), max(one.cached, other.cached), products)


def _copies(size: int, device: str) -> float:
    """Bytes read and written a second."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    times = max(1, min(1000, 2**26 // size))

    def call() -> Any:
        for _ in range(times):
            target.copy_(source)

    return 2 * size * times / _fastest(call, device)


def _products(dtype: torch.dtype, device: str) -> float:
    """Operations a second of products of square matrices, by what multiplies them fastest; larger ones are not tried where the
    last was slow."""
    best = 0.0
    ways: list[Callable[..., Any]] = [torch._int_mm if dtype is torch.int8 else torch.matmul]
    if device == "cpu" and dtype is torch.float32 and torch.backends.mkldnn.is_available():
        ways.append(_by_onednn)  # torch.lstm multiplies by it: on an AMD EPYC about twice as fast as torch.matmul, which asks MKL
    for side in (side * (1 if device == "cpu" else 16) for side in SIDES):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        took = min(_fastest(partial(multiply, a, b), device) for multiply in ways)
        best = max(best, 2 * side**3 / took)
        if took > ENOUGH_S / MOST:
            break
    return best


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], None)


def _fastest(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest of some calls: MOST, or as many as ENOUGH_S holds; the first may be new to its memory."""
    took = [clock.seconds(call, device)]
    while len(took) < LEAST or (len(took) < MOST and sum(took) < ENOUGH_S):
        took.append(clock.seconds(call, device))
    return min(took)


def file(device: str, threads: int) -> Path:
    """The file of one measurement; by what this file measures, so that it is made anew where that changes."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    words = [machine.name(), device, threads, machine.version("torch"), digest]
    return folder() / ("-".join(map(str, words)) + ".json")


def folder() -> Path:
    """Where they are kept; to measure anew, delete it."""
    return weights.folder() / "ceilings"
