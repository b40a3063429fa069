"""The clock on work of known duration: it measures that, neither the making of inputs nor the freeing of results."""

import random
import time

import pytest

from harness import clock


def waits(for_s: float):
    return lambda: time.sleep(for_s)


def test_a_call_takes_as_long_as_it_does():
    took = [clock.seconds(waits(0.02)) for _ in range(5)]
    assert min(took) == pytest.approx(0.02, abs=0.002), "the fastest of five is off by over a tenth"
    assert min(took) >= 0.02, "nothing is faster than it is"


def test_work_of_twice_the_size_takes_twice_as_long():
    def work(n: int):
        return lambda: lambda: sum(range(n))

    samples = clock.interleaved({1: work(200_000), 2: work(400_000)}, rounds=15)
    assert min(samples[2]) / min(samples[1]) == pytest.approx(2, rel=0.25)


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


def test_warm_up_goes_on_until_it_is_steady():
    left = [0.04, 0.02, 0.005, 0.005, 0.005, 0.005]
    count = len(left)
    fastest = clock.warm(lambda: waits(left.pop(0)))
    assert 3 < count - len(left) < count, "it stops once a call brings nothing more, and not before"
    assert fastest == pytest.approx(0.005, abs=0.003)


def test_warm_up_ends():
    waited = iter(0.3 * 0.8**i for i in range(100))
    clock.warm(lambda: waits(next(waited) / 20))
    assert next(waited) == pytest.approx(0.3 * 0.8**clock.MOST_WARMUPS)


def test_an_interval_holds_the_median_as_often_as_it_says():
    rng, held = random.Random(0), 0
    for _ in range(2000):
        low, high = clock.interval([rng.expovariate(1.0) for _ in range(9)])
        held += low <= 0.6931 <= high
    assert 0.95 <= held / 2000 < 0.985  # 96.1 % for nine samples


def test_too_few_samples_have_no_interval():
    assert clock.interval([1.0] * 5) is None
    assert clock.interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)
    assert clock.interval([float(x) for x in range(9)]) == (1.0, 7.0)
    assert clock.middle([5.0, 1.0, 2.0]) == 2.0
