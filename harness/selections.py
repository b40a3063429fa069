"""Two stored selections beside each other: runs, commits, machines or contestants, cell by cell; pure, but for reading the store.

What is timed has a ratio of medians, whose limits are made of those of both medians: they hold for these processes, and say
nothing of what the next process would give. What was tried many times on the same texts has a mean difference of its pairs.
"""

import fnmatch
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import catalogue, clock, interval, machine
from harness.cell import OK, Cell, Record
from harness.findings import OF_THE_MOMENT, describer, how_many
from harness.plan import WrongRequest
from harness.store import Store

if TYPE_CHECKING:
    import pandas as pd

# What of a record may be chosen that is not of its cell.
OF_RECORDS = ("run", "commit", "machine")
# Which values are compared where nothing else is said; quantity=* are all of them.
QUANTITIES = {"speed": "seconds", "correctness": "score", "long-context": "bits_per_byte*", "in-context-learning": "found*"}
TIMES = ("seconds", "*_s", "*seconds*")
ADVICE = "  See what is stored: harness table suite=NAME; let both name what is to differ, such as 'length=256' 'length=512'"
SHARE = 0.975  # of each median, so that both limits of a ratio hold with 95 %


@dataclass(frozen=True)
class Choice:
    """One of the two: the words that choose it."""

    letter: str
    words: Mapping[str, str]

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.words.items())

    def has(self, record: Record) -> bool:
        known = facts(record)
        return all(key in known and matches(known[key], patterns, key) for key, patterns in self.words.items())


