"""95 % intervals of means: over trials, over seeds, and over both where what was trained and what was asked are both samples."""

import math
from collections.abc import Sequence

# Student's t that leaves 2.5 % on either side, by degrees of freedom from 1 on; beyond, that of many.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
T_OF_MANY = 1.96


def mean(samples: Sequence[float]) -> float:
    """The mean; of nothing, an error."""
    return sum(samples) / len(samples)


def half_width(samples: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of independent samples; infinite for a single one."""
    freedom = len(samples) - 1
    if freedom < 1:
        return math.inf
    middle = mean(samples)
    t = T[freedom - 1] if freedom <= len(T) else T_OF_MANY
    return t * math.sqrt(sum((x - middle) ** 2 for x in samples) / freedom / len(samples))


def of_trials_and_seeds(by_seed: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean and half width of samples[seed][trial], the same trials for each seed, where both could have been others.

    The half width over trials, each averaged over seeds, and that over the means of seeds, as the sides of a right angle. Of
    one seed nothing is known but the trials: the interval then speaks of this one trained model.
    """
    trials = [mean(of_trial) for of_trial in zip(*by_seed, strict=True)]
    seeds = [mean(of_seed) for of_seed in by_seed]
    return mean(seeds), math.hypot(half_width(trials), half_width(seeds) if len(seeds) > 1 else 0.0)
