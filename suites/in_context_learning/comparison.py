"""Differences between models trained on the same data, seed by seed, and whether they are resolved."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.interval import half_width, mean

only_tells = True  # no record hangs on it

NOT_RESOLVED = "difference not resolved"


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
