"""The clock on work of known duration: it measures that, neither the making of inputs nor the freeing of results."""

import random
import time

import pytest
import torch

from harness import clock


def works(for_s: float):
    """A call that keeps the core busy for so long: a sleep ends late where others work too."""

    def call():
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            pass

    return call


def test_a_call_takes_as_long_as_it_does():
    took = [clock.seconds(works(0.002)) for _ in range(25)]
    assert 0.002 <= min(took) < 0.0021, "the fastest of 25 is off by a twentieth, or faster than it is"


def test_work_of_twice_the_size_takes_twice_as_long():
    samples = clock.interleaved({times: lambda times=times: works(0.001 * times) for times in (1, 2)}, rounds=25)
    assert min(samples[2]) / min(samples[1]) == pytest.approx(2, rel=0.1)


def test_making_inputs_and_freeing_results_is_not_timed():
    class Slow:
        def __del__(self):
            time.sleep(0.02)

    def make():
        time.sleep(0.02)
        return lambda: Slow()

    assert min(clock.interleaved({"a": make}, rounds=3)["a"]) < 0.01


def test_each_round_calls_each_once_with_fresh_inputs_in_an_order_of_its_own():
    called: list[str] = []
    made: list[str] = []

    def maker(name: str):
        def make():
            made.append(name)
            return lambda: called.append(name)

        return make

    samples = clock.interleaved({name: maker(name) for name in "abcd"}, rounds=6, seed=1)
    assert called == made
    rounds = ["".join(called[i : i + 4]) for i in range(0, 24, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 2
    assert {len(of) for of in samples.values()} == {6}


def test_warm_up_goes_on_until_it_is_steady(monkeypatch: pytest.MonkeyPatch):
    left = [4.0, 2.0, 0.5, 0.49, 0.1]
    monkeypatch.setattr(clock, "seconds", lambda call, device: call())
    took = clock.warm(lambda: lambda: left.pop(0))
    assert left == [0.1], "it stops once a call brings little more, and not before"
    assert (took, clock.steady(took)) == ([4.0, 2.0, 0.5, 0.49], True)


def test_warm_up_ends(monkeypatch: pytest.MonkeyPatch):
    left = [0.8**i for i in range(100)]
    monkeypatch.setattr(clock, "seconds", lambda call, device: call())
    took = clock.warm(lambda: lambda: left.pop(0))
    assert len(left) == 100 - clock.MOST_WARMUPS
    assert not clock.steady(took), "each is faster than the one before"


def test_who_replaces_the_clock_changes_no_time(monkeypatch: pytest.MonkeyPatch):
    def call():
        monkeypatch.setattr(clock, "now", lambda: 1e9)

    assert 0 < clock.seconds(call) < 1
    assert 0 < clock.seconds(call) < 1


def test_an_interval_holds_the_median_as_often_as_it_says():
    rng, held = random.Random(0), 0
    for _ in range(2000):
        low, high = clock.interval([rng.expovariate(1.0) for _ in range(9)])
        held += low <= 0.6931 <= high
    assert 0.95 <= held / 2000 < 0.985  # 96.1 % for nine samples


def test_on_one_thread_and_then_as_many_as_before():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with clock.on_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_too_few_samples_have_no_interval():
    assert clock.interval([1.0] * 5) is None
    assert clock.interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)
    assert clock.interval([float(x) for x in range(9)]) == (1.0, 7.0)
    assert clock.middle([5.0, 1.0, 2.0]) == 2.0
