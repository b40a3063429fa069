"""How many bytes a call needs at its peak, and how many a state keeps alive: as torch's allocator counts them.

On the CPU the peak is read from the events of torch's profiler, one for each allocation and each release; on a GPU from the
allocator's own counter, in its blocks of 512 bytes. So it sees what a kernel asks for within itself and gives back before it
returns, which a look at the live tensors misses: a third of what `torch.lstm` needs. It does not see memory that a library takes
from the system past torch's allocator, nor, on the CPU, what another thread than the caller's allocates. What comes out of there
as a tensor is seen by `touched`, as is what is kept from call to call, which no call allocates; what stays within, if it is much,
by `in_python` and `resident`.
"""

import ctypes
import dataclasses
import gc
import os
import re
import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import Enum
from pathlib import Path
from types import MemberDescriptorType
from typing import Any

CLEAR = Path("/proc/self/clear_refs")
FEW = 1024  # bytes of numbers and texts in a state, such as a position and the name of a mode


@dataclasses.dataclass(frozen=True)
class Touched:
    """Storages that a call read or wrote, by address, in bytes: `kept` were there before it and outlive it, `foreign` came up in
    it past torch's allocator or in another thread, and went."""

    kept: Mapping[int, int]
    foreign: int


def touched(call: Callable[[], Any], besides: Any = ()) -> Touched:
    """What a call touches that torch's allocator gives it in no call, without what `besides` names (inputs, parameters, a state).

    Operators of torch are watched, in the thread of the caller: what a kernel reads by its pointer alone is not seen.
    """
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    # A weak reference keeps the name of a storage from being given to another, though not its bytes.
    given = _storages(list(tensors(besides)))
    known = {storage._cdata: StorageWeakRef(storage) for storage in given}
    places = {storage.data_ptr() for storage in given}  # numpy gives the same bytes as another storage
    found: dict[int, tuple[Any, int, int]] = {}

    class Watch(TorchDispatchMode):
        supports_higher_order_operators = True

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            for storage in _storages([args, kwargs]):
                if "lift_fresh" in str(func) and storage.resizable():  # a constant that Python writes down; numpy's is fixed
                    known[storage._cdata] = StorageWeakRef(storage)
                elif storage._cdata not in known and storage.data_ptr() not in places and storage.nbytes():
                    found.setdefault(storage._cdata, (StorageWeakRef(storage), storage.data_ptr(), storage.nbytes()))
            result = func(*args, **kwargs)
            made = (storage for storage in _storages(result) if storage._cdata not in found)
            known.update({storage._cdata: StorageWeakRef(storage) for storage in made})
            return result

    with _as_written(), Watch():
        result = call()
    del result
    gc.collect()
    kept = {place: size for still, place, size in found.values() if not still.expired()}
    return Touched(kept, sum(size for _, place, size in found.values() if place not in kept))


def _as_written() -> AbstractContextManager[Any]:
    """What is compiled runs operator by operator: compiled anew while it is watched, it would not run again."""
    import torch

    compiler_was_used = "torch._dynamo" in sys.modules  # else importing it takes a second
    return torch.compiler.set_stance("force_eager") if compiler_was_used else nullcontext()


def _storages(of: Any) -> list[Any]:
    """The storages of all tensors in what an operator is given, or gives."""
    from torch import Tensor, strided
    from torch.utils._pytree import tree_leaves

    leaves = [leaf for leaf in tree_leaves(of) if isinstance(leaf, Tensor)]
    return [leaf.untyped_storage() for leaf in leaves if leaf.layout == strided]


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


def in_python(call: Callable[[], Any]) -> int:
    """Bytes at the peak of one call that Python's allocators give, numpy's arrays among them."""
    gc.collect()
    tracemalloc.start()
    try:
        result = call()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del result
    return most


