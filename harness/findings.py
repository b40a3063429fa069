"""What comparing two revisions found: counts that must not rise, times judged by pairs, what cannot be compared; pure."""

import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from harness import machine, paired
from harness.cell import OK, UNSUPPORTED, Cell, Record
from harness.paired import CANNOT_TELL, NOT_SLOWER, SLOWER, Judgement, Times

if TYPE_CHECKING:
    import pandas as pd

TIMED = "speed"
PAIRS, THRESHOLD = 12, 0.1
# The number of instructions is no cost: a loop unrolled has more of them, and is faster.
COSTS = ("parameters", "flops", "bytes", "registers", "spills")
GAINS = ("tensor_core",)
COSTLIER, BETTER, EQUAL = "costlier", "better", "equal"
NOWHERE = "unsupported on both sides"
OF_THE_MOMENT = ("round", "rounds")


@dataclass(frozen=True)
class Cost:
    """One quantity of a cell that is the same at every try, on both sides."""

    cell: Cell
    quantity: str
    base: float
    head: float

    @property
    def standing(self) -> str:
        if self.base == self.head:
            return EQUAL
        wanted_high = self.quantity.rpartition(" ")[2] in GAINS
        return COSTLIER if (self.head > self.base) != wanted_high else BETTER

    @property
    def worse(self) -> bool:
        return self.standing == COSTLIER

    @property
    def change(self) -> str:
        return f"{self.head / self.base - 1:+.1%}" if self.base else "from nothing"


@dataclass(frozen=True)
class Time:
    """The time of a cell on both sides, in seconds of the middle process, and what is to be said of it."""

    cell: Cell
    base_s: float
    head_s: float
    judgement: Judgement

    @property
    def worse(self) -> bool:
        return self.judgement.verdict == SLOWER


@dataclass(frozen=True)
class Apart:
    """A cell, or a quantity of it, that cannot be compared, and why; `broken` where BASE answers and HEAD fails, `lost` where
    HEAD does not support it."""

    cell: Cell
    what: str
    broken: bool = False
    lost: bool = False


@dataclass
class Findings:
    """All that was found: what the verdict, the tables and the messages are made of."""

    base: str
    head: str
    pairs: int
    threshold: float
    allowed: Sequence[str] = ()  # patterns of implementations that may cost more, take longer, or support less
    costs: list[Cost] = field(default_factory=list)
    times: list[Time] = field(default_factory=list)
    apart: list[Apart] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    false_alarms: float = 0.0
    known: dict[str, set[str]] = field(default_factory=dict)  # by suite, the words that it understands

    @property
    def costlier(self) -> list[Cost]:
        return [cost for cost in self.costs if cost.worse and not self.allows(cost.cell)]

    @property
    def slower(self) -> list[Time]:
        return [time for time in self.times if time.worse and not self.allows(time.cell)]

    def allows(self, cell: Cell) -> bool:
        """Whether a cell may get worse, or be given up: a person has said so."""
        return any(fnmatchcase(cell.subject, pattern) for pattern in self.allowed)

    @property
    def broken(self) -> list[Apart]:
        return [one for one in self.apart if one.broken or (one.lost and not self.allows(one.cell))]

    @property
    def failed(self) -> bool:
        return bool(self.costlier or self.slower or self.broken) or not (self.costs or self.times)


def idle(found: Findings) -> list[str]:
    """Patterns that allow nothing that was found."""
    of_both: list[Cost | Time] = [*found.costs, *found.times]
    worse = [one.cell.subject for one in of_both if one.worse] + [one.cell.subject for one in found.apart if one.lost]
    return [pattern for pattern in found.allowed if not any(fnmatchcase(subject, pattern) for subject in worse)]


def judge_counted(found: Findings, base: Sequence[Record], head: Sequence[Record]) -> None:
    """Compare what is the same at every try, quantity by quantity, of one run of a side; no records where it was not run."""
    before, after = _newest(base), _newest(head)
    for cell in dict.fromkeys([*before, *after]):
        if _comparable(found, cell, [before.get(cell, ())], [after.get(cell, ())]):
            was, now = (dict(quantities(side[cell][0].values)) for side in (before, after))
            both = [name for name in was if name in now]
            found.costs += [Cost(cell, name, was[name], now[name]) for name in both]
            found.apart += [Apart(cell, f"{name} only in BASE") for name in was if name not in now]
            found.apart += [Apart(cell, f"{name} only in HEAD") for name in now if name not in was]


