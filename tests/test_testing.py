"""The one line that a third party writes: which tests it gives, what they say, and how expected failures are kept."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GOOD = """
import torch
def prepare(case):
    def run(x, position):
        half = case.d // 2
        angle = position.double()[:, None] * case.base ** (-torch.arange(half).double() * 2 / case.d)
        one, other = x.double()[..., 0::2], x.double()[..., 1::2]
        turned = one * angle.cos() - other * angle.sin(), one * angle.sin() + other * angle.cos()
        return torch.stack(turned, -1).flatten(-2).to(case.dtype)
    return run
"""
TEST = """
from harness.testing import conformance
test_mine = conformance("rotary", "my_package.turn:prepare", dtype="float32", case="plain,wide"{more})
"""


@pytest.fixture
def ran(tmp_path: Path) -> Any:
    """Runs a third party's test file on an implementation; counts of outcomes and the output."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()

    def run(implementation: str, more: str = "", expected: str | None = None) -> tuple[dict[str, int], str]:
        (tmp_path / "my_package" / "turn.py").write_text(implementation)
        (tmp_path / "test_mine.py").write_text(TEST.format(more=more))
        if expected is not None:
            (tmp_path / "known.xfail").write_text(expected)
        words = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tmp_path)]
        said = subprocess.run([*words, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
        last = said.stdout.strip().splitlines()[-1]
        return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", last.partition(" in ")[0])}, said.stdout

    return run


def test_each_case_family_and_law_is_a_test(ran: Any) -> None:
    counts, output = ran(GOOD)
    assert set(counts) == {"passed"}, output
    assert counts["passed"] > 4


def test_a_failure_says_what_is_wrong_and_how_to_ask_again(ran: Any) -> None:
    counts, output = ran(GOOD.replace("+ other * angle.cos()", "- other * angle.cos()"))
    assert counts["failed"] > 0
    assert "is wrong in case plain, float32" in output
    assert "harness check my_package.turn:prepare spec=rotary case=plain dtype=float32 family=normal" in output
    assert "Traceback" not in output


def test_expected_failures_are_kept_in_a_file(ran: Any) -> None:
    wrong = GOOD.replace("+ other * angle.cos()", "- other * angle.cos()")
    counts, output = ran(wrong, ', expected_failures="known.xfail", family="normal"', "*-float32-normal  # signs, issue 12\n")
    assert counts == {"xfailed": 2}, output
    assert "signs, issue 12 (known.xfail:1)" in output


def test_an_expected_failure_that_passes_is_reported(ran: Any) -> None:
    counts, output = ran(GOOD, ', expected_failures="known.xfail", family="normal"', "plain-float32-normal\n")
    assert counts == {"failed": 1, "passed": 1}
    assert "XPASS(strict)" in output


def test_a_line_that_names_no_test_is_an_error(ran: Any) -> None:
    _, output = ran(GOOD, ', expected_failures="known.xfail"', "plain-float64-normal\n")
    assert "known.xfail:1: no test is named 'plain-float64-normal'" in output


def test_what_is_unsupported_is_skipped_with_its_sentence(ran: Any) -> None:
    refusing = "from harness import Unsupported\ndef prepare(case):\n    raise Unsupported('knows no turning')\n"
    counts, output = ran(refusing)
    assert set(counts) == {"skipped"}
    assert "knows no turning" in output
