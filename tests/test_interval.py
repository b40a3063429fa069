"""Intervals hold as often as they say: over trials alone, and where seeds differ too."""

import math
import random
import statistics

import pytest

from harness import interval


def test_the_interval_is_that_of_student():
    assert interval.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert interval.half_width([1.0]) == math.inf
    sixteen = [float(x) for x in range(16)]
    assert interval.half_width(sixteen) == pytest.approx(2.1314 * statistics.stdev(sixteen) / 4, rel=1e-4)


def test_of_what_a_record_holds_the_numbers_count():
    assert interval.numbers([1, 0.5, "nan", "inf", float("nan")]) == [1.0, 0.5, math.inf]


def test_of_one_seed_it_speaks_of_the_trials_alone():
    trials = [1.0, 2.0, 4.0]
    assert interval.of_trials_and_seeds([trials]) == (interval.mean(trials), interval.half_width(trials))


def test_seeds_that_differ_widen_it_though_the_trials_agree():
    middle, width = interval.of_trials_and_seeds([[1.0] * 50, [1.1] * 50, [1.2] * 50])
    assert (middle, width) == (pytest.approx(1.1), pytest.approx(interval.half_width([1.0, 1.1, 1.2])))


@pytest.mark.parametrize("of_seed", [0.0, 0.05, 1.0])
def test_it_holds_the_truth_as_often_as_it_says(of_seed: float):
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        hard = [rng.gauss(0, 0.5) for _ in range(30)]
        seeds = [rng.gauss(0, of_seed) for _ in range(3)]
        middle, width = interval.of_trials_and_seeds([[seed + trial + rng.gauss(0, 0.1) for trial in hard] for seed in seeds])
        held += abs(middle) <= width
    assert held / 400 > 0.92, "the interval promises more than it holds"


@pytest.mark.parametrize(
    ("level", "freedom", "value"),
    [(0.05, 1, 6.314), (0.025, 5, 2.571), (0.025, 10, 2.228), (0.0025, 9, 3.690), (0.001, 30, 3.385), (0.05, 2, 2.920)],
)
def test_students_t_is_that_of_the_tables(level: float, freedom: int, value: float):
    assert interval.quantile(level, freedom) == pytest.approx(value, abs=5e-4)
    assert interval.upper_tail(interval.quantile(level, freedom), freedom) == pytest.approx(level)
