"""Growth: exact powers are found, noise is told as noise, what bends still is not refuted."""

import random

import pytest
import torch

from harness import catalogue, growth

LENGTHS = [128, 256, 512, 1024, 2048]


def samples(power: float, noise: float = 0.0, rounds: int = 9, beside: float = 0.0) -> dict[str, list[float]]:
    """c n^power + beside * n in each round, times noise."""
    rng = random.Random(0)
    return {str(n): [1e-6 * (n**power + beside * n) * rng.lognormvariate(0, noise) for _ in range(rounds)] for n in LENGTHS}


@pytest.mark.parametrize("power", [0.0, 1.0, 4 / 3, 2.0])
def test_an_exact_power_is_found_and_confirmed_and_no_other(power: float):
    found = growth.fit(samples(power))
    assert found.exponent == pytest.approx(power)
    assert found.interval == (pytest.approx(power), pytest.approx(power))
    assert (found.lengths, found.bend) == ((512, 1024, 2048), pytest.approx(0))
    told = {claimed: growth.verdict(found, claimed) for claimed in ("1", "N", "N^(4/3)", "N^2")}
    powers = {"1": 0, "N": 1, "N^(4/3)": 4 / 3, "N^2": 2}
    for claimed, said in told.items():
        faster, slower = power > powers[claimed] + 0.1, power < powers[claimed] - 0.1
        assert said == ("refuted: it grows faster" if faster else "cannot tell: slower so far" if slower else "confirmed")


def test_a_logarithm_counts_at_the_lengths_measured():
    n_log_n = {n: [x * torch.log(torch.tensor(float(n))).item() for x in of] for n, of in samples(1.0).items()}
    found = growth.fit(n_log_n)
    assert found.exponent > 1.1
    assert growth.verdict(found, "N log N") == "confirmed"


def test_noise_is_told_and_its_interval_holds_the_truth():
    little, much = growth.fit(samples(1.0, 0.02)), growth.fit(samples(1.0, 0.8))
    assert growth.verdict(little, "N") == "confirmed"
    assert growth.verdict(much, "N") == "cannot tell: the interval is too wide"
    for found in (little, much):
        assert found.interval[0] <= 1.0 <= found.interval[1]


def test_what_steepens_still_is_not_refuted():
    found = growth.fit(samples(2.0, beside=1000.0))
    assert 1.2 < found.exponent < 1.8
    assert growth.verdict(found, "N^2") == "cannot tell: it steepens still"
    assert growth.verdict(found, "N") == "refuted: it grows faster"


def test_what_flattens_still_or_ends_early_is_not_refuted():
    """Quadratic within a chunk of 1,024, linear beyond."""
    chunked = {n: [1e-6 * int(n) * min(int(n), 1024)] * 9 for n in samples(1.0)}
    assert growth.verdict(growth.fit(chunked), "N") == "cannot tell: it flattens still"
    within = {n: of for n, of in chunked.items() if int(n) <= 1024}
    assert growth.verdict(growth.fit(within), "N") == "refuted: it grows faster"
    assert growth.verdict(growth.fit(within), "N", far=2048) == "cannot tell: measured up to 1,024 only"


def test_a_jump_after_growth_as_declared_is_not_refuted_but_steep_growth_throughout_is():
    """A table of n^2 numbers whose memory is handed out page by page from 32 MB on, as measured."""
    paged = {"128": [0.0595] * 9, "512": [0.874] * 9, "1024": [20.17] * 9}
    assert growth.verdict(growth.fit(paged), "N^2") == "cannot tell: it jumps at the last length"
    assert growth.verdict(growth.fit(paged), "N") == "refuted: it grows faster"


def test_bytes_are_exact_and_few_samples_are_too_few():
    exact = growth.fit(samples(2.0, rounds=1))
    assert exact.interval == (exact.exponent, exact.exponent)
    assert growth.verdict(exact, "N^2") == "confirmed"
    assert growth.verdict(growth.fit(samples(2.0, rounds=4)), "N^2") == "cannot tell: too few rounds"
    two = {n: of for n, of in samples(2.0).items() if int(n) < 512}
    assert growth.fit(two) is None
    assert growth.verdict(None, "N") == "cannot tell: fewer than 3 lengths"


def test_files_may_declare_every_growth_that_is_known():
    assert tuple(growth.GROWTHS) == catalogue.GROWTHS
