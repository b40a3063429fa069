"""How many bytes a call needs at its peak, and how many a state keeps alive: as torch's allocator counts them.

On the CPU the peak is read from the events of torch's profiler, one for each allocation and each release; on a GPU from the
allocator's own counter, in its blocks of 512 bytes. So it sees what a kernel asks for within itself and gives back before it
returns, which a look at the live tensors misses: a third of what `torch.lstm` needs. It does not see memory that a library takes
from the system past torch's allocator.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def peak(call: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes allocated at the peak of one call, above what was allocated when it began: its result counts, its inputs do not.

    On the CPU, what it frees of what was there before is not set against this.
    """
    import torch

    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        result = call()
    del result
    found = seen.profiler.kineto_results.events()
    events = [(event.start_ns(), event.nbytes()) for event in found if event.name() == "[memory]"]  # a release is negative
    now = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        most = max(most, now)
    return most


def kept_alive(state: Any, besides: Any = ()) -> int:
    """Bytes of the tensors in a state, without those that live in `besides` (the model's parameters and buffers).

    A storage counts once, however many tensors share it, and whole, however small the view: so much cannot be freed. Reads
    tuples, lists, dicts, dataclasses and objects with attributes, however nested. Numbers, texts, dtypes, devices and None count
    nothing.
    Raises TypeError for anything else, for its bytes are not known.
    """
    known = {tensor.untyped_storage()._cdata for tensor in _tensors(besides)}
    storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in _tensors(state))}
    return sum(size for address, size in storages.items() if address not in known)


def of_module(module: Any, recurse: bool = True) -> list[Any]:
    """Parameters, buffers and tensors that a module, or each of its parts, has as plain attributes."""
    from torch import Tensor

    parts = module.modules() if recurse else [module]
    plain = [value for part in parts for value in vars(part).values() if isinstance(value, Tensor)]
    return [*module.parameters(recurse), *module.buffers(recurse), *plain]


def _tensors(state: Any) -> Iterator[Any]:
    from torch import Tensor, device, dtype

    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, tuple | list):
        for value in state:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        for each in dataclasses.fields(state):
            yield from _tensors(getattr(state, each.name))
    elif state is None or isinstance(state, int | float | complex | str | bytes | dtype | device):
        return
    elif hasattr(state, "__dict__") and not isinstance(state, type) and not callable(state):
        yield from _tensors(vars(state))
    else:
        raise TypeError(f"a state holds a {type(state).__module__}.{type(state).__qualname__}, whose bytes cannot be counted")
