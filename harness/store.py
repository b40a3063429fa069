"""The store: records as lines of JSON, appended and kept for ever, under results/records/<machine>/<suite>.jsonl.

A line is written whole and under a lock, so that runs may share a file, and a run that is killed leaves at most one
unfinished line, which the reader passes over and the next writer closes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from harness.cell import Record


@dataclass(frozen=True)
class Store:
    """Records under a folder."""

    root: Path

    def path(self, machine: str, suite: str) -> Path:
        return self.root / "records" / machine / f"{suite}.jsonl"

    def append(self, record: Record) -> None:
        """Write a record at the end of its file."""
        path = self.path(record.machine, record.cell.suite)
        path.parent.mkdir(parents=True, exist_ok=True)
        line = record.to_json().encode() + b"\n"
        with FileLock(path.with_suffix(".lock")), path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file.fileno(), file.tell()):
                line = b"\n" + line
            file.write(line)

    def read(self, suite: str | None = None, machine: str | None = None) -> Iterator[Record]:
        """Records in the order in which they were written, file by file."""
        return filter(None, self.lines(suite, machine))

    def lines(self, suite: str | None = None, machine: str | None = None) -> Iterator[Record | None]:
        """The same, and None for each line that is no record: unfinished ones of runs that were killed, and damaged ones."""
        for path in sorted(self.root.glob(f"records/{machine or '*'}/{suite or '*'}.jsonl")):
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from (_record(line) for line in lines if line.strip())


def _record(line: str) -> Record | None:
    try:
        return Record.from_json(line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _ends_with_newline(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"
