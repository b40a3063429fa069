"""95 % intervals of means: over trials, over seeds, and over both where what was trained and what was asked are both samples."""

import math
from collections.abc import Iterable, Sequence
from functools import cache

SIDE = 0.025  # the chance that is left on either side


def numbers(stored: Iterable[float | str]) -> list[float]:
    """The numbers among samples of a record, in which one that is not finite stands as a word."""
    return [x for x in map(float, stored) if not math.isnan(x)]


def mean(samples: Sequence[float]) -> float:
    """The mean; of nothing, an error."""
    return sum(samples) / len(samples)


def half_width(samples: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of independent samples; infinite for a single one."""
    freedom = len(samples) - 1
    if freedom < 1:
        return math.inf
    middle = mean(samples)
    return quantile(SIDE, freedom) * math.sqrt(sum((x - middle) ** 2 for x in samples) / freedom / len(samples))


def of_trials_and_seeds(by_seed: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean and half width of samples[seed][trial], the same trials for each seed, where both could have been others.

    The half width over trials, each averaged over seeds, and that over the means of seeds, as the sides of a right angle. Of
    one seed nothing is known but the trials: the interval then speaks of this one trained model.
    """
    trials = [mean(of_trial) for of_trial in zip(*by_seed, strict=True)]
    seeds = [mean(of_seed) for of_seed in by_seed]
    return mean(seeds), math.hypot(half_width(trials), half_width(seeds) if len(seeds) > 1 else 0.0)


@cache
def quantile(level: float, freedom: int) -> float:
    """What Student's t exceeds with a chance of `level`."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, level))


def upper_tail(t: float, freedom: int) -> float:
    """The chance that Student's t exceeds t."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
