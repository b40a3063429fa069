"""Speed cells as benchmarks of pytest-benchmark: judged before and after, inputs of their own, what is unsupported skipped."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TURNING = '''"""A rotary embedding whose answer is taken times RIGHT."""

import torch

spec = "rotary"
gradients = False


def prepare(case):
    frequency = case.base ** (torch.arange(0, case.d, 2) / -case.d)

    def run(x, position):
        angle = position[:, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(case.dtype)
        return turned * RIGHT

    return run
'''


def benchmarked(cells: str) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "ci/benchmarks/test_cells.py",
        "--benchmark-only",
    ]
    # pytest-benchmark measures nothing within a worker of xdist, and this is one no longer.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    words = [*command, "--cells", cells]
    said = subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, check=False, timeout=300)
    return said.returncode, said.stdout


def test_a_right_one_is_timed_and_interpreted_triton_is_skipped():
    status, told = benchmarked("spec=rotary impl=pairs,triton_rotary form=forward")
    assert status == 0
    assert "test_cell[rotary/pairs-plain-forward-64]" in told
    assert "SKIPPED [1]" in told
    assert "its kernels are interpreted on the CPU" in told


def test_a_wrong_one_is_not_timed(tmp_path: Path):
    file = tmp_path / "wrong.py"
    file.write_text(TURNING.replace("RIGHT", "0"))
    status, told = benchmarked(f"spec=rotary impl={file} form=forward")
    assert status == 1
    assert "rotary/wrong.py is wrong in case plain, float32" in told
    assert "not timed: " in told


def test_one_that_is_wrong_only_while_it_is_timed_here_fails(tmp_path: Path):
    """In the worker of the judge it is right; in the process of pytest it is not."""
    file = tmp_path / "late.py"
    file.write_text(TURNING.replace("RIGHT", '("pytest" not in __import__("sys").modules)'))
    status, told = benchmarked(f"spec=rotary impl={file} form=forward")
    assert status == 1
    assert "timed it answers otherwise than judged" in told