def judge_timed(found: Findings, base: Sequence[Sequence[Record]], head: Sequence[Sequence[Record]]) -> None:
    """Judge all cells that were timed in every run, of which `base` has one more than `head`; runs not made are none."""
    found.times = _judged(found, base, head, lambda cell: True)


def judge_again(found: Findings, base: Sequence[Sequence[Record]], head: Sequence[Sequence[Record]]) -> None:
    """Judge the slower cells by further runs, which no alarm has chosen: what these say stands. One not answered stays slower."""
    first = {time.cell: time for time in found.slower}
    second = {time.cell: time for time in _judged(found, base, head, first.__contains__)}
    found.times = [_in_the_end(time, second.get(time.cell, time)) for time in found.times]


def _judged(
    found: Findings, base: Sequence[Sequence[Record]], head: Sequence[Sequence[Record]], wanted: Callable[[Cell], bool]
) -> list[Time]:
    """The verdicts on the wanted cells that were timed in every run; of the others what was found says why."""
    of_base, of_head = (_filled(runs, many) for runs, many in ((base, found.pairs + 1), (head, found.pairs)))
    pairs: dict[Cell, Times] = {}
    for cell in filter(wanted, dict.fromkeys(cell for run in (*of_base, *of_head) for cell in run)):
        before, after = ([run.get(cell, ()) for run in runs] for runs in (of_base, of_head))
        if _comparable(found, cell, before, after):
            was, now = ([_fastest(rounds) for rounds in side] for side in (before, after))
            if all(0 < seconds < math.inf for seconds in (*was, *now)):
                pairs[cell] = Times(was[:-1], now, was[1:])
            else:
                found.apart.append(Apart(cell, "a process says ok and gives no seconds", broken=True))
    if not pairs:
        return []
    judgements, found.false_alarms = paired.judged(pairs, found.threshold)
    return [Time(cell, statistics.median(of.base), statistics.median(of.head), judgements[cell]) for cell, of in pairs.items()]


def _in_the_end(first: Time, second: Time) -> Time:
    """What is said of a cell: the second verdict, and where it is no alarm, that the first was one."""
    if not first.worse or second.worse:
        return second
    why = f"{first.judgement.ratio - 1:+.1%} at first, not so when asked again"
    return replace(second, judgement=replace(second.judgement, why="; ".join(filter(None, (why, second.judgement.why)))))


