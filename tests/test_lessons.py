"""Lessons: the best of the rates counts, one that comes to no number is passed over, and nothing is learned twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.contract import ContractError
from harness.lessons import Lesson, learned
from harness.nn.train import TrainingFailed

STARTED = []


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    STARTED.clear()


def model() -> nn.Module:
    STARTED.append(1)
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, 16), nn.Linear(16, 8))


def rows() -> Iterator[tuple[Tensor, Tensor]]:
    """To be said is what stands there."""
    rng = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(8, (4, 6), generator=rng)
        yield ids, ids


LESSON = Lesson(model, rows, 60, {"of": "this test"})


def test_the_best_rate_by_the_last_steps_counts():
    best, told = learned(LESSON, (1e-4, 1e-1, 1e-3), lambda share, doing: None)
    assert (best.rate, told["lr"], told["steps"]) == (1e-1, 1e-1, 60)
    assert told["tried"]["0.1"] == min(told["tried"].values()) == round(sum(best.history[-50:]) / 50, 4)
    assert len(STARTED) == 3, "a rate went on from where another ended"


def test_nothing_is_learned_twice():
    first, _ = learned(LESSON, (1e-2,), lambda share, doing: None)
    again, told = learned(LESSON, (1e-2,), lambda share, doing: None)
    assert (len(STARTED), first.kept, again.kept) == (1, False, True)
    assert told["weights"] == "kept from an earlier run"
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)


def test_a_rate_that_comes_to_no_number_is_passed_over_and_none_left_is_an_error():
    best, told = learned(LESSON, (1e30, 1e-2), lambda share, doing: None)
    assert (best.rate, told["tried"]["1e+30"]) == (1e-2, float("inf"))
    with pytest.raises(TrainingFailed, match="no number at any learning rate of 1e\\+30"):
        learned(LESSON, (1e30,), lambda share, doing: None)


def test_progress_goes_over_all_rates():
    heard: list[float] = []
    learned(LESSON, (1e-2, 1e-3), lambda share, doing: heard.append(share))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


class SaysItAgain(nn.Module):
    """Nothing in it learns, and nothing tells a device."""

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot(ids, 8).float()


def test_a_model_with_nothing_to_train_is_a_fault_of_it():
    for rates in ((1e-2,), (1e30, 1e-2)):
        with pytest.raises(ContractError, match="has no parameters that learn"):
            learned(Lesson(SaysItAgain, rows, 60, {"of": "no parameters"}), rates, lambda share, doing: None)
