"""Shows a run while it goes on: what runs, how much is done, how long is left; and keeps what was answered when interrupted."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness import report, runner
from harness.cell import OK, UNSUPPORTED, Cell, Record
from harness.store import Store

SECONDS_BEFORE_SHOWING = 1.0
SECONDS_BETWEEN_LINES = 15.0


def follow(
    todo: Sequence[tuple[Cell, dict[str, str]]],
    limits: runner.Limits,
    store: Store | None,
    seconds: Mapping[Cell, float],
    again: str = "harness again {key}",
) -> list[Record]:
    """Run cells, which take about so many seconds, and return their records.

    On an interruption it says what failed so far and what is kept, and exits with status 130."""
    if not todo:
        return []
    records: list[Record] = []
    meter = Meter({cell: seconds.get(cell, 1.0) for cell, _ in todo})
    try:
        with shown(meter) as show:
            for record in runner.run(todo, limits, store, show.update):
                records.append(record)
                meter.finished(record.cell, record.outcome not in (OK, UNSUPPORTED))
    except KeyboardInterrupt:
        kept = (
            f"{len(records)} of {len(todo)} answers are stored; the same command goes on from there"
            if store
            else "nothing is stored"
        )
        failed = report.failures(records, again)
        print("\n".join(filter(None, ["", failed, f"harness: interrupted; {kept}"])), file=sys.stderr)
        raise SystemExit(130) from None
    return records


def shown(meter: "Meter") -> "_Bar | _Lines":
    """The meter as it is shown here: as a bar on a terminal, else as a line now and then."""
    return _Bar(meter) if sys.stderr.isatty() else _Lines(meter)


class Meter:
    """How much of the work is done, in units of what each piece (a cell, a case, a run) costs: seconds, or in proportion."""

    def __init__(self, cost: Mapping[Any, float], unit: str = "cells"):
        self.unit = unit
        self.cost = dict(cost)
        self.total = sum(self.cost.values())
        self.done = 0.0
        self.pieces_done = self.failed = 0
        self.running: Mapping[Any, tuple[float, str]] = {}
        self.began = time.monotonic()

    def finished(self, piece: Any, failed: bool = False) -> None:
        self.failed += failed
        self.done += self.cost[piece]
        self.pieces_done += 1
        self.running = {other: at for other, at in self.running.items() if other != piece}

    @property
    def count(self) -> str:
        """`12/99 cells, 3 failed`."""
        return f"{self.pieces_done}/{len(self.cost)} {self.unit}" + (f", {self.failed} failed" if self.failed else "")

    @property
    def fraction(self) -> float:
        begun = ((piece, fraction) for piece, (fraction, _) in self.running.items() if piece in self.cost)
        under_way = sum(self.cost[piece] * min(1.0, fraction) for piece, fraction in begun)
        return min(1.0, (self.done + under_way) / self.total)

    @property
    def left_s(self) -> float | None:
        """Seconds left at the pace so far; unknown at the very beginning."""
        return (time.monotonic() - self.began) * (1 - self.fraction) / self.fraction if self.fraction > 0.01 else None

    @property
    def doing(self) -> str:
        return "; ".join(
            f"{piece.subject} {piece.case} {doing}".strip().replace("  ", " ") for piece, (_, doing) in self.running.items()
        )

    @property
    def left(self) -> str:
        return "estimating" if self.left_s is None else f"{_minutes(self.left_s)} left"


class _Bar:
    """A bar on a terminal."""

    def __init__(self, meter: Meter):
        self.meter = meter
        columns = (
            BarColumn(30),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}  {task.description}"),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("starting", total=1.0, count="", left="")

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, running: Mapping[Any, tuple[float, str]]) -> None:
        meter = self.meter
        meter.running = running
        self.progress.update(self.task, completed=meter.fraction, description=meter.doing, count=meter.count, left=meter.left)


class _Lines:
    """A line now and then, where there is no terminal."""

    def __init__(self, meter: Meter):
        self.meter = meter
        self.last = time.monotonic() + SECONDS_BEFORE_SHOWING - SECONDS_BETWEEN_LINES

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr.flush()

    def update(self, running: Mapping[Any, tuple[float, str]]) -> None:
        meter = self.meter
        meter.running = running
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            print(f"{meter.fraction:4.0%}  {meter.count}  {meter.left}  {meter.doing}", file=sys.stderr, flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