@dataclass(frozen=True)
class Row:
    """One quantity of a cell on both sides: a ratio or a difference, with limits where there are samples."""

    cell: Cell
    subject: str
    quantity: str
    a: float | str
    b: float | str
    kind: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The rows of two choices, and what is to be said above them."""

    title: str
    rows: Sequence[Row]
    unpaired: tuple[int, int]

    @property
    def summary(self) -> str:
        cells = len({row.cell for row in self.rows})
        left = [f"{how_many(alone)} only in {letter}" for letter, alone in zip("AB", self.unpaired, strict=True) if alone]
        return "; ".join([self.title, f"{how_many(cells)} on both sides", *left])


def choice(letter: str, word: str) -> Choice:
    """`run=ab12 impl=plain` as a choice."""
    words = {}
    for part in word.split():
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in words:
            raise WrongRequest(f"{word!r} chooses no records; a choice is written 'key=value key=value', such as 'run=1a2b3c4d'")
        words[key] = value
    return Choice(letter, words)


def compare(first: Choice, second: Choice, suite: str, common: Mapping[str, str], quantity: str, store: Store) -> Comparison:
    """Pair the newest records of two choices by all but what both name, each otherwise, and set their values side by side."""
    records = [record for record in store.read(suite) if Choice("", common).has(record)]
    if not records:
        raise WrongRequest(_nothing(f"suite={suite} {Choice('', common)}".strip(), common, list(store.read(suite)), suite, store))
    both = [_newest(chosen, [record for record in records if chosen.has(record)], common) for chosen in (first, second)]
    for chosen, found in zip((first, second), both, strict=True):
        if not found:
            raise WrongRequest(_nothing(f"{chosen.letter} ({chosen})", chosen.words, records, suite, store))
    machines = _machines(first, second, both)
    differing = {key for key, value in first.words.items() if second.words.get(key, value) != value}
    a, b = (_by_identity(chosen, found, differing) for chosen, found in zip((first, second), both, strict=True))
    if all(a[key] == b[key] for key in a.keys() & b.keys()) and a.keys() & b.keys():
        raise WrongRequest(_the_same(first, second))
    pattern = quantity or QUANTITIES.get(suite, "*")
    rows = [row for key in a if key in b for row in _rows(a[key], b[key], pattern)]
    return Comparison(_title(first, second, suite, common, machines, both), rows, (len(a.keys() - b), len(b.keys() - a)))


def tables(found: Comparison) -> "dict[str, pd.DataFrame]":
    """A table of ratios, one of differences, one of what has no number."""
    import pandas as pd

    about = describer([row.cell for row in found.rows])
    frames: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        columns = about(row.cell) | {
            "implementation": row.subject,
            "quantity": row.quantity,
            "A": _short(row.a),
            "B": _short(row.b),
        }
        if row.kind:
            limits = {"at least": _short(row.low), "at most": _short(row.high)}
            columns |= {row.kind: _short(row.value), **limits}
        frames.setdefault(row.kind or "Outcomes", []).append(columns)
    return {title: pd.DataFrame(rows, dtype=object) for title, rows in frames.items()}  # a count stays one beside a time


def _the_same(first: Choice, second: Choice) -> str:
    return f"A ({first}) and B ({second}) are the very same records.\n{ADVICE}"


def nothing_paired(found: Comparison) -> str:
    """What to say where both sides have records, but none answers to another."""
    only_a, only_b = found.unpaired
    return (
        f"nothing was compared: {how_many(only_a)} of A and {only_b} of B, and no two ask the same\n"
        "  Records are paired by spec, implementation, variant, case, dtype, device, seed and settings, all but what both name.\n"
        f"{ADVICE}"
    )


def facts(record: Record) -> dict[str, str]:
    """What a record can be chosen by."""
    return {"run": record.run, "commit": record.commit, "machine": record.machine} | facts_of_cell(record.cell)


def facts_of_cell(cell: Cell) -> dict[str, str]:
    """What it is asked as, by the words of a selection."""
    own = {"spec": cell.spec, "impl": cell.implementation, "variant": cell.variant, "case": cell.case, "dtype": cell.dtype}
    own |= {"device": cell.device, "seed": str(cell.seed)}
    return own | {key: str(value) for key, value in cell.settings.items()}


def matches(value: str, patterns: str, key: str) -> bool:
    """Whether one of the patterns names the value; runs and commits go by their first digits."""
    own = [f"{pattern}*" if key in ("run", "commit") and pattern else pattern for pattern in patterns.split(",")]
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in own)


def _newest(chosen: Choice, records: Sequence[Record], common: Mapping[str, str]) -> list[Record]:
    """The newest record of each cell and machine; where no machine is named, those of this machine, if it has any."""
    if "machine" not in {*chosen.words, *common}:
        here = [record for record in records if record.machine == machine.name()]
        records = here or records
    return list({(record.machine, record.cell.key): record for record in records}.values())


def _machines(first: Choice, second: Choice, both: Sequence[Sequence[Record]]) -> list[str]:
    """The machine of each side: one each, and the same, unless both are named."""
    of = [sorted({record.machine for record in found}) for found in both]
    for chosen, names in zip((first, second), of, strict=True):
        if len(names) > 1:
            raise WrongRequest(
                f"{chosen.letter} ({chosen}) has records of {len(names)} machines, which are not mixed.\n"
                f"  Choose one: {' or '.join(f'machine={name}' for name in names)}"
            )
    (a,), (b,) = of
    if a != b and not ("machine" in first.words and "machine" in second.words):
        raise WrongRequest(
            f"A ({first}) is of {a}, B ({second}) of {b}: what two machines measure is not compared unasked.\n"
            f"  If that is what you want, name both: harness compare '{first} machine={a}' '{second} machine={b}' ..."
        )
    return [a, b]


def _by_identity(chosen: Choice, records: Sequence[Record], differing: set[str]) -> dict[Any, list[Record]]:
    """Records by all that is to be the same on both sides; the rounds of a cell are one."""
    free = {*differing, *OF_RECORDS, *OF_THE_MOMENT} | ({"variant"} if "impl" in differing else set())
    found: dict[Any, list[Record]] = {}
    for record in records:
        identity = tuple(sorted((key, value) for key, value in facts(record).items() if key not in free))
        found.setdefault(identity, []).append(record)
    for same in found.values():
        cells = {record.cell.subject: record for record in same}
        rounds = {tuple(record.cell.settings.get(key) for key in OF_THE_MOMENT) for record in same}
        if len(cells) > 1 or len(same) > len(rounds):
            told = {key: sorted({facts(record).get(key, "") for record in same}) for key in sorted(free - {*OF_RECORDS, "round"})}
            ways = [f"{key}={value}" for key, values in told.items() if len(values) > 1 for value in values]
            raise WrongRequest(
                f"{len(same)} cells of {chosen.letter} ({chosen}) answer to one of the other: they differ in what is compared.\n"
                f"  Choose one: {' or '.join(ways)}"
            )
    return found


def _rows(a: Sequence[Record], b: Sequence[Record], pattern: str) -> Iterator[Row]:
    """A row for each value that both have, or one with their outcomes where one of them is not ok."""
    cell, subject = b[0].cell, ", ".join(dict.fromkeys((a[0].cell.subject, b[0].cell.subject)))
    ends = [next((record.outcome for record in side if record.outcome != OK), OK) for side in (a, b)]
    if ends != [OK, OK]:
        yield Row(cell, subject, "outcome", ends[0], ends[1])
        return
    left, right = (_values(side, pattern) for side in (a, b))
    for name in left:
        if name in right:
            yield _row(cell, subject, name, left[name], right[name])


def _row(cell: Cell, subject: str, name: str, a: list[float], b: list[float]) -> Row:
    timed = any(fnmatch.fnmatchcase(name.rpartition(" ")[2], pattern) for pattern in TIMES)
    if len(a) == 1 and len(b) == 1:
        return Row(cell, subject, name, a[0], b[0], "B/A", b[0] / a[0] if a[0] else None)
    if timed or len(a) != len(b):
        before, after = statistics.median(a), statistics.median(b)
        of_a, of_b = clock.interval(a, SHARE), clock.interval(b, SHARE)
        ratio = after / before if before else None
        if of_a is None or of_b is None or of_a[0] <= 0:
            return Row(cell, subject, name, before, after, "B/A", ratio)
        return Row(cell, subject, name, before, after, "B/A", ratio, of_b[0] / of_a[1], of_b[1] / of_a[0])
    differences = [after - before for before, after in zip(a, b, strict=True)]
    middle, width = interval.mean(differences), interval.half_width(differences)
    return Row(cell, subject, name, interval.mean(a), interval.mean(b), "B-A", middle, middle - width, middle + width)


def _values(records: Sequence[Record], pattern: str) -> dict[str, list[float]]:
    """The numbers of a record by name; those of its rounds one after another."""
    found: dict[str, list[float]] = {}
    for record in records:
        for name, samples in _numbers(record.values):
            if any(fnmatch.fnmatchcase(name, one) for one in pattern.split(",")):
                found.setdefault(name, []).extend(samples)
    return found


def _numbers(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, list[float]]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{within}{name} ")
        elif _is_number(value):
            yield f"{within}{name}", [value]
        elif isinstance(value, list) and value and all(map(_is_number, value)):
            yield f"{within}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _title(
    first: Choice,
    second: Choice,
    suite: str,
    common: Mapping[str, str],
    machines: Sequence[str],
    both: Sequence[Sequence[Record]],
) -> str:
    """What is compared, on which machines, with which versions."""
    words = f" {Choice('', common)}" if common else ""
    where = f"on {machines[0]}" if machines[0] == machines[1] else f"of two machines, A on {machines[0]}, B on {machines[1]}"
    versions = [" and ".join(sorted({record.libraries for record in found})) for found in both]
    other = "" if versions[0] == versions[1] else f", of other versions, A with {versions[0]}, B with {versions[1]}"
    return f"A: {first}, B: {second}, suite={suite}{words}, {where}{other}"


def _nothing(what: str, words: Iterable[str], records: Sequence[Record], suite: str, store: Store) -> str:
    """That a choice by these words has no records, and what there would be to choose."""
    if not records:
        return f"nothing is stored of suite={suite} in {store.root}/.\n  Measure it: harness run suite={suite}"
    keys = {key for record in records for key in facts(record)}
    for word in words:
        if word not in keys:
            return f"records of {suite} cannot be chosen by {word!r}.{catalogue.suggestion(word, sorted(keys))}"
    known = {key: sorted({facts(record)[key] for record in records} - {""}) for key in (*OF_RECORDS, "impl")}
    lines = [f"  {key}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" for key, names in known.items() if names]
    return "\n".join([f"no record of {suite} is chosen by {what}.", *lines])


def _short(value: float | str | None) -> float | str | None:
    """What is measured, to four digits; counts as they are."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
