"""From words to cells: selection, types, what the store answers, and what decides that."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import catalogue, machine, plan
from harness.cell import Cell, Record
from harness.store import Store

ONE = {"suite": "correctness", "spec": "rotary", "impl": "pairs", "case": "plain", "dtype": "float32", "family": "normal"}


def asked(**changes: str) -> tuple[list, object]:
    chosen, suite = plan.selection(ONE | changes)
    return plan.cells(chosen, suite), suite


def test_patterns_and_lists_select():
    assert len(asked()[0]) == 1
    assert {cell.dtype for cell in asked(dtype="float32,bf*")[0]} == {"float32", "bfloat16"}
    assert {cell.implementation for cell in asked(impl="*")[0]} >= {"pairs", "complex"}
    assert {cell.seed for cell in asked(seed="3,4")[0]} == {3, 4}


def test_keys_are_stable_and_differ():
    first, again = asked()[0][0], asked()[0][0]
    assert first.key == again.key
    assert len({cell.key for cell in asked(case="*", dtype="*", family="*")[0]}) == len(asked(case="*", dtype="*", family="*")[0])


def test_asking_for_a_family_asks_for_no_law():
    assert all("law" not in cell.settings for cell in asked()[0])
    assert all("law" in cell.settings for cell in asked(family="*", law="two_turns_add_up")[0])


@pytest.mark.parametrize(
    ("outcome", "kept"), [("ok", 1), ("wrong", 1), ("unsupported", 1), ("crashed", 0), ("timed_out", 0), ("out_of_memory", 0)]
)
def test_what_may_be_of_the_moment_is_asked_again(tmp_path: Path, outcome: str, kept: int):
    (cell,), suite = asked()
    store = Store(tmp_path)
    digests = plan.digests(cell, suite)
    store.append(Record(cell, outcome, {}, "", digests, machine.name(), machine.versions(), 0.0, "2026", "r"))
    todo, answered = plan.unanswered([cell], suite, store.read())
    assert (len(todo), len(answered)) == (1 - kept, kept)


def test_other_digests_ask_again(tmp_path: Path):
    (cell,), suite = asked()
    store = Store(tmp_path)
    old = plan.digests(cell, suite) | {"implementation": "older"}
    store.append(Record(cell, "ok", {}, "", old, machine.name(), machine.versions(), 0.0, "2026", "r"))
    assert len(plan.unanswered([cell], suite, store.read())[0]) == 1


def took(store: Store, cell: Cell, outcome: str, time_s: float) -> None:
    """A record of older code."""
    store.append(Record(cell, outcome, {}, "", {}, machine.name(), machine.versions(), time_s, "2026", "r"))


@pytest.mark.parametrize(
    ("outcome", "time_s", "expected", "told"),
    [
        ("ok", 9.0, 2.0, 9.0),
        ("ok", 0.5, 2.0, 2.0),
        ("ok", 9.0, None, 9.0),
        ("unsupported", 0.5, 2.0, 0.5),
        ("ok", 0.0, None, 1e-3),
    ],
)
def test_a_cell_takes_as_long_as_it_last_took_or_longer(
    tmp_path: Path, outcome: str, time_s: float, expected: float | None, told: float
):
    (cell,), _ = asked()
    took(Store(tmp_path), cell, outcome, time_s)
    suite: Any = SimpleNamespace() if expected is None else SimpleNamespace(cost=lambda cell: expected)
    assert plan.seconds([cell], suite, Store(tmp_path).read()) == {cell: told}


def test_a_cell_takes_as_long_as_it_took_with_another_seed(tmp_path: Path):
    (cell,), _ = asked()
    quick, again = replace(cell, case="causal"), replace(cell, seed=1)
    took(Store(tmp_path), cell, "ok", 9.0)
    took(Store(tmp_path), quick, "ok", 1.0)
    assert plan.seconds([quick, again], SimpleNamespace(), Store(tmp_path).read()) == {quick: 1.0, again: 9.0}


def test_a_cell_that_nobody_knows_takes_as_long_as_others(tmp_path: Path):
    (cell,), _ = asked()
    other, suite = replace(cell, case="causal"), SimpleNamespace()
    assert plan.seconds([cell, other], suite, Store(tmp_path).read()) == {}
    took(Store(tmp_path), cell, "ok", 9.0)
    assert plan.seconds([cell, other], suite, Store(tmp_path).read()) == {cell: 9.0, other: 9.0}


def test_a_selection_of_nothing_says_what_else_could_be_asked():
    chosen, suite = plan.selection({"suite": "long-context", "spec": "hat"})
    with pytest.raises(plan.WrongRequest, match=r"task=extrapolation was asked; there are: extrapolation, .*memorize"):
        plan.cells(chosen, suite)


def test_who_takes_a_model_is_told_to_be_given_one():
    with pytest.raises(plan.WrongRequest, match="impl=transformers asks a model of yours: say model=FOLDER"):
        plan.selection({"suite": "long-context", "impl": "transformers"})


def test_a_suite_that_takes_no_model_asks_nobody_who_needs_one():
    chosen, suite = plan.selection({"suite": "speed", "spec": "language_model"})
    assert "transformers" not in {cell.implementation for cell in plan.cells(chosen, suite)}


def test_two_implementations_of_one_name_are_refused(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pairs.py").write_text('spec = "rotary"\n')
    one, two = (str(tmp_path / folder / "pairs.py") for folder in ("one", "two"))
    with pytest.raises(plan.WrongRequest, match=r"are both called rotary/pairs.py in tables.\n  Ask one at a time"):
        asked(impl=f"{one},{two}")
    assert [cell.subject for cell in asked(impl=f"pairs,{one}")[0]] == ["rotary/pairs", "rotary/pairs.py"]


def test_what_many_cells_have_in_common_is_looked_up_once(monkeypatch: pytest.MonkeyPatch):
    cells, suite = asked(case="*", dtype="*")
    plan._of_code.cache_clear()
    looked, find = [], catalogue.find
    monkeypatch.setattr(catalogue, "find", lambda *what: looked.append(what) or find(*what))
    assert len(plan.unanswered(cells, suite, [])[0]) == len(cells) > 2
    assert sorted(looked) == [("spec", "rotary"), ("suite", "correctness")]
