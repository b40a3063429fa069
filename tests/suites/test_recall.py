"""Recall at distance: the solver is always right, a blind model is at chance, and distances are what they claim."""

import itertools
import random
from pathlib import Path

import pytest
import torch

from harness import catalogue

recall = catalogue.load(Path(__file__).parents[2] / "suites" / "long_context" / "recall.py")
DOCUMENTS = [bytes(random.Random(0).choices(range(32, 127), k=5000)), "größer ".encode() * 500]


@pytest.mark.parametrize("distance", [1, 64, 2048])
def test_the_solver_is_always_right_and_blindness_is_chance(distance):
    given = recall.trials(DOCUMENTS, distance, count=100, seed=0)
    assert recall.right(recall.solver, given) == [1.0] * 100
    blind = recall.right(recall.blind, given)
    assert abs(sum(blind) / 100 - recall.CHANCE) < 0.06  # 400 questions: 3.6 standard errors


def test_knowing_the_values_but_not_whose_they_are_is_little_better_than_a_fourth():
    given = recall.trials(DOCUMENTS, 20, count=100, seed=0)

    def any_value(ids):
        firsts = (ids[:, 0] - recall.FACT) % recall.VALUES
        logits = torch.zeros(*ids.shape, 256)
        logits[torch.arange(len(ids)), :, recall.ANSWER + firsts] = 1.0
        return logits

    assert 0.25 <= sum(recall.right(any_value, given)) / 100 < 0.45


def test_the_facts_stand_once_and_the_text_between_is_as_long_as_said():
    given = recall.trials(DOCUMENTS, 77, count=20, seed=0)
    assert given.ids.shape == (20, recall.KEYS + 77 + 2 * recall.KEYS)
    assert (given.ids[:, : recall.KEYS] >= recall.FACT).all()
    assert (given.ids[:, recall.KEYS : recall.KEYS + 77] < recall.FACT).all()
    assert (given.ids.gather(1, given.asked) >= recall.ASK).all()
    assert torch.equal(given.ids.gather(1, given.asked + 1) - recall.ANSWER, given.values)


def test_trials_are_the_same_for_the_same_seed():
    one, two, other = (recall.trials(DOCUMENTS, 50, count=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.ids, two.ids)
    assert not torch.equal(one.ids, other.ids)


def test_an_episode_has_the_length_of_its_text_and_the_solver_answers_it():
    for seed in range(50):
        row = recall.episode(DOCUMENTS[seed % 2][:129], 20, random.Random(seed))
        assert len(row) == 129
        told = [byte for byte in row if recall.FACT <= byte < recall.ASK]
        assert len(told) == recall.KEYS == len({(byte - recall.FACT) // recall.VALUES for byte in told})
        ids = torch.tensor([list(row)])
        asked = (ids[0] >= recall.ASK).nonzero()[:, 0]
        assert len(asked) == 20
        assert torch.equal(recall.solver(ids)[0, asked].argmax(-1), ids[0, asked + 1])


def test_episodes_take_their_share_and_leave_the_other_rows():
    batches = [torch.full((8, 129), 65) for _ in range(2)]
    mixed = list(recall.with_episodes((ids.clone() for ids in batches), 0.25, 20, seed=0))
    again = list(recall.with_episodes((ids.clone() for ids in batches), 0.25, 20, seed=0))
    for ids, same in itertools.zip_longest(mixed, again):
        assert torch.equal(ids, same)
        assert ((ids >= recall.FACT).any(1)).tolist() == [True] * 2 + [False] * 6


def test_text_that_is_too_short_is_an_error():
    with pytest.raises(ValueError, match="longer than 9999 bytes"):
        recall.trials(DOCUMENTS, 9999, count=1, seed=0)


def test_in_the_suite_no_fact_is_among_the_first_bytes():
    suite = catalogue.load(catalogue.find("suite", "long-context").path)
    given = suite.extrapolation.after_text(DOCUMENTS, 64, count=20, seed=0)
    assert (given.ids[:, : suite.extrapolation.OPENING] < recall.FACT).all(), (
        "a model that keeps the first bytes for ever keeps the facts"
    )
    assert suite.extrapolation.recall.right(recall.solver, given) == [1.0] * 20
    alone = recall.trials(DOCUMENTS, 64, count=20, seed=0)
    assert torch.equal(given.ids[:, suite.extrapolation.OPENING :], alone.ids)
