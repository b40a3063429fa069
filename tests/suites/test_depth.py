"""Depth by length: facts stand where it says, the solver is always right, a blind model is at chance, and maps are drawn."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from harness import catalogue
from harness.cell import OK, Cell, Record

suite = catalogue.load(catalogue.find("suite", "long-context").path)
depth, recall = suite.depth, suite.depth.recall
DOCUMENTS = [
    bytes(torch.randint(32, 120, (size,), generator=torch.Generator().manual_seed(size)).tolist()) for size in (300, 2100)
]


@pytest.mark.parametrize("n", [32, 64, 2048])
@pytest.mark.parametrize("at", depth.DEPTHS)
def test_the_solver_is_always_right_and_blindness_is_chance(n: int, at: float):
    given = depth.trials(DOCUMENTS, n, at, count=40, seed=0)
    assert given.ids.shape == (40, n)
    assert recall.right(recall.solver, given) == [1.0] * 40
    blind = recall.right(recall.blind, given)
    assert abs(sum(blind) / 40 - recall.CHANCE) < 0.11  # 160 questions: 4 standard errors


@pytest.mark.parametrize(("at", "place"), [(0.0, 16), (0.25, 25), (0.5, 34), (0.75, 43), (1.0, 52)])
def test_facts_stand_at_their_depth(at: float, place: int):
    given = depth.trials(DOCUMENTS, 64, at, count=5, seed=0)  # 36 bytes of text, beside opening, facts and questions
    for row in given.ids:
        told = ((row >= recall.FACT) & (row < recall.ASK)).nonzero()[:, 0].tolist()
        assert told == list(range(place, place + 4))
    assert (given.ids.gather(1, given.asked) >= recall.ASK).all()
    assert torch.equal(given.ids.gather(1, given.asked + 1) - recall.ANSWER, given.values)


def test_the_last_fact_stands_right_before_the_first_question():
    given = depth.trials(DOCUMENTS, 64, 1.0, count=5, seed=0)
    assert ((given.ids[:, given.asked[0, 0] - 1] >= recall.FACT) & (given.ids[:, given.asked[0, 0] - 1] < recall.ASK)).all()


def test_windows_differ_in_nothing_but_where_their_facts_stand():
    first, last = (depth.trials(DOCUMENTS, 100, at, count=10, seed=3) for at in (0.0, 1.0))
    assert torch.equal(first.values, last.values)
    for one, other in zip(first.ids.tolist(), last.ids.tolist(), strict=True):
        assert one != other
        assert sorted(one) == sorted(other)
        assert [b for b in one if b < recall.FACT] == [b for b in other if b < recall.FACT]
    assert not torch.equal(first.ids, depth.trials(DOCUMENTS, 100, 0.0, count=10, seed=4).ids)


def test_a_model_that_forgets_is_right_only_where_facts_are_near():
    def forgets(ids: torch.Tensor) -> torch.Tensor:
        return recall.solver(torch.cat([torch.full_like(ids[:, :-32], 65), ids[:, -32:]], 1))

    far, near = (recall.right(forgets, depth.trials(DOCUMENTS, 256, at, 20, 0)) for at in (0.5, 1.0))
    assert near == [1.0] * 20
    assert sum(far) / 20 < 0.3


def test_windows_without_room_are_left_out_or_an_error():
    assert depth.lengths(32) == [32, 64, 128, 256, 512]
    assert depth.lengths(128) == [64, 128, 256, 512, 1024, 2048]
    with pytest.raises(ValueError, match="no window of 28 bytes"):
        depth.trials(DOCUMENTS, 28, 0.5, 1, 0)
    with pytest.raises(ValueError, match="the longest document has 2100"):
        depth.trials(DOCUMENTS, 9999, 0.5, 1, 0)


def record(subject: str, share: float, seed: int = 0, ends: int = 512) -> Record:
    spec, _, name = subject.partition("/")
    found: dict[str, Any] = {
        str(n): {f"{at:g}": [share, share / 2] if n <= ends else f"positions end at {ends}" for at in depth.DEPTHS}
        for n in depth.lengths(32)
    }
    cell = Cell("long-context", spec, name, case="depth", seed=seed, settings={"scale": "smoke", "text": ""})
    return Record(cell, OK, {"text": "a text", "recall": found}, "", {}, "machine", {}, 1.0, "2026-01-01", "run")


def test_a_table_and_a_map_for_each_model():
    failed = replace(record("c/z", 0.0), outcome="timed_out", note="too slow")
    records = [record("a/torch_x", 1.0), record("a/torch_x", 0.5, seed=1), record("b/torch_y", 0.5, ends=64), failed]
    (frame,) = suite.table(records).values()
    assert frame[frame.model == "a/torch_x"].length.tolist() == [32, 64, 128, 256, 512]
    assert frame["depth 0.5"][0] == pytest.approx(0.56, abs=0.01)
    assert frame["depth 0.5 ±"][0] > 0
    short = frame[frame.model == "b/torch_y"]
    assert short["depth 1"].isna().tolist() == [False, False, True, True, True]
    assert short.note.tolist()[1:3] == ["", "unsupported: positions end at 64"]
    assert frame[frame.model == "c/z"].note.tolist() == ["timed out: too slow"]
    (drawn,) = suite.pictures(records).values()
    assert [axis.get_title() for axis in drawn.axes if axis.get_title()] == ["a", "b"]


def test_thirty_maps_fit():
    drawn = suite.pictures([record(f"model_{i:02}/x", i / 30) for i in range(30)])["depth smoke"]
    assert drawn.get_size_inches()[0] < 15
    assert len([axis for axis in drawn.axes if axis.get_title()]) == 30
