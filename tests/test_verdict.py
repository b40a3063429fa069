"""The words of a verdict tell two numbers apart, and say where there is none."""

import pytest
import torch

from harness import verdict


def note(got: float, truth: float) -> str:
    one, other, budget = (torch.tensor([[value]], dtype=torch.float64) for value in (got, truth, 1e-12))
    return verdict.judge(lambda look: ({"out": other}, {"out": budget}), {"": {"out": one}}, {"out": ("b", "n")}, "x").note


def test_numbers_that_look_alike_get_more_digits():
    assert note(1.5, 2.0).startswith("  out[b=0 n=0] is 1.5, but should be 2\n")
    assert note(-16.00000001, -16.0).startswith("  out[b=0 n=0] is -16.00000001, but should be -16\n")


def test_an_axis_that_is_a_number_in_the_contract_is_told_by_its_place():
    truth = torch.zeros(2, 4, dtype=torch.float64)
    got, budget = truth.clone(), truth + 1e-12
    got[1, 3] = 1
    lines = verdict.judge(lambda look: ({"w": truth}, {"w": budget}), {"": {"w": got}}, {"w": ("d", "4")}, "x").note.splitlines()
    assert lines[0] == "  w[d=1 3] is 1, but should be 0"
    assert lines[2].endswith(", all at axis 1 = 3")


def test_where_the_definition_gives_no_number_it_is_said():
    assert note(float("nan"), float("nan")).startswith("  out[b=0 n=0] is nan, where the definition itself gives no number\n")


def test_an_output_is_told_before_the_gradients_that_are_wrong_with_it():
    got = {"out": torch.full((1, 2), 1.5).double(), "q.grad": torch.full((1, 2), 9.0).double()}
    truth = {name: torch.ones(1, 2).double() for name in got}
    budget = {name: torch.full((1, 2), 1e-3).double() for name in got}
    lines = verdict.judge(lambda look: (truth, budget), {"": got}, {"out": ("b", "n")}, "x").note.splitlines()
    assert lines[0].startswith("  out[b=0 n=0] is 1.5")
    assert lines[-1] == "  wrong too: q.grad"


def test_what_is_within_grade_a_is_within_grade_b():
    got = {name: torch.full((1, 2), 1.5).double() for name in ("out", "state")}
    truth = {name: torch.ones(1, 2).double() for name in got}
    tight, wide = torch.full((1, 2), 1e-3).double(), torch.full((1, 2), 1.0).double()
    budgets = [{"out": tight, "state": wide}, {"out": wide, "state": tight}]
    assert verdict.judge(lambda look: (truth, budgets[look]), {"": got}, {}, "x").grade == "B"


@pytest.mark.parametrize(("off", "grade"), [(2.0, "B"), (9.0, "")])
def test_a_near_thing_is_looked_at_with_more_samples(off: float, grade: str):
    got, truth = torch.full((1, 2), off).double(), torch.zeros(1, 2).double()
    budgets = [torch.full((1, 2), budget).double() for budget in (0.1, 1.0, 10.0)]
    found = verdict.judge(lambda look: ({"out": truth}, {"out": budgets[look]}), {"": {"out": got}}, {}, "x")
    assert (found.grade, found.answer.outcome) == (grade, "ok" if grade else "wrong")
