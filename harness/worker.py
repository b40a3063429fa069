"""A worker answers cells, one in, one answer out; it is the only place where code under test is loaded.

It is a child process: its standard output and error go to a file, its memory is limited, it dies with its parent,
and whatever the code under test does ends as an outcome with a sentence.
"""

import ctypes
import json
import os
import re
import resource
import socket
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

from harness import Unsupported, catalogue, machine
from harness.cell import CRASHED, OUT_OF_MEMORY, UNSUPPORTED, WRONG, Answer, Cell, finite
from harness.contract import ContractError
from harness.implementation import Implementation
from harness.isolated import Said, Stand

Progress = Callable[[float, str], None]
PR_SET_CHILD_SUBREAPER = 36
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LIBRARIES = re.compile(r".*/(site|dist)-packages/")
LARGEST_FILE = 8 * 2**30
SECONDS_BETWEEN_REPORTS = 0.1
NOT_LOADED = {"loaded": False}  # values of an answer that is the same in every cell


def serve(line: socket.socket, output: str, memory_bytes: int, threads: int) -> None:
    """Answer cells, a line of JSON each, until the line closes."""
    _confine(output, memory_bytes, keep=line.fileno())
    torch.set_num_threads(threads)
    here, process = os.getcwd(), os.getpid()
    stand = Stand(answer_to, hidden=[line.fileno()])
    for question in line.makefile("rb"):
        cell = Cell(**json.loads(question))
        began = time.perf_counter()
        answer = asked(cell, _reporter(line), stand)
        if os.getpid() != process:
            os._exit(0)  # a child that the implementation forked and let come back: it has no say
        os.chdir(here)
        _send(line, {"answer": finite(asdict(answer)), "key": cell.key, "time_s": time.perf_counter() - began})


def asked(cell: Cell, progress: Progress = lambda fraction, doing: None, stand: Stand | None = None) -> Answer:
    """The answer to a cell; nothing that the implementation raises comes out of here.

    A suite that only judges says `isolated = True`: what it judges is then loaded in the other process, on the `stand`.
    """
    contestant: Any = None
    try:
        item = catalogue.find("suite", cell.suite)
        apart = stand if item.facts.get("isolated") else None
        contestant = apart.contestant(cell) if apart else Implementation.of(cell)
        return catalogue.load(item.path).measure(cell, contestant, progress)
    except BaseException as error:
        answer = answer_to(error)
        return answer if contestant or answer.outcome != CRASHED else replace(answer, values=NOT_LOADED)


def answer_to(error: BaseException) -> Answer:
    """What an error means for the cell in which it was raised."""
    if isinstance(error, Said):
        return error.answer
    if isinstance(error, Unsupported):
        return Answer(UNSUPPORTED, {}, _first_line(error))
    if isinstance(error, ContractError):
        return Answer(WRONG, {}, _text(error))
    if _ran_out_of_memory(error):
        return Answer(OUT_OF_MEMORY, {}, f"asked for more memory than allowed: {type(error).__name__} at {_place(error)}")
    return Answer(CRASHED, {}, f"{_described(error)}, at {_place(error)}")


def _confine(output: str, memory_bytes: int, keep: int) -> None:
    """Own session, dies with the parent, no descriptor but its own, output to a file, memory limited."""
    os.setsid()
    machine.end_with_parent()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what its children start stays in its family, for the runner to end
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # The lines to the fork server and to its tracker are everybody's: code under test must not find them.
    setattr(resource_tracker._resource_tracker, "_fd", None)  # noqa: B010 (the type does not know it)
    os.closerange(3, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    sys.stdin = os.fdopen(0, closefd=False)
    # Freed memory is kept for the next tensor: given back and asked for again, it costs as much as the arithmetic.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**30)
    # Private writable memory alone is limited (data), not addresses: torch maps far more than it uses.
    used = next(
        int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _send(line: socket.socket, message: dict[str, Any]) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


def _reporter(line: socket.socket) -> Progress:
    last = -1.0

    def report(fraction: float, doing: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_REPORTS:
            last = now
            _send(line, {"fraction": float(fraction), "doing": str(doing)})

    return report


def _ran_out_of_memory(error: BaseException) -> bool:
    text = _text(error)
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text or "not enough memory" in text
    )


def _described(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called exit({'' if error.code is None else error.code})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        library = error.name.partition(".")[0]
        error.add_note(f'a library? requires = ("{library}",) in the file makes it unsupported where that is not installed')
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"raised {type(error).__name__}: {_first_line(error)}{notes}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "with a message that cannot be printed"


def _first_line(error: BaseException) -> str:
    lines = _text(error).strip().splitlines() or ["without a message"]
    # TorchScript tells a traceback of its own, and what happened after it.
    line = lines[-1 if any(line.startswith("Traceback") for line in lines) else 0]
    line = line.removeprefix(f"{type(error).__name__}: ")
    return "".join(c if c.isprintable() else "?" for c in line[:300])


def _place(error: BaseException) -> str:
    """File, line and function in which it was raised: the innermost frame of the code under test, else of a library that is not
    torch, whose module may be what is under test, else of this project."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    python = sysconfig.get_path("stdlib")
    known = [f for f in frames if LIBRARIES.search(f.filename) or not f.filename.startswith((python, "<"))]
    outside = [f for f in known if not Path(f.filename).is_relative_to(catalogue.PACKAGE)]
    tested = [f for f in outside if not LIBRARIES.search(f.filename)]
    libraries = [f for f in outside if not LIBRARIES.sub("", f.filename).startswith("torch/")]
    frame = (tested or libraries or known or frames)[-1]
    within = LIBRARIES.sub("", frame.filename)
    return f"{within if within != frame.filename else Path(within).name}:{frame.lineno} in {frame.name}"
