"""The runner hands cells to workers, keeps time and memory, kills what outstays, and stores each answer as a record.

It never loads code under test. Cells of one implementation share a worker; a worker that fails is replaced.
"""

import atexit
import json
import multiprocessing
import os
import secrets
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from harness import catalogue, machine
from harness.cell import CRASHED, OK, OUT_OF_MEMORY, TIMED_OUT, UNSUPPORTED, WRONG, Answer, Cell, Record, finite
from harness.store import Store

# Cells that share a worker: few enough to be shared out evenly (so many shares for each worker), many enough that starting one,
# a second or two, is not what takes the time.
SHARES, LEAST_CELLS, MOST_CELLS = 4, 64, 512
LONGEST_MESSAGE = 2**24
SECONDS_BETWEEN_LOOKS = 0.2
SPARE_BYTES = 2**30  # where less is left on the machine, the system would soon end somebody, perhaps this process
_NAMES = {int(each): each.name for each in signal.Signals}  # most real-time signals have none


@dataclass(frozen=True)
class Limits:
    """What one cell may take, and how many workers there are."""

    time_s: float = 60.0
    memory_bytes: int = 8 * 2**30
    workers: int = field(default_factory=machine.cores)

    @property
    def threads(self) -> int:
        """Of each worker: its share of the cores. OMP_NUM_THREADS, where somebody set it, bounds it as it does elsewhere."""
        share, told = max(1, machine.cores() // self.workers), os.environ.get("OMP_NUM_THREADS", "")
        return min(share, int(told)) if told.isdecimal() and int(told) else share


Watch = Callable[[dict[Cell, tuple[float, str]]], None]  # of each cell that runs: the fraction done, and what it does


def run(
    cells: Sequence[tuple[Cell, dict[str, str]]], limits: Limits, store: Store | None, watch: Watch = lambda running: None
) -> Iterator[Record]:
    """Answer cells (each with the digests of its code) in any order; each record is stored before it is yielded."""
    run_id = secrets.token_hex(4)
    waiting = deque(_batches(cells, limits.workers))
    workers = [Worker(limits) for _ in range(min(limits.workers, len(waiting)))]
    try:
        while waiting or any(worker.busy for worker in workers):
            for worker in workers:
                if not worker.busy and waiting:
                    worker.begin(waiting.popleft())
            busy = [worker for worker in workers if worker.busy]
            wait([worker.line for worker in busy], timeout=SECONDS_BETWEEN_LOOKS)
            if psutil.virtual_memory().available < SPARE_BYTES:
                largest = max(busy, key=Worker.resident_bytes)
                largest.crowds = largest.resident_bytes() > SPARE_BYTES
            for worker in busy:
                for cell, digests, answer, time_s in worker.look():
                    record = _record(cell, digests, answer, time_s, run_id)
                    if store:
                        store.append(record)
                    yield record
            watch({worker.cell: worker.progress for worker in workers if worker.busy})
    finally:
        for worker in workers:
            worker.stop()


def start_early() -> None:
    """Let the process that workers are forked from begin with its imports, which take seconds, while this one plans."""
    # A file in the current folder must not stand in for a module of the same name.
    os.environ["PYTHONSAFEPATH"] = "1"
    # What nearly every cell imports, torch's gradients among them; not triton, which is told on import whether to interpret.
    forkserver.set_forkserver_preload(["__main__", "harness.worker", "torch.fx.experimental.symbolic_shapes"])
    forkserver.ensure_running()
    atexit.unregister(_end_server)
    atexit.register(_end_server)


def _end_server() -> None:
    """What still imports when this process ends, for its request was wrong, would write into folders that are being removed."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid:
        os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()


def _batches(cells: Sequence[tuple[Cell, dict[str, str]]], workers: int) -> list[list[tuple[Cell, dict[str, str]]]]:
    """Runs of cells of one implementation, variant and round, short enough to be shared out evenly."""
    batches, size = [], min(max(len(cells) // (SHARES * workers), LEAST_CELLS), MOST_CELLS)
    for _, group in groupby(cells, key=lambda pair: (pair[0].suite, pair[0].subject, pair[0].settings.get("round"))):
        mates = list(group)
        batches += [mates[i : i + size] for i in range(0, len(mates), size)]
    return batches


class Worker:
    """A child process and the batch of cells that it is to answer."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.batch: deque[tuple[Cell, dict[str, str]]] = deque()
        self.process: Any = None
        self.line: Any = None
        self.received = b""
        self.progress = (0.0, "")
        self.output = ""
        self.watched: psutil.Process | None = None
        self.asked_at = self.looked_at = 0.0
        self.crowds = False  # the machine is full, and this worker has most of it

    @property
    def busy(self) -> bool:
        return bool(self.batch)

    @property
    def cell(self) -> Cell:
        return self.batch[0][0]

    def begin(self, batch: Sequence[tuple[Cell, dict[str, str]]]) -> None:
        """Start on a batch in a new process, so that no implementation sees what another left behind."""
        self.stop()
        self.batch = deque(batch)
        self._start()
        self._ask()

    def look(self) -> Iterator[tuple[Cell, dict[str, str], Answer, float]]:
        """Answers that have come in since the last look, those of cells that had to be ended included."""
        while self.busy:
            answered = self._received() or self._over_limits()
            if answered is None:
                return
            cell, digests = self.batch.popleft()
            answer, time_s = answered
            answers = [(cell, digests, answer, time_s)]
            if answer.values.get("loaded") is False:  # nor will it be for the next cell
                answers += [(cell, digests, answer, 0.0) for cell, digests in self.batch]
                self.batch.clear()
            if answer.outcome not in (OK, WRONG, UNSUPPORTED):
                self.stop()  # what failed once may have left anything behind
                if self.busy:
                    self._start()
            if self.busy:
                self._ask()
            yield from answers

    def stop(self) -> None:
        """End the process and all that it started."""
        if self.process is None:
            return
        self.line.close()
        if self.process.pid is not None:
            self._kill()
            self.process.join()
        Path(self.output).unlink(missing_ok=True)
        self.process = None

    def _kill(self) -> None:
        """End the process, its session, and children that left the session."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()  # it had not yet become the leader of its own session
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def _start(self) -> None:
        start_early()
        handle, self.output = tempfile.mkstemp(prefix="harness-", suffix=".log")
        os.close(handle)
        self.line, theirs = socket.socketpair()
        self.line.setblocking(False)
        self.received = b""
        self.process = multiprocessing.get_context("forkserver").Process(
            target=_serve,
            args=(theirs, self.output, self.limits.memory_bytes, self.limits.threads),
        )
        self.process.start()
        theirs.close()
        self.watched = None

    def _ask(self) -> None:
        self.progress, self.crowds = (0.0, ""), False
        self.asked_at = time.monotonic()
        try:
            self.line.sendall(json.dumps(finite(asdict(self.cell))).encode() + b"\n")
        except OSError:
            return  # it has ended already; the next look says how

    def _received(self) -> tuple[Answer, float] | None:
        """The answer, if it is there; progress on the way is taken note of. Never waits: the other side may say anything."""
        try:
            while read := self.line.recv(LONGEST_MESSAGE):
                self.received += read
                *messages, self.received = self.received.split(b"\n")
                for message in map(json.loads, messages):
                    if "answer" in message:
                        if message["key"] != self.cell.key:
                            raise ValueError
                        return Answer(**message["answer"]), float(message["time_s"])
                    self.progress = (float(message["fraction"]), str(message["doing"]))
                if len(self.received) > LONGEST_MESSAGE:
                    raise ValueError
        except BlockingIOError:
            return None
        except (ValueError, KeyError, TypeError):
            note = "the worker sent what is no answer: something wrote over its line to the runner"
            return Answer(CRASHED, {}, note), self._elapsed()
        except ConnectionResetError:
            self.received = b""  # a reset line is a closed one
        self.process.join(timeout=5)
        return Answer(CRASHED, {}, _how_it_ended(self.process.exitcode) + self._last_words()), self._elapsed()

    def _over_limits(self) -> tuple[Answer, float] | None:
        """The answer of a cell that takes too long or too much; the process is ended by the caller."""
        if self._elapsed() > self.limits.time_s:
            at = f", at: {self.progress[1]}" if self.progress[1] else ""
            note = f"no answer within {self.limits.time_s:g} s{at} (timeout=SECONDS says another time)"
            return Answer(TIMED_OUT, {}, note), self._elapsed()
        if self.crowds:
            took = f"took {self.resident_bytes() / 2**30:.1f} GiB, and the machine had too little left for all that ran"
            return Answer(OUT_OF_MEMORY, {}, f"{took}; alone it may pass: workers=1"), self._elapsed()
        if time.monotonic() - self.looked_at > SECONDS_BETWEEN_LOOKS:
            self.looked_at = time.monotonic()
            if self.resident_bytes() > self.limits.memory_bytes + 2**30:
                note = f"took more than {self.limits.memory_bytes / 2**30:g} GiB of memory"
                return Answer(OUT_OF_MEMORY, {}, note), self._elapsed()
        return None

    def _elapsed(self) -> float:
        return time.monotonic() - self.asked_at

    def resident_bytes(self) -> int:
        """Memory of the worker and of what it started; none where it is not at work, or gone by now."""
        if self.process is None:
            return 0
        try:
            self.watched = self.watched or psutil.Process(self.process.pid)
            return sum(process.memory_info().rss for process in [self.watched, *self.watched.children(recursive=True)])
        except psutil.NoSuchProcess:
            return 0

    def _last_words(self) -> str:
        with open(self.output, "rb") as file:
            file.seek(max(0, Path(self.output).stat().st_size - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return f"; its last words: {lines[-1][:200]}" if lines else ""


def _how_it_ended(exitcode: int | None) -> str:
    """How a worker came to its end that did not answer."""
    if exitcode is None:
        return "the worker closed its connection"
    if exitcode < 0:
        name = _NAMES.get(-exitcode, f"signal {-exitcode}")
        return f"the worker was killed by {name}" + (" (perhaps by the system, for want of memory)" if name == "SIGKILL" else "")
    return f"the worker exited with status {exitcode} and without an answer"


def _serve(*args: Any) -> None:
    from harness.worker import serve

    serve(*args)


def _record(cell: Cell, digests: dict[str, str], answer: Answer, time_s: float, run_id: str) -> Record:
    return Record(
        cell=cell,
        **vars(answer),
        digests=digests,
        machine=machine.name(),
        versions=machine.versions(),
        time_s=round(time_s, 4),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        run=run_id,
        commit=catalogue.commit(),
    )
