"""What Triton kernels become when compiled for a GPU that need not be here: registers, spills, shared memory, tensor cores.

Whatever a function launches is compiled for a target instead, with the arguments that it is launched with.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

TARGETS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
# Of a multiprocessor: bytes of shared memory by target; registers in each of its four parts, which serve warps 256 at a time;
# warps and blocks at most; and bytes that each block takes for the driver (CUDA C++ programming guide, compute capabilities).
SHARED_BYTES = {"sm_80": 164 * 1024, "sm_90": 228 * 1024, "sm_100": 228 * 1024}
PARTS, REGISTERS, REGISTERS_AT_A_TIME, WARPS, BLOCKS, DRIVER_BYTES = 4, 16_384, 256, 64, 32, 1024
# Instructions of the machine language: products on tensor cores of each generation; stores and loads of spilled registers.
TENSOR_CORE = re.compile(r"\b(?:[HIDQ]MMA|[HIQ]GMMA|UTC\w*MMA)\b")
SPILL = re.compile(r"\b(?:STL|LDL)\b")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?[A-Z]", re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel: registers of a thread, instructions that spill, bytes of shared memory of a block."""

    name: str
    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    tensor_core: int  # instructions
    instructions: int
    warps: int
    multiplies: bool  # whether its source multiplies matrices of 16-bit numbers

    @property
    def complaint(self) -> str:
        """What is wrong with it, or nothing."""
        if self.spills or self.stack_bytes:
            return f"kernel {self.name} spills: {self.spills} instructions move registers to and from {self.stack_bytes} bytes"
        if self.multiplies and not self.tensor_core:
            return f"kernel {self.name} multiplies 16-bit matrices without tensor cores"
        return ""


def resident(target: str, registers: int, warps: int, shared_bytes: int) -> tuple[int, str]:
    """How many blocks of a kernel a multiprocessor holds at once, and what allows no more of them."""
    of_warp = -(-registers * 32 // REGISTERS_AT_A_TIME) * REGISTERS_AT_A_TIME
    allowed = {
        "registers": REGISTERS // of_warp * PARTS // (-(-warps // PARTS) * PARTS),
        "shared memory": SHARED_BYTES[target] // (shared_bytes + DRIVER_BYTES),
        "warps": min(WARPS // warps, BLOCKS),
    }
    least = min(allowed, key=allowed.__getitem__)
    return allowed[least], least


def compiled(launching: Callable[[], Any], target: str) -> list[Kernel]:
    """Every kernel that `launching` launches, compiled for `target`, in the order of the launches; nothing is run.

    A kernel that is launched with other constants or another alignment is another kernel: `name`, `name#2`, ...
    """
    found: list[Any] = []
    with _compiling_only(TARGETS[target], found):
        launching()
    kernels, names = {}, Counter[str]()
    for binary in found:
        if binary.hash not in kernels:
            name = binary.metadata.name
            names[name] += 1
            kernels[binary.hash] = _looked_at(binary, name if names[name] == 1 else f"{name}#{names[name]}")
    return list(kernels.values())


class _Absent:
    """Stands for the driver of a GPU that is not here: says what it is, and can do nothing."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are remembered by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cpu


@contextmanager
def _compiling_only(capability: int, found: list[Any]) -> Iterator[None]:
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        binary = run(kernel, *args, grid=grid, warmup=True, **options)
        found.append(binary)
        return binary

    before = driver._active
    driver.set_active(cast(Any, _Absent(capability)))
    setattr(JITFunction, "run", compile_only)  # noqa: B010 (a method, as far as mypy can see)
    try:
        yield
    finally:
        setattr(JITFunction, "run", run)  # noqa: B010
        driver._active = before


def _looked_at(binary: Any, name: str) -> Kernel:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(binary.asm["cubin"])
        usage = _said_by("cuobjdump", "--dump-resource-usage", str(file))
        code = _said_by("nvdisasm", "-c", str(file))
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return Kernel(
        name,
        registers=numbers["REG"],
        spills=len(SPILL.findall(code)),
        stack_bytes=numbers["STACK"] + numbers["LOCAL"],
        shared_bytes=binary.metadata.shared,
        tensor_core=len(TENSOR_CORE.findall(code)),
        instructions=len(INSTRUCTION.findall(code)),
        warps=binary.metadata.num_warps,
        multiplies=bool(re.search(r"tt\.dot .*: tensor<\w+x(?:f16|bf16)\b", binary.asm["ttir"])),
    )


def _said_by(tool: str, *words: str) -> str:
    """The output of one of the tools that come with Triton."""
    import triton.backends.nvidia

    path = Path(triton.backends.nvidia.__file__).parent / "bin" / tool
    return subprocess.run([str(path), *words], capture_output=True, text=True, timeout=120, check=True).stdout
