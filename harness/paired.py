"""Is it slower? Paired log-ratios judged for all cells at once, beside what such a comparison can see on this machine; pure.

The limits are Student's. Exact tests have a floor: P pairs never give a chance below 2^-P, and with Holm's correction eight pairs
could tell nothing of twenty cells. What Student's assumes, normal noise, is not taken on trust: the same code against itself
goes through the same test, and what comes out stands beside every verdict. Measured on a busy machine of two cores, 72 processes
of eight operators of torch on one thread, corrected for twenty cells: twelve pairs of fastest samples find, by Student's limits,
2 to 17 % in seven of the operators, 136 % in one that has two modes, with no alarm in 60 tries; by Wilcoxon's limits it is 2 to
22 %, by signs 3 to 47 %, and of medians, by Student's, 3 to 24 %.
"""

import math
import random
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import TypeVar

from harness.interval import quantile, upper_tail

SLOWER, NOT_SLOWER, CANNOT_TELL = "slower", "not slower", "cannot tell"
VERDICTS = (SLOWER, CANNOT_TELL, NOT_SLOWER)
# The chance, over all cells together, that a limit is on the wrong side; and how often the smallest slowdown is to be found.
ALPHA, POWER = 0.05, 0.8
# What alarms is asked again, in pairs that no alarm has chosen, and is slower only if it alarms each time: by chance, 1 in 400.
ASKINGS = 2
# How often each asking must find what all of them are to find in POWER of all tries.
POWER_OF_EACH: float = POWER ** (1 / ASKINGS)
TRIES = 500
FEWEST_PAIRS, MOST_PAIRS = 6, 60

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """What is known of a cell: seconds of each process, `again[i]` being BASE once more, next after `base[i]`.

    Of the pair i, (base[i], head[i]) and (base[i], again[i]) are ratios of code to code, and of code to itself.
    """

    base: Sequence[float]
    head: Sequence[float]
    again: Sequence[float]

    @property
    def differences(self) -> list[float]:
        """log(HEAD / BASE) of each pair."""
        return [math.log(head / base) for base, head in zip(self.base, self.head, strict=True)]

    @property
    def noise(self) -> list[float]:
        """log(BASE / BASE) of each pair."""
        return [math.log(again / base) for base, again in zip(self.base, self.again, strict=True)]


@dataclass(frozen=True)
class Judgement:
    """What may be said of a cell, as ratios of time: 1.3 is 30 % slower."""

    verdict: str
    ratio: float
    low: float
    high: float
    finds: float  # the smallest slowdown that alarms at every asking in POWER of all tries, on this machine
    false_alarms: float  # in what share of tries the same code against itself alarms in this cell at every asking
    why: str = ""


def judged(cells: Mapping[Key, Times], threshold: float) -> tuple[dict[Key, Judgement], float]:
    """A verdict on each cell by one asking, and how often the same code against itself would alarm in any of them at every one.

    Slower: the lower limit is above 1, and the ratio at least 1 + threshold. Not slower: the upper limit is below 1 + threshold.
    Where a slowdown of the threshold would not be found nothing is told, unless even the lower limit is above 1 + threshold: that
    is as rarely wrong as any other limit, however noisy the machine.
    """
    means = {key: Mean.of(cell.differences) for key, cell in cells.items()}
    levels = holm({key: mean.chance for key, mean in means.items()})
    finds, alarms, any_alarm = calibrated({key: cell.noise for key, cell in cells.items()}, threshold)
    found = {}
    for key, mean in means.items():
        low, high = mean.limits(levels[key])
        verdict = _verdict(mean.middle, low, high, finds[key], math.log1p(threshold))
        why = "" if verdict != CANNOT_TELL else _why(finds[key], cells[key].noise, ALPHA / len(cells), threshold)
        limits = _ratio(mean.middle), _ratio(low), _ratio(high)
        found[key] = Judgement(verdict, *limits, _ratio(finds[key]), alarms[key] ** ASKINGS, why)
    return found, any_alarm**ASKINGS


def _verdict(shift: float, low: float, high: float, finds: float, limit: float) -> str:
    if finds > limit:  # not gated, but for what lies beyond the threshold with all of its interval
        return SLOWER if low > limit else CANNOT_TELL
    if low > 0 and shift >= limit:
        return SLOWER
    return NOT_SLOWER if high < limit else CANNOT_TELL


