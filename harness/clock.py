"""Honest time: warm-up until steady, fresh inputs each time, what is compared interleaved, all samples kept.

A sample is wall-clock seconds between two moments at which the device has nothing left to do. Nothing is averaged here but by who
asks; `middle` and `interval` say what of samples holds on a machine that others use too.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")
STEADY, MOST_WARMUPS = 0.05, 10
now = time.perf_counter  # taken before any code under test is loaded
worked = time.process_time  # seconds of all threads of the process together


COLD_BYTES = 256 * 2**20  # more than any cache of a GPU


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one call, see `seconds_and_result`; to free the result is not the call's work."""
    return seconds_and_result(call, device)[0]


def seconds_and_result(call: Callable[[], Result], device: str = "cpu", tell: Callable[[], float] = now) -> tuple[float, Result]:
    """Seconds of one call and what it returned. Python's collector of garbage rests meanwhile.

    The device has finished before and after, on all its streams. On a GPU its own events tell the time, and its caches are cold.
    `tell` is bound here, once: who replaces `now` changes no time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        if device != "cpu":
            return _seconds_of_events(call)
        began = tell()
        result = call()
        return tell() - began, result
    finally:
        if collecting:
            gc.enable()


def _seconds_of_events(call: Callable[[], Result]) -> tuple[float, Result]:
    """The second event is recorded when every stream has finished: what runs beside the current one counts too."""
    import torch

    torch.empty(COLD_BYTES, dtype=torch.int8, device="cuda").zero_()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    result = call()
    torch.cuda.synchronize()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000, result


def warm(make: Callable[[], Callable[[], Any]], device: str = "cpu") -> list[float]:
    """Seconds of calls until one is `steady`, MOST_WARMUPS at most. `make()` gives a call with fresh inputs."""
    took = [seconds(make(), device)]
    while len(took) < MOST_WARMUPS and not steady(took):
        took.append(seconds(make(), device))
    return took


def steady(took: Sequence[float]) -> bool:
    """Whether the last call is not faster by over STEADY than the fastest before it."""
    return len(took) > 1 and took[-1] > (1 - STEADY) * min(took[:-1])


def interleaved(
    makes: Mapping[Key, Callable[[], Callable[[], Any]]], rounds: int, seed: int = 0, device: str = "cpu"
) -> dict[Key, list[float]]:
    """By key: seconds of `rounds` calls. In each round every key is called once, in an order of its own, so drift hits all alike.

    `make()` gives a call with fresh inputs, and is not timed. Sample i of every key is of round i. Warm up before.
    """
    rng = random.Random(seed)
    samples: dict[Key, list[float]] = {key: [] for key in makes}
    for _ in range(rounds):
        gc.collect()
        for key in rng.sample(list(makes), len(makes)):
            samples[key].append(seconds(makes[key](), device))
    return samples


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """Within it torch works on so many threads, or on as many as before where that is 0."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def middle(samples: Sequence[float]) -> float:
    """The median."""
    return statistics.median(samples)


def interval(samples: Sequence[float], share: float = 0.95) -> tuple[float, float] | None:
    """Two of the samples between which the median of their distribution lies with at least this probability, whatever it is.

    None where there are too few samples for that: five or fewer at 95 %.
    """
    n, ordered = len(samples), sorted(samples)
    # Outside the k-th smallest and the k-th largest lies the median where fewer than k of n coins show heads, or tails.
    outside, k = 0.0, 0
    while k < n and (outside := outside + 2 * math.comb(n, k) * 0.5**n) <= 1 - share:
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None
