"""An implementation in a process of its own, so that the judge shares no memory, no clock and no library with what it judges.

The judge's side is `Isolated`, which is asked as an `Implementation` is; the other side is `serve`. Between them go lines
of JSON and the bytes of tensors, never pickles: what the code under test sends is data, whatever it sends.
"""

# The three processes that answer a cell of a suite that says `isolated = True`:
#
#   runner.run             worker.serve                         isolated.serve
#   hands out cells   -->  the judge: draws the inputs,    -->  the stand: loads the file under test and calls it,
#   keeps the limits       knows the truth, keeps the clock     by Implementation.ways, .answered and .costed
#   stores records    <--  the Answer                      <--  numbers and tensors
#
# `Isolated` has these three methods too, so a suite asks either. Suites that train load the file in the worker itself.

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import BufferedRWPair
from typing import Any, NoReturn

import torch
from torch import Tensor

from harness import catalogue
from harness.cell import CRASHED, OK, Answer, Cell, finite
from harness.cost import Question
from harness.implementation import Implementation, claims
from harness.spec import Bunch, Case, Spec, dtype_name

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KINDS = {dtype_name(kind): kind for kind in (*FLOATS, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)}
LONGEST_LINE = 2**20
LARGEST_ANSWER = 2**32


class Said(Exception):
    """The answer to the cell, told by the other process in place of what it was asked for."""

    def __init__(self, answer: Answer):
        super().__init__(answer.note)
        self.answer = answer


class Stand:
    """The process in which implementations stand: forked before anything of theirs is loaded, ends with this one."""

    def __init__(self, answer_to: Callable[[BaseException], Answer], hidden: Sequence[int] = ()):
        ours, theirs = socket.socketpair()
        self.process = os.fork()
        if not self.process:
            ours.close()
            for descriptor in hidden:
                os.close(descriptor)
            serve(theirs, answer_to)
            os._exit(0)
        theirs.close()
        self.line, self.stream = ours, ours.makefile("rwb")
        self.alive = os.pidfd_open(self.process)
        self.heard = 0.0  # when the last answer began to come, by time.perf_counter

    def contestant(self, cell: Cell) -> "Isolated":
        """The implementation that a cell names, loaded over there."""
        claimed = claims(cell)
        self.ask({"do": "load", "cell": asdict(cell)})
        return Isolated(self, catalogue.load_spec(cell.spec), **claimed)

    def ask(self, question: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Any], Bunch]:
        """Send a question, wait for the answer; `Said` where it is none, and an end like theirs where they ended."""
        try:
            _send(self.stream, question, tensors or {})
        except OSError:
            self._end_alike()
        waiting: list[Any] = [self.line, self.alive]
        try:
            if self.line not in select.select(waiting, [], [])[0]:
                raise EOFError  # a child of theirs may hold the line open
            self.heard = time.perf_counter()
            header, answer = _receive(self.stream)
        except (EOFError, ConnectionResetError):
            self._end_alike()
        except (ValueError, KeyError, TypeError, RuntimeError):
            raise Said(
                Answer(CRASHED, {}, "the worker sent what is no answer: something wrote over the line to its judge")
            ) from None
        if "outcome" in header:
            told = Answer(str(header["outcome"]), {}, str(header["note"]))
            raise Said(told if told.outcome != OK else Answer(CRASHED, {}, "the worker sent what is no answer"))
        return header, answer

    def _end_alike(self) -> NoReturn:
        """What ends the one process ends the other, in the same way: the runner says how it was."""
        if not select.select([self.alive], [], [], 5)[0]:
            raise Said(Answer(CRASHED, {}, "the worker closed the line to its judge"))
        _, status = os.waitpid(self.process, 0)
        if os.WIFSIGNALED(status):
            with suppress(OSError):  # SIGKILL takes no handler
                signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))


