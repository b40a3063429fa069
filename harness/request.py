"""A request: words of a command line as settings, the cells that they choose, and the store that answers some of them."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import catalogue, machine, plan

LARGEST_MEMORY = 2**62  # bytes: a limit beyond what the kernel can count ends every worker


class Request:
    """A checked selection, its suite and its store."""

    def __init__(self, settings: Mapping[str, Any]):
        from harness.store import Store

        self.selection, self.suite = plan.selection(settings)
        self.name = str(self.selection.words["suite"])
        self.store = Store(folder(self.selection.words["results"]))
        self.limits = limits_of(self.suite, self.selection.words)
        self.cells = plan.cells(self.selection, self.suite)

    @property
    def title(self) -> str:
        """The name of the tables: that of the suite, and what was chosen otherwise than by default."""
        own = catalogue.find("suite", self.name).facts
        chosen = self.selection.settings
        return ".".join([self.name, *(str(chosen[key]) for key in own.get("choices", {}) if chosen[key] != own["settings"][key])])

    def stored(self) -> list[Any]:
        """What the tables of a run are made of: the newest record of each cell that was asked, and of those that it left out, for
        it chose some seeds, tasks, forms, lengths, dtypes or batches alone. So these stay in the tables."""
        newest = {record.cell.key: record for record in self._records()}.values()
        cells = [*plan.cells(self._widened(newest), self.suite), *self.cells]
        order = {key: i for i, key in enumerate(dict.fromkeys(map(plan.of_any_seed, cells)))}
        told = [(order[key], record) for record in newest if (key := plan.of_any_seed(record.cell)) in order]
        return [record for _, record in sorted(told, key=lambda one: one[0])]

    def _widened(self, stored: Collection[Any]) -> plan.Selection:
        """The selection without what narrows it, at every dtype, length and batch of these records."""
        chosen = self.selection
        narrowed = [word for word in chosen.seen if word in chosen.settings and not chosen.patterns(word)[:1].isdecimal()]
        settings = {**chosen.settings, **dict.fromkeys(narrowed, "*")}
        for word in {"batch", "length"} & settings.keys() if stored else ():
            settings[word] = ",".join(map(str, sorted({int(record.cell.settings[word]) for record in stored})))
        dtypes = ",".join({record.cell.dtype: None for record in stored}) or "*"
        return plan.Selection({**plan.WORDS, "dtype": dtypes}, settings)

    def _records(self) -> list[Any]:
        """What is stored of the suite on this machine, as it is now."""
        return list(self.store.read(self.name, machine.name()))

    def newest(self, records: Iterable[Any]) -> list[Any]:
        """The newest of these records of each cell, in the order of the cells."""
        newest = {record.cell.key: record for record in records}
        return [newest[cell.key] for cell in self.cells if cell.key in newest]

    def otherwise(self, records: Iterable[Any]) -> list[str]:
        """How these records of the implementations that are asked differ from what is asked: words with no value in common."""
        from harness.selections import facts_of_cell

        subjects = {cell.subject for cell in self.cells}
        told = []
        for cells in (self.cells, [record.cell for record in records if record.cell.subject in subjects]):
            rounds = 1 + max((cell.settings.get("round", 0) for cell in cells), default=0)
            words = {"rounds": {str(rounds)}} if cells and "rounds" in self.selection.settings else {}
            for cell in cells:
                for key, value in facts_of_cell(cell).items():
                    words.setdefault(key, set()).add(value)
            told.append(words)
        asked, there = told
        return [
            f"{key}={','.join(sorted(values))}"
            for key, values in there.items()
            if key != "round" and values.isdisjoint(asked.get(key, ()))
        ]

    def about(self, seconds: Mapping[Any, float]) -> str:
        """In words how long cells take together that take so many seconds each."""
        if not seconds:
            return ""
        together = sum(seconds.values()) / min(self.limits.workers, len(seconds))
        return f", about {together / 60:.0f} minutes" if together > 90 else f", about {together:.0f} seconds"

    def split(self) -> tuple[list[Any], list[Any], dict[Any, float]]:
        """The cells to be asked here, the records of those that are answered, and about how long each of the former takes."""
        if (threads := self.selection.settings.get("threads", 0)) > machine.cores():
            raise plan.WrongRequest(f"threads={threads}, but {machine.cores()} cores are seen here; threads=0 takes all of them")
        specs = {cell.spec for cell in self.cells}
        stored = [record for record in self._records() if record.cell.spec in specs]
        todo, answered = plan.unanswered(self.cells, self.suite, [] if self.selection.words["rerun"] else stored)
        return todo, answered, plan.seconds([cell for cell, _ in todo], self.suite, stored)


def limits_of(suite: Any, words: Any) -> Any:
    """What one cell may take, and how many workers there are: as the words say, else as the suite does."""
    from harness.runner import Limits

    own = suite.limits
    memory_bytes = min(float(words["memory"] or own["memory"]) * 2**30, LARGEST_MEMORY)
    workers = int(words["workers"] or own.get("workers", machine.cores()))
    return Limits(float(words["timeout"] or own["timeout"]), int(memory_bytes), workers)


def read(words: Iterable[str] | None, known: Iterable[str] = plan.WORDS) -> dict[str, str]:
    """`key=value` words as settings; a message lists the keys that are known to be understood."""
    settings: dict[str, str] = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise plan.WrongRequest(f"{word!r} is no setting; settings are written key=value.\n  known: {', '.join(known)}")
        if not value:
            raise plan.WrongRequest(f"{key}= is empty; leave it out, or say {key}=VALUE")
        if key in settings:
            raise plan.WrongRequest(f"{key} is given twice; a list has commas: {key}={settings[key]},{value}")
        settings[key] = value
    return settings


def folder(name: str) -> Path:
    """The folder of results, which must be one that can be written to."""
    place = Path(name)
    nearest = next(one for one in [place, *place.absolute().parents] if one.exists())
    if place.is_symlink() and not place.exists():
        raise plan.WrongRequest(f"results={name} is a link to nowhere.\n  Give another: results=FOLDER")
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise plan.WrongRequest(
            f"results={name}: {nearest} is not a folder that can be written to.\n  Give another: results=FOLDER"
        )
    return place


def machine_of(settings: dict[str, str]) -> str:
    """The machine whose records are meant, taken out of the settings; a pattern would mix those of several."""
    name = settings.pop("machine", machine.name())
    if not set(name).isdisjoint("*?[/"):
        raise plan.WrongRequest(
            f"machine={name} is not the name of one machine, and records of several are not mixed.\n"
            "  Leave it out for this one; two beside each other: harness compare machine=A machine=B suite=NAME"
        )
    return name