def quantities(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """What of the values of a record counts as a cost or a gain: `peak_bytes`, `forward_kernel registers`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from quantities(value, f"{within}{name} ")
        elif (name in (*COSTS, *GAINS) or name.endswith("_bytes")) and not isinstance(value, bool | str | list | None):
            yield f"{within}{name}", value


def summary(found: Findings) -> str:
    """The first line: what was compared, and what came out."""
    said = [f"{found.head} against {found.base}"]
    if broken := len(found.broken):
        said.append(f"{how_many(broken)} {'fails' if broken == 1 else 'fail'} that did not")
    if found.costs:
        counts = {name: sum(cost.standing == name for cost in found.costs) for name in (COSTLIER, BETTER, EQUAL)}
        said.append(f"of {len(found.costs)} counts " + _counted(counts))
    if found.times:
        verdicts = [time.judgement.verdict for time in found.times]
        counts = {name: verdicts.count(name) for name in (SLOWER, CANNOT_TELL, NOT_SLOWER)}
        said.append(f"of {len(verdicts)} timed cells " + _counted(counts))
    if not found.costs and not found.times:
        said.append("nothing was compared")
    for role in ("BASE", "HEAD"):
        if alone := sum(one.what.startswith(f"only in {role}") for one in found.apart):
            said.append(f"{how_many(alone)} only in {role}")
    if nowhere := sum(one.what == NOWHERE for one in found.apart):
        said.append(f"{how_many(nowhere)} unsupported on both sides")
    return "; ".join(said)


def how_many(cells: int) -> str:
    """`1 cell`, `12 cells`."""
    return f"{cells} cell{'s' * (cells != 1)}"


def calibration(found: Findings) -> str:
    """What this gate can see on this machine, measured on BASE against itself in the very same run."""
    if not found.times:
        return ""
    finds = [time.judgement.finds - 1 for time in found.times]
    others = f" in the quietest of {len(finds)} cells to {max(finds):.1%} in the noisiest" * (len(finds) > 1)
    return (
        f"The same code against itself is told slower in {found.false_alarms:.1%} of comparisons. A slowdown is found from "
        f"{min(finds):.1%}{others}; "
        f"{found.threshold:.0%} gates where it is found ({found.pairs} pairs of processes on {machine.name()})"
    )


def tables(found: Findings) -> "dict[str, pd.DataFrame]":
    """Counts that changed, all times, and what could not be compared; the summary counts what neither side supports."""
    import pandas as pd

    cells = [cost.cell for cost in found.costs] + [time.cell for time in found.times] + [one.cell for one in found.apart]
    about = describer(cells)
    changed = sorted((cost for cost in found.costs if cost.standing != EQUAL), key=lambda cost: cost.standing == BETTER)
    timed = sorted(found.times, key=lambda time: (paired.VERDICTS.index(time.judgement.verdict), -time.judgement.ratio))
    frames = {
        "Counts that changed": [
            about(c.cell)
            | {"quantity": c.quantity, "BASE": c.base, "HEAD": c.head, "change": c.change}
            | {"verdict": _said(c.standing, c, found)}
            for c in changed
        ],
        "Time, HEAD against BASE": [
            about(time.cell) | _time_columns(time) | {"verdict": _said(time.judgement.verdict, time, found)} for time in timed
        ],
        "Not compared": [{"suite": a.cell.suite} | about(a.cell) | {"why": a.what} for a in found.apart if a.what != NOWHERE],
    }
    return {title: pd.DataFrame(rows) for title, rows in frames.items() if rows}


def failures(found: Findings) -> str:
    """One message for each thing that got worse, or that nothing was compared."""
    said = [_broken(one, found) for one in found.broken]
    said += [_costlier(cost, found) for cost in found.costlier] + [_slower(time, found) for time in found.slower]
    if not found.costs and not found.times:
        asked = f"{shlex.quote(found.base)} {shlex.quote(found.head)}"
        said.append(
            f"nothing was compared: {found.head} and {found.base} have no cell in common that is ok on both sides\n"
            f"  See what there is to ask: harness plan suite=memory; then: harness compare {asked} spec=NAME"
        )
    return "\n\n".join(said)


def _apart(cell: Cell, base: Sequence[Sequence[Record]], head: Sequence[Sequence[Record]]) -> Apart | None:
    """Why a cell cannot be compared, given its records in each run of both sides; None where it can."""
    ended = {role: [_end(records) for records in runs] for role, runs in (("BASE", base), ("HEAD", head))}
    if all(set(ends) == {OK} for ends in ended.values()):
        return None
    there = {role: [end for end in ends if end] for role, ends in ended.items()}
    for role, other in (("BASE", "HEAD"), ("HEAD", "BASE")):
        if not there[other]:
            return Apart(cell, f"only in {role}" + ("" if set(there[role]) == {OK} else f", and {there[role][0]} there"))
    if all(set(ends) == {UNSUPPORTED} for ends in ended.values()):
        return Apart(cell, NOWHERE)
    if set(ended["BASE"]) == {OK} and OK not in there["HEAD"]:
        lost = set(there["HEAD"]) == {UNSUPPORTED}
        return Apart(cell, f"{there['HEAD'][0]} in HEAD, ok in BASE{_why(head)}", broken=not lost, lost=lost)
    return Apart(
        cell, "; ".join(f"{role}: {_shares(ended[role])}{_why(runs)}" for role, runs in (("BASE", base), ("HEAD", head)))
    )


def _why(runs: Sequence[Sequence[Record]]) -> str:
    """The first reason that is given where a cell is not ok."""
    note = next((record.note for records in runs for record in records if record.outcome != OK and record.note), "").strip()
    return f": {note}" if note else ""


def _comparable(found: Findings, cell: Cell, base: Sequence[Sequence[Record]], head: Sequence[Sequence[Record]]) -> bool:
    """Whether a cell can be compared, given its records in each run of both sides; where not, what was found says why."""
    if (apart := _apart(cell, base, head)) is not None:
        found.apart.append(apart)
    return apart is None


def _newest(records: Iterable[Record]) -> dict[Cell, list[Record]]:
    """The newest record of each cell of one run; the rounds of a cell are one cell."""
    of: dict[Cell, dict[str, Record]] = {}
    for record in records:
        of.setdefault(_without_round(record.cell), {})[record.cell.key] = record
    return {cell: list(rounds.values()) for cell, rounds in of.items()}


def _filled(runs: Sequence[Sequence[Record]], many: int) -> list[Mapping[Cell, Sequence[Record]]]:
    """The cells of each run, and of each that was not made, which are none."""
    return [*map(_newest, runs), *[{}] * (many - len(runs))]


def _end(records: Sequence[Record]) -> str:
    """How a cell ended in one run: ok if all of its rounds are, else as the first that is not; nothing if it was not asked."""
    return next((record.outcome for record in records if record.outcome != OK), OK if records else "")


def _shares(ends: Sequence[str]) -> str:
    if len(ends) == 1:
        return ends[0]
    return ", ".join(f"{end or 'no answer'} in {ends.count(end)} of {len(ends)} processes" for end in dict.fromkeys(ends))


def _fastest(rounds: Sequence[Record]) -> float:
    """The fastest sample of a process; infinite where there is none."""
    return min((float(sample) for record in rounds for sample in record.values.get("seconds", ())), default=math.inf)


def _without_round(cell: Cell) -> Cell:
    return replace(cell, settings={key: value for key, value in cell.settings.items() if key not in OF_THE_MOMENT})


def describer(cells: Sequence[Cell]) -> Callable[[Cell], dict[str, Any]]:
    """What tells a cell from others in a table: its implementation, and all that is not the same for all of them."""
    facts = [_facts(cell) for cell in cells]
    names = dict.fromkeys(name for each in facts for name in each)
    telling = [name for name in names if len({str(each.get(name)) for each in facts}) > 1 or name in ("case", "form", "length")]
    return lambda cell: {"implementation": cell.subject} | {name: _facts(cell).get(name) for name in telling}


def _facts(cell: Cell) -> dict[str, Any]:
    own = {"case": cell.case, "dtype": cell.dtype, "device": cell.device, "seed": cell.seed}
    return {name: value for name, value in own.items() if value != ""} | dict(cell.settings)


def _time_columns(time: Time) -> dict[str, Any]:
    one = time.judgement
    return {
        "BASE s": float(f"{time.base_s:.4g}"),
        "HEAD s": float(f"{time.head_s:.4g}"),
        "ratio": round(one.ratio, 3),
        "at least": round(one.low, 3),
        "at most": round(one.high, 3),
        "finds from": round(one.finds, 3),
        "false alarms": one.false_alarms,
        "verdict": one.verdict,
        "why": one.why,
    }


def _said(verdict: str, one: Cost | Time, found: Findings) -> str:
    return f"{verdict}, allowed" if one.worse and found.allows(one.cell) else verdict


def _where(cell: Cell) -> str:
    """`attention/plain in case causal, float32, form forward, length 256`."""
    settings = [f"{key} {value}" for key, value in cell.settings.items() if value not in ("", None)]
    return ", ".join(filter(None, [f" in case {cell.case}" if cell.case else "", cell.dtype, *settings]))


def _broken(one: Apart, found: Findings) -> str:
    return f"{one.cell.subject} fails{_where(one.cell)}\n  {one.what}\n  {_again(one.cell, found)}"


def _costlier(cost: Cost, found: Findings) -> str:
    return (
        f"{cost.cell.subject} costs more{_where(cost.cell)}\n"
        f"  {cost.quantity} is {cost.head:,}, but was {cost.base:,} ({cost.change})\n  {_again(cost.cell, found)}"
    )


def _slower(time: Time, found: Findings) -> str:
    one = time.judgement
    return (
        f"{time.cell.subject} is slower{_where(time.cell)}\n"
        f"  {time.head_s:.4g} s was {time.base_s:.4g} s: {one.ratio - 1:+.1%}, at least {one.low - 1:+.1%}, "
        f"at most {one.high - 1:+.1%}, in {found.pairs} pairs of processes\n"
        f"  slowdowns are found here from {one.finds - 1:.1%}; "
        f"the same code against itself is told slower in {one.false_alarms:.1%} of comparisons\n"
        f"  {_again(time.cell, found)}"
    )


def _again(cell: Cell, found: Findings) -> str:
    """The command that compares this cell alone, exactly as it was."""
    words: dict[str, Any] = {
        "suite": cell.suite,
        "spec": cell.spec,
        "impl": cell.implementation,
        "variant": cell.variant,
        "case": cell.case,
    }
    words |= {"dtype": cell.dtype, "device": cell.device, **({"seed": cell.seed} if cell.seed else {})}
    words |= {key: value for key, value in cell.settings.items() if key in found.known.get(cell.suite, ())}
    if cell.suite == TIMED:
        words |= {"pairs": found.pairs if found.pairs != PAIRS else ""}
        words |= {"threshold": found.threshold if found.threshold != THRESHOLD else ""}
    said = " ".join(shlex.quote(f"{key}={value}") for key, value in words.items() if value not in ("", None))
    return f"again: harness compare {shlex.quote(found.base)} {shlex.quote(found.head)} {said}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
