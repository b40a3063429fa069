"""Kernels are compiled for GPUs that are not here, and what the compiler says of them is read rightly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import kernels

triton = pytest.importorskip("triton", reason="triton is an optional extra")
# Triton decides at its import whether kernels are interpreted; a process of its own compiles.
ALONE = """
import sys, torch, triton, triton.language as tl
sys.path.insert(0, {folder!r})
from harness import kernels

@triton.jit
def product(A, B, C, SIDE: tl.constexpr):
    at = tl.arange(0, SIDE)
    square = at[:, None] * SIDE + at
    tl.store(C + square, tl.dot(tl.load(A + square), tl.load(B + square), input_precision="ieee"))

def launch(dtype, side=64):
    x = torch.zeros(side, side, dtype=dtype)
    product[(1,)](x, x, torch.zeros(side, side), side)

{do}
"""


def said(do: str) -> str:
    code = ALONE.format(folder=str(Path(__file__).parents[1]), do=do)
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    file = Path(os.environ["PYTEST_FOLDER"], "launches.py")
    file.write_text(code)
    return subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True, timeout=300, env=clean).stdout


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_FOLDER", str(tmp_path))


@pytest.mark.parametrize("target", kernels.TARGETS)
def test_tensor_cores_are_counted_where_they_are_used(target: str) -> None:
    found = said(
        f"for dtype in (torch.float16, torch.float32): "
        f"[print(k.tensor_core > 0, k.multiplies, k.registers > 0, k.instructions > 0, k.complaint) "
        f"for k in kernels.compiled(lambda: launch(dtype, 64 if dtype == torch.float16 else 16), {target!r})]"
    )
    assert found.splitlines() == ["True True True True ", "False False True True "]


def test_a_kernel_that_spills_is_named() -> None:
    found = said(
        "found = kernels.compiled(lambda: (launch(torch.float32, 16), launch(torch.float32, 64)), 'sm_90')\n"
        "for k in found: print(k.name, k.spills > 0, k.complaint)"
    )
    right, spilling = found.splitlines()
    assert right == "product False "
    assert spilling.startswith("product#2 True kernel product#2 spills: ")


def test_a_product_of_halves_without_tensor_cores_is_a_complaint() -> None:
    kernel = kernels.Kernel("slow", 32, 0, 0, 0, 0, 100, 4, multiplies=True)
    assert kernel.complaint == "kernel slow multiplies 16-bit matrices without tensor cores"


def test_the_driver_is_put_back_and_nothing_is_run() -> None:
    assert said(
        "from triton.runtime.driver import driver\nfrom triton.runtime.jit import JITFunction\n"
        "before = driver._active, JITFunction.run\n"
        "out = torch.full((64, 64), 7.0)\n"
        "kernels.compiled(lambda: product[(1,)](out, out, out, 16), 'sm_80')\n"
        "print((driver._active, JITFunction.run) == before, bool((out == 7).all()))"
    ).split() == ["True", "True"]


@pytest.mark.parametrize(
    ("registers", "warps", "shared_bytes", "blocks"),
    [
        (128, 8, 0, (2, "registers")),  # 65,536 / (128 * 256)
        (168, 8, 0, (1, "registers")),  # three warps in each part, of which two blocks would want four
        (255, 4, 0, (2, "registers")),  # of a warp 8,160 become 8,192
        (32, 4, 48 * 1024, (4, "shared memory")),  # 49 KiB each of 228
        (32, 4, 113 * 1024, (2, "shared memory")),  # the most that two blocks may have
        (32, 4, 114 * 1024, (1, "shared memory")),
        (16, 8, 0, (8, "warps")),
    ],
)
def test_blocks_of_a_multiprocessor_are_those_of_the_programming_guide(
    registers: int, warps: int, shared_bytes: int, blocks: tuple[int, str]
) -> None:
    assert kernels.resident("sm_90", registers, warps, shared_bytes) == blocks