class Isolated:
    """An implementation over there; asked by name, case and tensors, it answers with tensors."""

    def __init__(self, stand: Stand, spec: Spec, gradients: bool, deterministic: bool):
        self.spec, self.gradients, self.deterministic = spec, gradients, deterministic
        self._stand = stand

    @property
    def heard(self) -> float:
        """When its last answer began to come, by time.perf_counter of the judge: a large one is long on its way."""
        return self._stand.heard

    def ways(self, case: Case, family: str, seed: int, form: str) -> tuple[dict[str, Bunch], str]:
        """See `asking.ways`."""
        words = {"do": "ways", "case": _told(case), "family": family, "seed": seed, "form": form}
        header, tensors = self._stand.ask(words)
        got: dict[str, Bunch] = {}
        for name, tensor in tensors.items():
            way, _, quantity = name.partition("|")
            got.setdefault(way, Bunch())[quantity] = tensor
        return got, str(header["refused"])

    def answered(self, x: Bunch, case: Case, wrt: list[str]) -> Bunch:
        """See `asking.answered`."""
        return self._stand.ask({"do": "answered", "case": _told(case), "wrt": wrt}, x)[1]

    def costed(self, kind: str, question: Question, dice: int = 0) -> tuple[dict[str, Any], Bunch]:
        """See `cost.costed`."""
        words = {**vars(question), "case": _told(question.case)}
        return self._stand.ask({"do": "costed", "kind": kind, "question": words, "dice": dice})


def serve(line: socket.socket, answer_to: Callable[[BaseException], Answer]) -> None:
    """Answer the judge until the line closes."""
    stream, here, process = line.makefile("rwb"), os.getcwd(), os.getpid()
    contestant: Any = None
    while True:
        try:
            question, tensors = _receive(stream)
        except EOFError:
            return
        header: dict[str, Any] = {}
        answer: Mapping[str, Tensor] = {}
        try:
            match question["do"]:
                case "load":
                    contestant = Implementation.of(Cell(**question["cell"]))
                case "ways":
                    words = (question["family"], question["seed"], question["form"])
                    got, header["refused"] = contestant.ways(_case(question["case"]), *words)
                    answer = {f"{way}|{name}": tensor for way, of in got.items() for name, tensor in of.items()}
                case "costed":
                    asked = Question(**{**question["question"], "case": _case(question["question"]["case"])})
                    header, answer = contestant.costed(question["kind"], asked, question["dice"])
                case "answered":
                    answer = contestant.answered(tensors, _case(question["case"]), question["wrt"])
        except BaseException as error:
            told = answer_to(error)
            header, answer = {"outcome": told.outcome, "note": told.note}, {}
        if os.getpid() != process:
            os._exit(0)  # a child that the implementation forked and let come back: it has no say
        os.chdir(here)
        _send(stream, header, answer)


def _send(stream: BufferedRWPair, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    rows = [(name, dtype_name(t.dtype), list(t.shape)) for name, t in tensors.items()]
    stream.write(json.dumps({**finite(header), "tensors": rows}).encode() + b"\n")
    for tensor in tensors.values():
        stream.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    stream.flush()


def _receive(stream: BufferedRWPair) -> tuple[dict[str, Any], Bunch]:
    """A header and its tensors; EOFError where the line closed, ValueError and the like where it is nonsense."""
    line = stream.readline(LONGEST_LINE)
    if not line:
        raise EOFError
    header = json.loads(line)
    tensors = Bunch()
    for name, kind, shape in header.pop("tensors"):
        empty = torch.empty(0, dtype=KINDS[kind])
        count = torch.Size(shape).numel() * empty.element_size()
        if not 0 <= count < LARGEST_ANSWER:
            raise ValueError("too large to be an answer")
        content = bytearray(stream.read(count))
        if len(content) < count:
            raise EOFError
        flat = torch.frombuffer(content, dtype=torch.uint8).view(KINDS[kind]) if count else empty
        tensors[str(name)] = flat.reshape(shape)
    return header, tensors


def _told(case: Case) -> dict[str, Any]:
    return {"name": case.name, "values": dict(case.values), "dtype": dtype_name(case.dtype), "device": case.device}


def _case(told: dict[str, Any]) -> Case:
    return Case(told["name"], told["values"], KINDS[told["dtype"]], told["device"])
