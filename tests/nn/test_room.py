"""Room: the most rows that fit are found by doubling, and what is computed does not hang on how many they are."""

import pytest
import torch
from torch import Tensor, nn

from harness.nn import room
from harness.nn.train import NOTHING, Settings, gradients, rows_with_room, train


class Small(nn.Module):
    """A model on a device that holds so many rows; it remembers how many it was asked at once."""

    def __init__(self, holds: int):
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16))
        self.holds, self.asked, self.device = holds, [], "of few rows"

    def forward(self, ids: Tensor) -> Tensor:
        self.asked.append(len(ids))
        if len(ids) > self.holds:
            raise torch.OutOfMemoryError(f"{len(ids)} rows are too many")
        return self.inside(ids)


def rows(count: int = 12) -> tuple[Tensor, Tensor]:
    """Rows of which some ask more than others."""
    rng = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(16, (2, count, 5), generator=rng)
    return ids, targets.where(torch.rand(count, 5, generator=rng) < 0.6, NOTHING)


@pytest.mark.parametrize(("holds", "limit", "found"), [(1, 8, 1), (5, 8, 4), (7, 12, 4), (12, 12, 12), (99, 6, 6)])
def test_the_most_that_has_room_is_found_by_doubling(holds: int, limit: int, found: int):
    assert room.most(lambda count: Small(holds)(torch.zeros(count, 1).long()), limit) == found


def test_a_device_that_holds_no_row_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError):
        room.most(lambda count: Small(0)(torch.zeros(count, 1).long()), 4)
    with pytest.raises(torch.OutOfMemoryError):
        list(room.in_parts(Small(0), rows()[0], 5))


@pytest.mark.parametrize(("holds", "most"), [(1, 1), (3, 2), (8, 8), (40, 16)])
def test_answers_come_in_order_however_many_have_room(holds: int, most: int):
    ids, _ = rows(40)
    model = Small(holds)
    said = [*room.in_parts(model, ids, 5)]
    assert torch.allclose(torch.cat(said), Small(40)(ids), atol=1e-6)
    assert max(map(len, said)) == most


def test_on_a_cpu_as_many_rows_as_were_said():
    model = Small(99)
    model.device = "cpu"
    assert [len(said) for said in room.in_parts(model, rows()[0], 25)] == [5, 5, 2]


def test_gradients_do_not_hang_on_the_rows_at_once():
    ids, targets = rows()
    whole = Small(99)
    loss = gradients(whole, ids, targets, 12)
    for at_once in (1, 4, 5):
        parts = Small(at_once)
        assert gradients(parts, ids, targets, at_once) == pytest.approx(loss, rel=1e-5)
        for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_looking_for_room_leaves_no_gradient():
    model = Small(5)
    assert rows_with_room(model, *rows()) == 4
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_model_trained_in_parts_is_the_one_trained_at_once():
    batches = [rows()] * 5
    whole, parts = Small(99), Small(4)
    one, other = (train(model, batches, Settings(steps=5), at_once=n) for model, n in ((whole, 12), (parts, 4)))
    assert one == pytest.approx(other, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_the_trainer_finds_room_where_the_rows_are_not_on_a_cpu():
    class Elsewhere(Small):
        """On a device that torch knows without having one."""

    model = Elsewhere(99).to("meta")
    ids, targets = (x.to("meta") for x in rows())
    with pytest.raises(RuntimeError, match="meta"):
        train(model, [(ids, targets)], Settings(steps=1))
    assert 1 in model.asked
