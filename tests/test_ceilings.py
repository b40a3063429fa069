"""Ceilings are the fastest of what was seen, kept once, and raised before anybody is accused; with planted clocks only."""

import json
from pathlib import Path

import pytest
import torch

from harness import ceilings, clock
from harness.ceilings import Ceilings

LOW = Ceilings(1, 1e9, 1e10, {"float32": 1e10, "bfloat16": 1e9})
HIGH = Ceilings(1, 2e9, 5e9, {"float32": 5e9, "bfloat16": 1e11, "int8": 1e12})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path


def test_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, cache: Path):
    asked = []
    monkeypatch.setattr(ceilings, "measured", lambda device, threads: asked.append((device, threads)) or LOW)
    assert ceilings.here("cpu", 1) == ceilings.here("cpu", 1) == LOW
    assert asked == [("cpu", 1)]
    assert ceilings.file("cpu", 1).is_relative_to(cache)
    assert json.loads(ceilings.file("cpu", 1).read_text())["copied"] == 1e9
    ceilings.here("cpu", 2)
    assert asked == [("cpu", 1), ("cpu", 2)], "other threads have other ceilings"


def test_measured_anew_they_only_rise(monkeypatch: pytest.MonkeyPatch):
    found = [LOW, HIGH, LOW]
    monkeypatch.setattr(ceilings, "measured", lambda device, threads: found.pop(0))
    assert ceilings.here("cpu", 1) == LOW
    raised = Ceilings(1, 2e9, 1e10, {"float32": 1e10, "bfloat16": 1e11, "int8": 1e12})
    assert ceilings.here("cpu", 1, anew=True) == raised
    assert ceilings.here("cpu", 1, anew=True) == raised, "what was possible once is possible"
    assert ceilings.here("cpu", 1) == raised


def test_floor_and_roofline():
    assert LOW.floor_s(1e10, 0) == 1.0, "at the fastest rate of any dtype"
    assert LOW.floor_s(0, 1e10) == 1.0, "from the fastest cache"
    assert LOW.floor_s(1e10, 3e10) == 3.0
    assert LOW.roofline_s(1e9, 0, "bfloat16") == 1.0
    assert LOW.roofline_s(1e9, 2e9, "float32") == 2.0, "from memory"


def test_threads_are_those_asked_for_and_put_back(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(ceilings, "measured", lambda device, threads: seen.append(torch.get_num_threads()) or LOW)
    before = torch.get_num_threads()
    ceilings.here("cpu", 2)
    assert (seen, torch.get_num_threads()) == ([2], before)


def planted(monkeypatch: pytest.MonkeyPatch, rate: dict[torch.dtype, float]) -> list[tuple[torch.dtype, int]]:
    """Products take as long as at these rates, and copies a second for 1e9 bytes; nothing is computed. The products asked for."""
    asked: list[tuple[torch.dtype, int]] = []

    def seconds(call, device):
        if not hasattr(call, "args"):
            return 0.1
        side = len(call.args[0])
        asked.append((call.args[0].dtype, side))
        return 2 * side**3 / rate[call.args[0].dtype]

    monkeypatch.setattr(clock, "seconds", seconds)
    return asked


def test_where_a_product_is_slow_no_larger_one_is_tried(monkeypatch: pytest.MonkeyPatch):
    rates = {torch.float32: 1e11, torch.bfloat16: 4e11, torch.float16: 1e9, torch.int8: 1e12}
    asked = planted(monkeypatch, rates)
    monkeypatch.setattr(ceilings, "COPIED_BYTES", 2**16)
    found = ceilings.measured("cpu", 1)
    assert found.products == pytest.approx({"float32": 1e11, "bfloat16": 4e11, "float16": 1e9, "int8": 1e12})
    assert {side for dtype, side in asked if dtype == torch.float32} == set(ceilings.SIDES)
    assert {side for dtype, side in asked if dtype == torch.float16} == {256, 512}
    assert asked.count((torch.float16, 512)) == ceilings.LEAST


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("faster", ["matmul", "oneDNN"])
def test_the_fastest_way_to_multiply_counts(faster: str, monkeypatch: pytest.MonkeyPatch):
    def fastest(call, device):
        return 1e-5 if (call.func is torch.matmul) == (faster == "matmul") else 1e-4

    monkeypatch.setattr(ceilings, "_fastest", fastest)
    assert ceilings._products(torch.float32, "cpu") == 2 * ceilings.SIDES[-1] ** 3 / 1e-5


def test_what_is_measured_otherwise_is_measured_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = ceilings.file("cpu", 1)
    (tmp_path / "ceilings.py").write_text("measures otherwise")
    monkeypatch.setattr(ceilings, "__file__", str(tmp_path / "ceilings.py"))
    assert ceilings.file("cpu", 1) != before


def test_the_fastest_counts_and_the_fastest_copy_of_any_size(monkeypatch: pytest.MonkeyPatch):
    left = [3.0, 0.1, 0.2]
    monkeypatch.setattr(clock, "seconds", lambda call, device: left.pop(0))
    assert ceilings._fastest(lambda: None, "cpu") == 0.1
    rates = dict(zip((*ceilings.CACHED_BYTES, ceilings.COPIED_BYTES), (1.0, 2.0, 9.0, 3.0, 2.0, 1.5), strict=True))
    monkeypatch.setattr(ceilings, "_copies", lambda size, device: rates[size])
    monkeypatch.setattr(ceilings, "_products", lambda dtype, device: 1.0)
    found = ceilings.measured("cpu", 0)
    assert (found.copied, found.cached) == (1.5, 9.0)


def test_small_ones_are_really_measured(monkeypatch: pytest.MonkeyPatch):
    """No number is asserted, but that there is one; int8 products by torch's own function for them."""
    monkeypatch.setattr(ceilings, "SIDES", (32,))
    assert all(ceilings._products(dtype, "cpu") > 0 for dtype in ceilings.DTYPES.values())
    assert ceilings._copies(2**14, "cpu") > 0
