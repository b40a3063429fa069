"""Differences between models trained on the same data, seed by seed, and whether they are resolved."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Student's t that leaves 2.5 % on either side, by degrees of freedom from 1 on; beyond, that of many.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
T_OF_MANY = 1.96
NOT_RESOLVED = "difference not resolved"


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


def interval(by_seed: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean and half width of samples[seed][trial]: over seeds, or over the trials where there is one seed alone."""
    means = [mean(samples) for samples in by_seed]
    return mean(means), half_width(means if len(means) > 1 else by_seed[0])


def against_best(scores: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """scores[model][seed] -> a row a model: its difference to the one with the best mean, over the seeds that both have."""
    if len(scores) < 2:
        return []
    best = max(scores, key=lambda model: mean(list(scores[model].values())))
    rows = []
    for model in scores:
        if model == best:
            continue
        pairs = [own - scores[best][seed] for seed, own in scores[model].items() if seed in scores[best]]
        row = {"model": model, "against": best, "seeds": len(pairs)}
        if len(pairs) < 2:
            rows.append({**row, "verdict": f"{NOT_RESOLVED} by one seed"})
            continue
        difference, width = mean(pairs), half_width(pairs)
        verdict = NOT_RESOLVED if abs(difference) <= width else "worse" if difference < 0 else "better"
        rows.append({**row, "difference": round(difference, 4), "difference ±": round(width, 4), "verdict": verdict})
    return rows
