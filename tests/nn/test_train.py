"""The trainer: the same data for the same seed, and a loss that is no number is an error."""

import itertools

import pytest
import torch
from torch import nn

from harness.nn.train import CannotLearn, Settings, TrainingFailed, schedule, train, windows

DOCUMENTS = [bytes(range(50)), bytes(range(100, 130)), b"short"]


def first(count, **options):
    return list(itertools.islice(windows(DOCUMENTS, **{"length": 9, "batch": 4, "seed": 0, **options}), count))


def test_the_same_seed_gives_the_same_rows_whatever_is_drawn_elsewhere():
    one = first(3)
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(one, first(3), strict=True))
    assert not torch.equal(one[0], first(1, seed=1)[0])


def test_rows_are_whole_windows_and_every_place_comes():
    rows = torch.cat(first(400))
    assert rows.shape == (1600, 9)
    assert (rows.diff() == 1).all()  # within one document each
    assert set(rows[:, 0].tolist()) == {*range(42), *range(100, 122)}


def test_no_document_of_a_window_s_length_is_an_error():
    with pytest.raises(ValueError, match="as long as a window of 99 bytes"):
        first(1, length=99)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(256, 16), nn.Linear(16, 256))


def test_it_learns_and_reports():
    heard = []
    settings = Settings(steps=60, lr=0.05)
    history = train(small_model(), windows(DOCUMENTS, 9, 8, seed=0), settings, lambda *words: heard.append(words))
    assert len(history) == 60
    assert history[0] > 7
    assert history[-1] < 3
    assert heard[-1][0] == 1
    assert heard[-1][1].endswith("bits per byte")


def test_training_twice_gives_the_same_losses():
    one, two = (train(small_model(), windows(DOCUMENTS, 9, 4, seed=0), Settings(steps=5)) for _ in range(2))
    assert one == two


def test_a_loss_that_is_no_number_is_an_error():
    model = small_model()
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    with pytest.raises(TrainingFailed, match="the loss is nan at step 1 of 5"):
        train(model, windows(DOCUMENTS, 9, 4, seed=0), Settings(steps=5))


def test_data_that_ends_early_is_an_error():
    with pytest.raises(TrainingFailed, match="ended after 2 of 5 steps"):
        train(small_model(), first(2), Settings(steps=5))


def test_the_learning_rate_goes_up_then_down_to_nothing():
    settings = Settings(steps=100, warmup=0.1)
    shares = [schedule(step, settings) for step in range(100)]
    assert max(shares) == shares[9] == 1
    assert shares[:10] == sorted(shares[:10])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] < 0.001


def frozen():
    return small_model().requires_grad_(False)


class Without(nn.Module):
    """`small_model` asked without gradients."""

    def __init__(self):
        super().__init__()
        self.model = small_model()

    @torch.no_grad()
    def forward(self, ids):
        return self.model(ids)


class Elsewhere(Without):
    """Its logits have a gradient, but that of a tensor which is no parameter."""

    def forward(self, ids):
        return super().forward(ids) * torch.ones((), requires_grad=True)


@pytest.mark.parametrize("at_once", [0, 2])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nn.Identity, "^has no parameters that learn$"),
        (frozen, "^has no parameters that learn$"),
        (Without, "^its logits are cut off from its parameters: no gradient reaches them$"),
        (Elsewhere, "^its logits are cut off from its parameters: no gradient reaches them$"),
    ],
)
def test_a_model_that_cannot_learn_is_said_to(make, said, at_once):
    with pytest.raises(CannotLearn, match=said):
        train(make(), windows(DOCUMENTS, 9, 4, seed=0), Settings(steps=5), at_once=at_once)


def test_a_part_that_is_frozen_does_not_hinder_the_rest():
    model = small_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    history = train(model, windows(DOCUMENTS, 9, 8, seed=0), Settings(steps=60, lr=0.05))
    assert history[-1] < history[0] - 1
    assert torch.equal(model[0].weight, before)
