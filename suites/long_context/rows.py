"""What the tables of this suite share: records by text and by model, and of a row a mean with its half width, and a note."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from harness import interval
from harness.cell import OK, Record

only_tells = True  # no record hangs on it


@dataclass(frozen=True)
class OnText:
    """The records of one scale on one text, by model, device and seed; `origin` says which text it is."""

    scale: str
    origin: str
    records: list[Record]

    @property
    def where(self) -> str:
        """As titles name it."""
        return f"{'' if self.scale == 'default' else f'scale {self.scale}, '}{self.origin}"


def by_text(records: Iterable[Record]) -> Iterator[OnText]:
    """Records that compare: of models that were trained and measured alike."""
    ordered = sorted(records, key=lambda r: (*_text(r), *_model(r), r.cell.seed))
    for (scale, _), group in groupby(ordered, key=_text):
        mates = list(group)
        yield OnText(scale, next((r.values["text"] for r in mates if r.outcome == OK), "the same text"), mates)


def by_scale(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """The scale, and its records in their order."""
    yield from ((scale, list(group)) for scale, group in groupby(sorted(records, key=_scale), key=_scale))


def by_model(records: Iterable[Record]) -> Iterator[tuple[dict[str, str], list[Record], list[str]]]:
    """The columns that name a model, its records that are ok, a seed each, and what became of the others."""
    for (subject, device), group in groupby(sorted(records, key=lambda r: (*_model(r), r.cell.seed)), key=_model):
        mates = list(group)
        named = {"model": subject} | ({"device": device} if device != "cpu" else {})
        yield named, good(mates), [r.in_brief for r in mates if r.outcome != OK]


def good(records: Iterable[Record]) -> list[Record]:
    """Those that hold what was measured."""
    return [record for record in records if record.outcome == OK]


def entry(name: str, by_seed: Sequence[Any], digits: int = 3) -> dict[str, Any]:
    """The mean of samples[seed][trial] and its half width; none where every seed has a sentence or nothing in their place."""
    measured = [interval.numbers(samples) for samples in by_seed if samples and not isinstance(samples, str)]
    if not measured:
        return {name: None, f"{name} ±": None}
    middle, width = interval.of_trials_and_seeds(measured)
    return {name: round(middle, digits) + 0.0, f"{name} ±": round(width, digits)}  # no -0.0


def reasons(by_seed: Iterable[Any]) -> list[str]:
    """The sentences that stand where there are no samples."""
    return [samples for samples in by_seed if isinstance(samples, str)]


def note(sentences: Iterable[str]) -> str:
    """Each sentence once."""
    return "; ".join(dict.fromkeys(filter(None, sentences)))


def _scale(record: Record) -> str:
    return str(record.cell.settings["scale"])


def _text(record: Record) -> tuple[str, str]:
    return _scale(record), record.digests.get("text", "")


def _model(record: Record) -> tuple[str, str]:
    return record.cell.subject, record.cell.device