def resident(call: Callable[[], Any]) -> int:
    """Bytes by which the process grows at the peak of one call, whoever takes them, in whatever thread; 0 where no Linux tells.

    Libraries keep scratch of their own and malloc leaves holes, so honest code takes more than torch counts: attention, LSTMs and
    products of any size took 0.7 to 1.6 times as much, long convolutions 1.5 times, a transformer 2.3 times (0.8 MiB more), an
    SVD 2.0 times (6 MiB more); attention by numpy or in another thread, 16 times and more.
    """
    if not os.access(CLEAR, os.W_OK):
        return 0
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is taken again unseen
    CLEAR.write_text("5")
    before = _status("VmRSS")
    result = call()
    most = _status("VmHWM") - before
    del result
    return most


def turns(process: str = "self") -> dict[str, Any]:
    """How often the processes that this one started were given a core so far, and theirs: told by the system; {} where it is no
    Linux. Unequal after a call, they worked for it."""
    found: dict[str, Any] = {}
    if process == "self":
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["ended"] = (ended.ru_nvcsw, ended.ru_nivcsw)
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # one that ended meanwhile is told by those that ended
            for child in file.read_text().split():
                found[child] = re.findall(r"ctxt_switches:\s+(\d+)", Path(f"/proc/{child}/status").read_text())
                found |= turns(child)
    return found


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def kept_alive(state: Any, besides: Any = ()) -> int:
    """Bytes of the tensors in a state, without those that live in `besides` (the model's parameters and buffers).

    A storage counts once, however many tensors share it, and whole, however small the view: so much cannot be freed. Reads
    tuples, lists, sets, dicts and attributes, also of tensors, however nested. Numbers and texts count where they are more than a
    few; dtypes, devices and None count nothing.
    Raises TypeError for anything else, for its bytes are not known.
    """
    known = {tensor.untyped_storage()._cdata for tensor in tensors(besides)}
    storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors(state))}
    plain = sum(part for part in _parts(state) if isinstance(part, int))
    return sum(size for address, size in storages.items() if address not in known) + (plain if plain > FEW else 0)


def of_module(module: Any, recurse: bool = True) -> list[Any]:
    """Parameters, buffers and tensors that a module, or each of its parts, has as plain attributes."""
    from torch import Tensor

    parts = module.modules() if recurse else [module]
    plain = [value for part in parts for value in vars(part).values() if isinstance(value, Tensor)]
    return [*module.parameters(recurse), *module.buffers(recurse), *plain]


def tensors(state: Any) -> Iterator[Any]:
    """Every tensor in a state, however nested."""
    return (part for part in _parts(state) if not isinstance(part, int))


def _parts(state: Any) -> Iterator[Any]:
    """Every tensor in a state, and of each number and text its bytes."""
    from torch import Tensor, device, dtype

    within = _attributes(state)
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        within = [*state, *state.values(), *within]
    elif isinstance(state, tuple | list | set | frozenset):  # torch.compile leaves sets at tensors
        within = [*state, *within]
    elif isinstance(state, int | float | complex | str | bytes):
        yield _bytes(state)
        within = [] if isinstance(state, Enum) else within
    elif state is None or isinstance(state, dtype | device):
        return
    elif isinstance(state, type) or not (dataclasses.is_dataclass(state) or (hasattr(state, "__dict__") and not callable(state))):
        raise TypeError(f"a state holds a {type(state).__module__}.{type(state).__qualname__}, whose bytes cannot be counted")
    for part in within:
        yield from _parts(part)


def _attributes(state: Any) -> list[Any]:
    """What an object has as attributes of its own."""
    slotted = [vars(kind).values() for kind in type(state).__mro__ if "__slots__" in vars(kind)]
    slots = [slot for of in slotted for slot in of if isinstance(slot, MemberDescriptorType)]
    of_slots = [getattr(state, slot.__name__) for slot in slots if hasattr(state, slot.__name__)]
    return [*getattr(state, "__dict__", {}).values(), *of_slots]


def _bytes(plain: Any) -> int:
    """Bytes of a number or a text: of an integer, as many words as it has digits for."""
    if isinstance(plain, int):
        return 8 * max(1, -(-plain.bit_length() // 64))
    return len(plain) if isinstance(plain, str | bytes) else 8
