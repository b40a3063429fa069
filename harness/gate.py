"""Did it get worse? Two revisions asked the same: what is counted must not rise by one, what is timed is judged by pairs.

Counted are the values of `suite=memory` and, where Triton is installed, `suite=kernels`: the same at every try, so any rise is
real. Timed is `suite=speed`, in new processes in the order BASE HEAD HEAD BASE, and BASE once more at the end, so that there are
as many pairs of BASE with itself as of HEAD with BASE. Of each process the fastest sample counts: what disturbs only adds. Where
a cell is slower, all of it is run once more, and what these runs say stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import catalogue, findings, machine, paired, plan, progress, revisions
from harness.cell import Record
from harness.findings import TIMED, Findings
from harness.plan import WrongRequest
from harness.revisions import Side

COUNTED = ("memory", "kernels")
# What `harness compare` understands itself, with its default; every other word goes to the suites.
WORDS: dict[str, Any] = {"suite": "", "pairs": findings.PAIRS, "threshold": findings.THRESHOLD, "allow": ""}
GUESS_S = 20.0  # how long a run takes, as long as none has been seen


def compare(base: str, head: str, words: Mapping[str, str]) -> Findings:
    """Ask both revisions and judge what they say."""
    options = {key: plan.typed_as(key, words.get(key, default), default) for key, default in WORDS.items()}
    _check(options)
    with revisions.checkouts(base, head) as sides:
        handed = revisions.handed({key: value for key, value in words.items() if key not in WORDS}, sides)
        allowed = tuple(filter(None, (pattern.strip() for pattern in options["allow"].split(","))))
        found = Findings(base, head, options["pairs"], options["threshold"], allowed)
        suites = _suites(options["suite"], handed, sides, found)
        for suite, (of_base, of_head) in _asked(suites, sides, found).items():
            if suite == TIMED:
                findings.judge_timed(found, of_base, of_head)
            else:
                findings.judge_counted(found, *([record for run in runs for record in run] for runs in (of_base, of_head)))
        if found.slower and (again := _asked({TIMED: suites[TIMED]}, sides, found, asking=1)):
            findings.judge_again(found, *again[TIMED])
    found.notes += [f"allow={pattern} allows nothing: no such cell got worse" for pattern in findings.idle(found)]
    return found


def _check(options: Mapping[str, Any]) -> None:
    pairs, threshold = options["pairs"], options["threshold"]
    if pairs % 2 or not paired.FEWEST_PAIRS <= pairs <= paired.MOST_PAIRS:
        raise WrongRequest(
            f"pairs={pairs} should be an even number from {paired.FEWEST_PAIRS} to {paired.MOST_PAIRS}: "
            f"BASE HEAD, HEAD BASE, ...\n  Try: pairs={WORDS['pairs']}"
        )
    if not 0 < threshold <= 1:
        raise WrongRequest(f"threshold={threshold:g} should be above 0 and up to 1: a slowdown of 10 % is threshold=0.1")
    for name in filter(None, options["suite"].split(",")):
        if name not in (*COUNTED, TIMED):
            raise WrongRequest(
                f"suite={name} does not compare revisions.{catalogue.suggestion(name, (*COUNTED, TIMED))}\n"
                f"  What is stored of it can be compared: harness compare run=ONE run=OTHER suite={name}"
            )


def _suites(asked: str, handed: Mapping[str, str], sides: Sequence[Side], found: Findings) -> dict[str, list[str]]:
    """The suites to ask, each with the words that go to it; those that do not know a word are left out, and it is said."""
    names = asked.split(",") if asked else [n for n in (*COUNTED, TIMED) if n != "kernels" or machine.version("triton")]
    chosen: dict[str, list[str]] = {}
    words: dict[str, None] = {}
    for name in names:
        own = next((known for side in reversed(sides) if (known := side.settings(name)) is not None), None)
        if own is None:
            found.notes.append(f"suite={name} is not asked: neither {sides[0]} nor {sides[1]} has it")
            continue
        found.known[name] = {*plan.WORDS, *own}
        words |= dict.fromkeys([*plan.WORDS, *own, *WORDS])
        strange = [key for key in handed if key not in found.known[name]]
        if strange:
            found.notes.append(f"suite={name} is not asked: it has no setting named {strange[0]!r}")
        else:
            chosen[name] = [f"{key}={value}" for key, value in handed.items()]
    for key in handed:
        if found.known and not any(key in known for known in found.known.values()):
            raise WrongRequest(f"no setting named {key!r}.{catalogue.suggestion(key, words)}")
        if key in ("results", "rerun"):
            raise WrongRequest(f"`compare` asks both sides anew and keeps nothing, so it takes no {key!r}")
    # What runs beside it would be timed with it; and a round is a process, of which the pairs are made.
    once = {"workers": "1", "rounds": "1"} if TIMED in chosen else {}
    for key, value in once.items():
        if key in found.known[TIMED] and key not in handed:
            chosen[TIMED].append(f"{key}={value}")
    return chosen


@dataclass(frozen=True)
class _Step:
    """One run of a suite on one side."""

    side: Side
    suite: str
    number: int
    case: str = ""

    @property
    def subject(self) -> str:
        return f"suite={self.suite} on {self.side.role}" + (f", process {self.number + 1}" if self.suite == TIMED else "")


class _Meter(progress.Meter):
    """Learns from each run how long the others of its suite will take."""

    def __init__(self, steps: Sequence[_Step]):
        super().__init__(dict.fromkeys(steps, GUESS_S), "runs")
        self.finished_steps: list[_Step] = []

    def took(self, step: _Step, seconds: float) -> None:
        self.finished_steps.append(step)
        self.pieces_done += 1
        self.cost |= {other: max(seconds, 0.01) for other in self.cost if other.suite == step.suite}
        self._add_up()

    def leave_out(self, suite: str) -> None:
        self.cost = {step: cost for step, cost in self.cost.items() if step.suite != suite or step in self.finished_steps}
        self._add_up()

    def _add_up(self) -> None:
        self.running = {}
        self.total = sum(self.cost.values())
        self.done = sum(self.cost[step] for step in self.finished_steps)


Runs = tuple[list[Sequence[Record]], list[Sequence[Record]]]  # the records of each run of BASE, and of each of HEAD


def _asked(suites: Mapping[str, list[str]], sides: Sequence[Side], found: Findings, asking: int = 0) -> dict[str, Runs]:
    """The runs of each suite; one that both sides refuse is left out, and all of them are a wrong request."""
    steps = {suite: _steps(suite, sides, found.pairs, asking) for suite in suites}
    meter = _Meter([step for each in steps.values() for step in each])
    runs: dict[str, Runs] = {}
    refusals: list[revisions.Asked] = []
    with progress.shown(meter) as show:
        for suite, words in suites.items():
            answered, refused = _run(steps[suite], words, meter, show)
            if any(answered.values()):
                runs[suite] = (answered["BASE"], answered["HEAD"])
            refusals += refused.values()
            found.notes += [f"suite={suite} has no answer from {role}: {said.complaint}" for role, said in refused.items()]
    if not runs and refusals and all(said.wrong_request for said in refusals):
        raise WrongRequest(refusals[-1].complaint)
    return runs


def _run(
    steps: Sequence[_Step], words: Sequence[str], meter: _Meter, show: Any
) -> tuple[dict[str, list[Sequence[Record]]], dict[str, revisions.Asked]]:
    """The records of each run, by role; where a side refuses, the other is asked once, and then no more."""
    answered: dict[str, list[Sequence[Record]]] = {step.side.role: [] for step in steps}
    refused: dict[str, revisions.Asked] = {}
    for step in steps:
        said, seconds = _ask(step, words, meter, show)
        meter.took(step, seconds)
        if said.records:
            answered[step.side.role].append(said.records)
        else:
            refused[step.side.role] = said
        if refused and step != steps[0]:
            meter.leave_out(step.suite)
            break
    return answered, refused


def _ask(step: _Step, words: Sequence[str], meter: _Meter, show: Any) -> tuple[revisions.Asked, float]:
    took = 0.0

    def watch(seconds: float) -> None:
        nonlocal took
        took = seconds
        show.update({step: (min(0.95, seconds / meter.cost[step]), "")})

    results = step.side.place.parent / f"{step.side.role.lower()}-{step.suite}-{step.number}"
    return revisions.ask(step.side, step.suite, words, results, watch), took


def _steps(suite: str, sides: Sequence[Side], pairs: int, asking: int = 0) -> list[_Step]:
    """BASE HEAD for what is counted; BASE HEAD, HEAD BASE, ... and BASE once more for what is timed; each asking numbers on."""
    base, head = sides
    if suite != TIMED:
        return [_Step(base, suite, 0), _Step(head, suite, 0)]
    order = [side for i in range(pairs) for side in ((base, head) if i % 2 == 0 else (head, base))] + [base]
    return [_Step(side, suite, number) for number, side in enumerate(order, asking * len(order))]
