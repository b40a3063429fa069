"""Peak memory is what is known to be allocated, kernels' own buffers too; a state counts what it keeps alive, once and whole."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness import memory

KIB = 1024


def floats(kib: int) -> torch.Tensor:
    return torch.zeros(kib * KIB // 4)


def test_the_peak_of_known_allocations():
    def call():
        a = floats(100)
        b = a.exp()  # 200
        del a  # 100
        c = torch.cat([b, b])  # 300
        del b  # 200
        return c.exp()  # 400

    assert memory.peak(call) == 400 * KIB


def test_inputs_do_not_count_and_results_do():
    given = floats(500)
    assert memory.peak(lambda: given[: KIB // 4].exp()) == KIB
    assert memory.peak(lambda: given.exp_()) == 0
    assert memory.peak(lambda: given.view(5, -1)) == 0


def test_what_is_freed_of_the_inputs_is_not_set_against_it():
    held = [floats(500)]

    def call():
        held.clear()
        return floats(10)

    assert memory.peak(call) == 10 * KIB


def test_a_kernel_s_own_buffers_count():
    x, start = torch.randn(1, 64, 96), torch.zeros(1, 1, 96)
    weights = [torch.randn(384, 96), torch.randn(384, 96), torch.randn(384), torch.randn(384)]
    needed = memory.peak(lambda: torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, True)[0])
    assert needed > 64 * 384 * 4, "gates of all tokens are computed at once"


def test_what_backward_needs_counts():
    x = floats(100).requires_grad_()

    def call():
        y = x.exp().exp().sin()  # both results of exp are kept: 100 each
        y.sum().backward()

    # Three results, the incoming gradient, and the gradient of a step beside it.
    assert 300 * KIB <= memory.peak(call) <= 510 * KIB
    x.grad = None
    with torch.no_grad():
        assert memory.peak(lambda: x.exp().exp().sin()) == 200 * KIB


def test_the_same_call_has_the_same_peak():
    layer, x = torch.nn.Linear(64, 64), torch.randn(32, 64)
    assert len({memory.peak(lambda: layer(x).relu().sum().backward() or layer.zero_grad()) for _ in range(3)}) == 1


def by_numpy():
    return (np.ones(2**20) + np.ones(2**20)).sum()


def in_a_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: floats(16 * KIB).sum().item()).result()


def test_what_stays_within_numpy_or_another_thread_is_seen():
    assert memory.in_python(by_numpy) == pytest.approx(2 * 8 * 2**20, rel=0.01)
    assert memory.in_python(lambda: floats(16 * KIB).exp()) < 16 * KIB, "torch's is no memory of Python's"
    if not memory.CLEAR.exists():
        pytest.skip("needs Linux")
    for call in (by_numpy, in_a_thread):
        assert any(memory.resident(call) > 15 * KIB * KIB for _ in range(5)), "pages that malloc had kept are not seen again"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_on_a_gpu():
    given = floats(500).cuda()
    assert memory.peak(lambda: given.exp().exp(), "cuda") == 1000 * KIB
    assert memory.peak(lambda: given.view(5, -1), "cuda") == 0


@dataclass
class Kept:
    keys: torch.Tensor
    place: int = 0


def test_a_state_counts_what_it_keeps_alive():
    small, large = floats(1), floats(100)
    assert memory.kept_alive(None) == 0
    assert memory.kept_alive((3, [small, {"a": small}], "text")) == KIB, "a storage that is shared counts once"
    assert memory.kept_alive(large[:1]) == 100 * KIB, "a view keeps all of its storage alive"
    assert memory.kept_alive([Kept(small), SimpleNamespace(values=[large])]) == 101 * KIB
    assert memory.kept_alive([small, large], besides=[large]) == KIB, "parameters are not carried"
    assert memory.kept_alive(large.expand(7, -1)) == 100 * KIB
    assert memory.kept_alive(torch.zeros(KIB, dtype=torch.float64)) == 8 * KIB


class Slotted:
    __slots__ = ("__dict__", "keys")


class Place(int):
    pass


def test_no_state_is_hidden_in_numbers_texts_or_attributes():
    for plain in ([0.5] * 256, bytes(2 * KIB), "t" * 2 * KIB, 2 ** (16 * KIB) - 1, dict.fromkeys(range(256)), set(range(256))):
        assert memory.kept_alive([plain]) == 2 * KIB
    for holder in (torch.zeros(()), Place(), Slotted(), type("Named", (dict,), {})()):
        holder.keys = floats(5)
        assert memory.kept_alive(holder) in (5 * KIB, 5 * KIB + 4)


@pytest.mark.parametrize("state", [object(), (x for x in ()), lambda: None])
def test_what_cannot_be_counted_is_an_error(state: Any):
    with pytest.raises(TypeError, match="whose bytes cannot be counted"):
        memory.kept_alive([state])


def test_what_is_kept_between_calls_is_touched_and_what_comes_and_goes_is_not():
    given, weights, room, unused = floats(1), floats(2), floats(3), floats(5)

    def call():
        return (given + weights.sum()) * room.fill_(2.0)[:256] + torch.tensor([1.0] * 256)

    assert sum(memory.touched(call, [given, weights]).kept.values()) == 3 * KIB
    assert memory.touched(call, [given, weights]).foreign == 0
    assert unused.numel() == 5 * KIB // 4


def test_what_comes_past_the_allocator_or_from_another_thread_is_foreign():
    given = floats(4)

    def by_numpy():
        return torch.from_numpy(given.numpy() + 1).double()

    def elsewhere():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(given.exp).result() + 1

    for call in (by_numpy, elsewhere):
        assert memory.touched(call, [given]) == memory.Touched({}, 4 * KIB)
    assert memory.touched(lambda: torch.from_numpy(given.numpy()).exp(), [given]).foreign == 0, "the same bytes"
