"""Streams, depth and growth, each once through at its smallest: what is measured is stored, and tables and pictures read it."""

from pathlib import Path

import pytest

from harness import catalogue
from harness.cell import OK, Cell, Record
from harness.contract import ContractError
from harness.implementation import Implementation

suite = catalogue.load(catalogue.find("suite", "long-context").path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def measured(task: str, name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """The record as it comes back from the store."""
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    spec, _, implementation = name.partition("/")
    cell = Cell("long-context", spec, implementation, "", task, "float32", settings={"scale": "smoke", "text": ""})
    values = suite.TASKS[task].measure(cell, Implementation.of(cell), lambda share, doing: None)
    assert suite.cost(cell) > 0
    return Record.from_json(Record(cell, OK, values, "", {}, "machine", {}, 1.0, "2026-01-01", "run").to_json())


@pytest.mark.xdist_group("long-context-tasks")
def test_a_retnet_streams_without_growing(cache: Path, monkeypatch: pytest.MonkeyPatch):
    record = measured("streaming", "retnet/torch_parallel", cache, monkeypatch)
    assert (record.values["stopped"], record.values["grows_by"]) == ("", 0)
    assert len(record.values["bits"]) == 2048 // 64
    assert set(record.values["state_bytes"]) == {2 * 2 * 16 * 16 * 4}, "layers, heads, keys times values, float32"
    quality, _, claims = suite.table([record]).values()
    assert 1 < quality["2048"][0] < 7
    assert claims.set_index("claim").here["RetNet carries constant bytes"] == "shows"
    assert len(suite.pictures([record])) == 2


@pytest.mark.xdist_group("long-context-tasks")
def test_attention_is_stopped_and_its_cache_is_what_it_must_be(cache: Path, monkeypatch: pytest.MonkeyPatch):
    record = measured("streaming", "transformer_rope/torch_sdpa", cache, monkeypatch)
    bytes_ = 2 * 2 * 32 * 4  # layers, keys and values, width, float32
    assert record.values["stopped"] == f"its state grows by {bytes_} bytes a byte of text, {bytes_ * 1024:,} bytes at 1,024"


def part(name: str, kind: str) -> type:
    """A class in the file of an implementation of ours."""
    found: type = getattr(catalogue.load(catalogue.find("implementation", name).path), kind)
    return found


@pytest.mark.xdist_group("long-context-tasks")
@pytest.mark.parametrize("task", ["extrapolation", "depth"])
def test_a_model_that_is_another_one_far_out_is_wrong(task: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    kind = part("transformer_rope/torch_sdpa", "RotaryAttention")
    near = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: near(self, x) * (1 if x.shape[1] <= 40 else 0.5))
    with pytest.raises(ContractError, match="as it is measured, it does not compute what its spec says of"):
        measured(task, "transformer_rope/torch_sdpa", cache, monkeypatch)


@pytest.mark.xdist_group("long-context-tasks")
def test_a_stream_whose_state_is_kept_elsewhere_is_wrong(cache: Path, monkeypatch: pytest.MonkeyPatch):
    kind = part("transformer_rope/torch_sdpa", "RotaryAttention")
    step = kind.step

    def hoarding(self, x, state):
        y, self.hoard = step(self, x, None if state is None else self.hoard)
        return y, 0

    monkeypatch.setattr(kind, "step", hoarding)
    with pytest.raises(ContractError, match="with two texts read in turn, it does not say what it says of the whole"):
        measured("streaming", "transformer_rope/torch_sdpa", cache, monkeypatch)


@pytest.mark.xdist_group("long-context-tasks")
def test_depth_has_a_share_for_each_place(cache: Path, monkeypatch: pytest.MonkeyPatch):
    record = measured("depth", "retnet/torch_parallel", cache, monkeypatch)
    (frame,) = suite.table([record]).values()
    assert frame.length.tolist() == [32, 64, 128, 256, 512]
    assert frame[[f"depth {depth:g}" for depth in suite.depth.DEPTHS]].notna().all(axis=None)
    assert len(suite.pictures([record])) == 1


@pytest.mark.xdist_group("long-context-tasks")
def test_growth_has_samples_of_every_quantity(cache: Path, monkeypatch: pytest.MonkeyPatch):
    record = measured("growth", "transformer_rope/torch_sdpa", cache, monkeypatch)
    for key in suite.growth.QUANTITIES:
        assert "32" in record.values[key]
        assert {len(of) for of in record.values[key].values()} == {6 if key.endswith("_s") else 1}
    state = {int(n): of[0] for n, of in record.values["state_bytes"].items()}
    assert all(bytes_ == n * 2 * 2 * 32 * 4 for n, bytes_ in state.items())
    assert len(suite.table([record])) == len(suite.pictures([record])) == len(suite.growth.QUANTITIES)
