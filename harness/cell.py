"""A cell is one unit of work, a record is its answer; both are plain data, JSON in and out."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

OK, WRONG, UNSUPPORTED = "ok", "wrong", "unsupported"
OUT_OF_MEMORY, TIMED_OUT, CRASHED = "out_of_memory", "timed_out", "crashed"
OUTCOMES = (OK, WRONG, UNSUPPORTED, OUT_OF_MEMORY, TIMED_OUT, CRASHED)


@dataclass(frozen=True)
class Cell:
    """What is asked: of which implementation, in which case, on which device, with which seed and settings."""

    suite: str
    spec: str
    implementation: str
    variant: str = ""
    case: str = ""
    dtype: str = ""
    device: str = "cpu"
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Ten hexadecimal digits that stand for this cell in messages and in `harness again`."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return hashlib.sha256(_json(told).encode()).hexdigest()[:10]

    @property
    def subject(self) -> str:
        """Who is asked, as messages and tables name it; a file keeps its ending, so that no name of the registry is like it."""
        name = self.implementation.rpartition("/")[2] if self.implementation.endswith(".py") else self.implementation
        return f"{self.spec}/{name}" + (f":{self.variant}" if self.variant else "")

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Answer:
    """What a suite says of a cell: an outcome, the values measured, and a sentence where it is not plainly ok."""

    outcome: str
    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"no outcome {self.outcome!r}; known: {', '.join(OUTCOMES)}")


@dataclass(frozen=True)
class Record:
    """The answer to a cell, with the digests of the code that was asked, the machine and the versions."""

    cell: Cell
    outcome: str
    values: Mapping[str, Any]
    note: str
    digests: Mapping[str, str]
    machine: str
    versions: Mapping[str, str]
    time_s: float
    at: str
    run: str
    commit: str = ""  # of the checkout that asked; lines of before 2026-11-21 have none, as has an installed harness

    @property
    def identity(self) -> str:
        """Equal for two records that answer the same question to the same code on the same machine."""
        return identity(self.cell, self.digests, self.machine, self.versions)

    @property
    def in_brief(self) -> str:
        """The outcome, and the first line of the note where there is one: `out of memory: 9 GiB are not enough`."""
        first = self.note.strip().partition("\n")[0].strip()
        return ": ".join(filter(None, [self.outcome.replace("_", " "), first]))

    @property
    def libraries(self) -> str:
        """The versions as tables name them: `harness 0.1.0, python 3.11.7, torch 2.13.0`."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())

    def to_json(self) -> str:
        return _json({"key": self.cell.key, **asdict(self)})

    @classmethod
    def from_json(cls, line: str) -> "Record":
        fields = json.loads(line)
        del fields["key"]
        record = cls(**{**fields, "cell": Cell(**fields["cell"])})
        cell, plain = record.cell, [record.values, record.digests, record.versions, record.cell.settings]
        texts = [record.note, record.at, record.machine, record.commit, record.run, cell.suite, cell.spec, cell.implementation]
        texts += [cell.variant, cell.case, cell.dtype, cell.device]
        if (
            not all(isinstance(one, dict) for one in plain)
            or not all(isinstance(one, str) for one in [*texts, *record.digests.values(), *record.versions.values()])
            or record.outcome not in OUTCOMES
            or not isinstance(cell.seed, int)
            or not isinstance(record.time_s, int | float)
        ):
            raise ValueError("a line that is no record")
        return record


def identity(cell: Cell, digests: Mapping[str, str], machine: str, versions: Mapping[str, str]) -> str:
    """What decides whether a stored record still answers a cell."""
    return hashlib.sha256(_json([cell.key, dict(digests), machine, dict(versions)]).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they are stored as the words `inf`, `-inf` and `nan`, which float() reads."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