def _why(finds: float, noise: Sequence[float], level: float, threshold: float) -> str:
    """Why nothing can be told, and what might help."""
    if finds <= math.log1p(threshold):
        return f"{threshold:.0%} lies between the limits"
    pairs = pairs_for(noise, level, threshold)
    if pairs is None:
        return f"finds no {threshold:.0%} here, nor with pairs={MOST_PAIRS}; a larger threshold may be found"
    return f"finds no {threshold:.0%} here; pairs={pairs} may"


def calibrated(noise: Mapping[Key, Sequence[float]], threshold: float) -> tuple[dict[Key, float], dict[Key, float], float]:
    """Of code against itself: the smallest log-ratio found in each cell, the share of tries in which each alarms, and any does.

    The share is of one asking; the log-ratio is found so often that it is found at every asking in POWER of all tries.

    A try turns round which of the two came first in some of the pairs, in all cells alike, as what disturbs a process disturbs
    all of its cells. A try that gives the lower limit l would have found a slowdown of -l and above.
    """
    level, limit = ALPHA / max(1, len(noise)), math.log1p(threshold)
    tries = _turned_round(noise)
    lows = {key: sorted(each[key].limits(level)[0] for each in tries) for key in noise}
    finds = {key: -each[TRIES - math.ceil(POWER_OF_EACH * TRIES)] for key, each in lows.items()}
    alarms, alarmed = dict.fromkeys(noise, 0), 0
    for each in tries:
        if any(mean.middle >= limit for mean in each.values()):
            levels = holm({key: mean.chance for key, mean in each.items()})
            verdicts = {key: _verdict(mean.middle, *mean.limits(levels[key]), finds[key], limit) for key, mean in each.items()}
            alarms |= {key: alarms[key] + 1 for key, verdict in verdicts.items() if verdict == SLOWER}
            alarmed += SLOWER in verdicts.values()
    return finds, {key: count / TRIES for key, count in alarms.items()}, alarmed / TRIES


def _turned_round(noise: Mapping[Key, Sequence[float]]) -> list[dict[Key, "Mean"]]:
    """What each try makes of each cell; turning pairs round changes the mean of the differences, not that of their squares."""
    rng = random.Random(0)
    squares = {key: statistics.fmean([d * d for d in ds]) for key, ds in noise.items()}
    tries = []
    for _ in range(TRIES):
        signs = rng.choices((-1.0, 1.0), k=max(map(len, noise.values()), default=0))
        middles = {key: sum(map(mul, signs, ds)) / len(ds) for key, ds in noise.items()}
        tries.append({key: Mean.of_squares(middle, squares[key], len(noise[key])) for key, middle in middles.items()})
    return tries


@dataclass(frozen=True)
class Mean:
    """The mean of differences, its standard error and its degrees of freedom."""

    middle: float
    error: float
    freedom: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Mean":
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        return cls(statistics.fmean(differences), error, len(differences) - 1)

    @classmethod
    def of_squares(cls, middle: float, squares: float, n: int) -> "Mean":
        """The same, of the mean of n differences and that of their squares."""
        return cls(middle, math.sqrt(max(0.0, squares - middle * middle) / (n - 1)), n - 1)

    @property
    def chance(self) -> float:
        """How likely so high a mean is where nothing differs; one-sided."""
        if self.error == 0:
            return 0.0 if self.middle > 0 else 1.0
        return upper_tail(self.middle / self.error, self.freedom)

    def limits(self, level: float) -> tuple[float, float]:
        """The two values between which the true mean lies, either of them wrong with a chance of `level`."""
        width = quantile(level, self.freedom) * self.error
        return self.middle - width, self.middle + width


def holm(chances: Mapping[Key, float]) -> dict[Key, float]:
    """The level at which each is to be judged, so that one wrong alarm among all is raised in ALPHA of all cases at most."""
    levels: dict[Key, float] = {}
    refuted = 0
    for key in sorted(chances, key=lambda one: chances[one]):
        levels[key] = ALPHA / (len(chances) - refuted)
        refuted += refuted == len(levels) - 1 and chances[key] <= levels[key]
    return levels


def pairs_for(noise: Sequence[float], level: float, threshold: float) -> int | None:
    """About how many pairs, an even number, would find the threshold; None if more than MOST_PAIRS."""
    spread = math.sqrt(statistics.fmean([d * d for d in noise]))
    for n in range(FEWEST_PAIRS, MOST_PAIRS + 1, 2):
        if (quantile(level, n - 1) + quantile(1 - POWER_OF_EACH, n - 1)) * spread / math.sqrt(n) <= math.log1p(threshold):
            return n
    return None


def _ratio(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf
