"""Verdicts on time, from made-up times of known noise: what is planted is found, what is not there is not, drift is no alarm."""

import math
import random
import statistics

import pytest

from harness import paired
from harness.paired import CANNOT_TELL, NOT_SLOWER, SLOWER, Times


def times(rng: random.Random, slower: float = 1.0, noise: float = 0.05, pairs: int = 12, drift: float = 0.0, tails: float = 0.0):
    """Seconds in the order BASE HEAD HEAD BASE ... BASE; `drift` a process; a share `tails` of them is up to twice as slow."""
    order = [role for i in range(pairs) for role in ("BH" if i % 2 == 0 else "HB")] + ["B"]
    of: dict[str, list[float]] = {"B": [], "H": []}
    for place, role in enumerate(order):
        disturbed = rng.uniform(0, 0.7) if rng.random() < tails else 0.0
        of[role].append((slower if role == "H" else 1.0) * math.exp(rng.gauss(0, noise) + drift * place + disturbed))
    return Times(of["B"][:-1], of["H"], of["B"][1:])


def alarms(cells: dict[int, Times], threshold: float = 0.1) -> list[int]:
    found, _ = paired.judged(cells, threshold)
    return [key for key, judgement in found.items() if judgement.verdict == SLOWER]


def test_a_planted_slowdown_is_found_and_nothing_else():
    rng = random.Random(1)
    cells = {i: times(rng, slower=1.3 if i == 3 else 1.0, pairs=16) for i in range(20)}
    found, any_alarm = paired.judged(cells, 0.1)
    assert [key for key, judgement in found.items() if judgement.verdict == SLOWER] == [3]
    assert found[3].low < 1.3 < found[3].high
    assert any_alarm < 0.01
    assert sum(judgement.verdict == NOT_SLOWER for judgement in found.values()) > 14


@pytest.mark.parametrize(
    ("noise", "tails", "drift"), [(0.02, 0.0, 0.0), (0.05, 0.0, 0.0), (0.2, 0.0, 0.0), (0.02, 0.2, 0.0), (0.03, 0.0, 0.03)]
)
def test_the_same_code_alarms_in_under_five_of_a_hundred_comparisons_of_twenty_cells(
    noise: float, tails: float, drift: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(paired, "TRIES", 20)  # for the sake of time
    rng = random.Random(2)
    comparisons = [{i: times(rng, noise=noise, tails=tails, drift=drift) for i in range(20)} for _ in range(200)]
    assert sum(bool(alarms(cells)) for cells in comparisons) < 10


def test_the_test_alone_keeps_its_promise_and_would_not_without_the_correction():
    """Without the effect size: one alarm in twenty families, where judging each cell for itself gives one in nearly every."""
    rng = random.Random(3)
    families = [{i: paired.Mean.of(times(rng).differences).chance for i in range(20)} for _ in range(400)]
    corrected = sum(any(p <= paired.holm(chances)[i] for i, p in chances.items()) for chances in families)
    assert corrected / 400 < 0.08
    assert corrected, "a test that never alarms is no test"
    assert sum(any(p <= paired.ALPHA for p in chances.values()) for chances in families) / 400 > 0.5


def test_in_base_head_base_head_order_drift_would_alarm():
    """What the order ABBA is for: the same drift, in the order ABAB, is a slowdown."""
    rng = random.Random(4)
    walk = [math.exp(0.11 * place + rng.gauss(0, 0.005)) for place in range(25)]
    assert alarms({0: Times(walk[0:24:2], walk[1:24:2], [x * rng.uniform(0.99, 1.01) for x in walk[0:24:2]])}) == [0]
    assert alarms({0: times(random.Random(4), noise=0.005, drift=0.11)}) == []


def test_the_smallest_slowdown_that_is_said_to_be_found_is_found_four_times_in_five():
    rng, found = random.Random(5), []
    finds = statistics.median(paired.judged({i: times(rng) for i in range(10)}, 0.1)[0][i].finds for i in range(10))
    for _ in range(300):
        means = [paired.Mean.of(times(rng, slower=finds).differences) for _ in range(paired.ASKINGS)]
        found.append(all(mean.limits(paired.ALPHA / 10)[0] > 0 for mean in means))
    assert 0.65 < statistics.fmean(found) < 0.93


def test_where_the_threshold_would_not_be_found_nothing_is_told():
    rng = random.Random(6)
    judgement = paired.judged({0: times(rng, slower=1.3, noise=0.15)}, 0.1)[0][0]
    assert judgement.verdict == CANNOT_TELL
    assert judgement.finds > 1.1
    assert judgement.why == "finds no 10% here; pairs=40 may"
    wild = paired.judged({0: times(rng, noise=2.0)}, 0.1)[0][0]
    assert wild.why == "finds no 10% here, nor with pairs=60; a larger threshold may be found"


def test_a_slowdown_that_is_wholly_beyond_the_threshold_is_told_however_noisy_the_machine():
    judgement = paired.judged({0: times(random.Random(6), slower=3.0, noise=0.2)}, 0.1)[0][0]
    assert judgement.finds > 1.1
    assert judgement.low > 1.1
    assert judgement.verdict == SLOWER


def test_a_slowdown_about_the_threshold_cannot_be_told_and_one_below_it_is_none():
    rng = random.Random(7)
    assert paired.judged({0: times(rng, slower=1.09, noise=0.02)}, 0.1)[0][0].why == "10% lies between the limits"
    assert paired.judged({0: times(rng, slower=1.04, noise=0.02)}, 0.1)[0][0].verdict == NOT_SLOWER
    assert paired.judged({0: times(rng, slower=0.5, noise=0.02)}, 0.1)[0][0].verdict == NOT_SLOWER


def test_a_mean_is_the_same_from_its_squares():
    differences = [0.1, -0.2, 0.05, 0.3]
    direct = paired.Mean.of(differences)
    again = paired.Mean.of_squares(direct.middle, statistics.fmean(d * d for d in differences), 4)
    assert (again.middle, again.freedom) == (direct.middle, direct.freedom)
    assert again.error == pytest.approx(direct.error)


def test_what_is_said_to_alarm_falsely_alarms_by_the_rule_itself():
    """Six pairs, one of them wild: turned round it is never an alarm, as it hides what the others say."""
    noise = {0: [0.5, 0.52, 0.48, 0.5, 0.51, 0.49]}
    _, alarms, any_alarm = paired.calibrated(noise, 0.1)
    assert alarms[0] == any_alarm == pytest.approx(1 / 64, abs=0.015), "only where all six point the same way"
    assert any_alarm > 0
    assert paired.calibrated({0: [0.5, 0.01, -0.01, 0.02, -0.02, 0.01]}, 0.1)[2] == 0


def test_times_that_never_vary_are_judged():
    same = [1.0] * 6
    assert paired.judged({0: Times(same, same, same)}, 0.1)[0][0].verdict == NOT_SLOWER
    assert paired.judged({0: Times(same, [1.3] * 6, same)}, 0.1)[0][0].verdict == SLOWER


def test_holm_by_hand():
    assert paired.holm({"a": 0.04, "b": 0.001, "c": 0.02}) == {"b": 0.05 / 3, "c": 0.05 / 2, "a": 0.05}
    assert paired.holm({"a": 0.04, "b": 0.02, "c": 0.001, "d": 0.03}) == {
        "c": 0.05 / 4,
        "b": 0.05 / 3,
        "d": 0.05 / 3,
        "a": 0.05 / 3,
    }
