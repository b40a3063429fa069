"""A score is 0 for no error, infinite for what must not happen, and sees both one bad row and a little everywhere."""

import math

import pytest
import torch
from torch import Tensor

from harness.compare import ALL, ROW, row_scores, score


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_error_scores_nothing():
    truth = normal(4, 8)
    assert score(truth, truth, torch.zeros(4, 8)) == 0
    assert score(truth, truth, torch.ones(4, 8)) == 0


def test_an_error_where_none_is_allowed_is_infinite():
    truth, got = torch.zeros(4, 8), torch.zeros(4, 8)
    got[2, 3] = 1e-30
    assert score(got, truth, torch.zeros(4, 8)) == math.inf
    assert row_scores(got, truth, torch.zeros(4, 8)).tolist() == [0, 0, math.inf, 0]


def test_tiny_errors_do_not_vanish_when_squared():
    truth = torch.zeros(1, 4, dtype=torch.float64)
    assert score(truth + 1e-200, truth, truth + 1e-210) > 1e9
    assert 0 < score(truth + 1e-200, truth, truth + 1e-200) < 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_infinitely_wrong(bad):
    truth, got = normal(3, 5), normal(3, 5)
    got[1, 1] = bad
    assert score(got, truth, torch.ones(3, 5)) == math.inf


def test_infinities_are_equal_and_nan_is_not():
    truth = torch.tensor([[1.0, math.inf], [1.0, -math.inf]])
    assert score(truth, truth, torch.ones(2, 2)) == 0
    assert score(-truth, truth, torch.ones(2, 2)) == math.inf
    assert score(torch.tensor([[math.nan]]), torch.tensor([[math.nan]]), torch.ones(1, 1)) == math.inf


def test_overflow_is_allowed_where_the_budget_says_so():
    truth, allowed = torch.tensor([[70000.0, 1.0]]), torch.tensor([[math.inf, 0.1]])
    assert score(torch.tensor([[math.inf, 1.0]]), truth, allowed) == 0
    assert score(torch.tensor([[-math.inf, 1.0]]), truth, allowed) == math.inf
    assert score(torch.tensor([[math.nan, 1.0]]), truth, allowed) == math.inf
    assert score(torch.tensor([[math.inf, 9.0]]), truth, allowed) > 1


def test_a_comparison_of_nothing_or_of_other_shapes_is_wrong():
    assert score(torch.ones(0, 4), torch.ones(0, 4), torch.ones(0, 4)) == math.inf
    assert score(torch.ones(1, 4), torch.ones(3, 4), torch.ones(3, 4)) == math.inf


def test_a_single_number_is_a_row():
    assert score(torch.tensor(1.5), torch.tensor(1.0), torch.tensor(0.5)) == pytest.approx(1 / (2 * ALL))
    assert row_scores(torch.tensor(1.5), torch.tensor(1.0), torch.tensor(0.5)).tolist() == pytest.approx([1 / (2 * ROW)])


def test_errors_of_the_size_of_the_budget_pass_and_a_few_more_do_not():
    truth, error = normal(200, 64), normal(200, 64, seed=1)
    assert score(truth + 0.1 * error, truth, torch.full((200, 64), 0.1)) < 1
    assert score(truth + 0.2 * error, truth, torch.full((200, 64), 0.1)) > 1.5


def test_one_bad_row_among_many_is_seen():
    truth = normal(5000, 16)
    got = truth.clone()
    got[1234] = 0
    budget = torch.full_like(truth, 0.01)
    assert score(got, truth, budget) > 10
    assert int(row_scores(got, truth, budget).argmax()) == 1234


def test_one_per_cent_everywhere_is_seen_though_no_row_is():
    truth = normal(500, 16)
    # Rounding to bfloat16 as it is modelled: about 0.0026 of each value.
    budget = 0.004 * truth.abs()
    got = truth * 1.01
    assert row_scores(got, truth, budget).max() < 1
    assert score(got, truth, budget) > 1.5


def test_exact_rows_do_not_dilute_the_rest():
    truth, budget = normal(40, 16), torch.zeros(40, 16)
    budget[:4] = 1
    got = truth.clone()
    got[:4] += 2.0
    assert score(got, truth, budget) == pytest.approx(score(got[:4], truth[:4], budget[:4]))
    assert score(got, truth, budget) > 1
