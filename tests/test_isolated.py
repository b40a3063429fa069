"""What goes over the line between the judge and the implementation comes back as it was, and nonsense is an outcome."""

import os
import socket
import time
from pathlib import Path

import pytest
import torch

from harness import catalogue, isolated
from harness.cell import Cell
from harness.implementation import Implementation
from harness.spec import Bunch
from harness.worker import answer_to

HONEST = str(Path(__file__).parent / "saboteurs" / "raises.py")


def cell(variant: str = "lookalike", path: str = HONEST) -> Cell:
    return Cell("correctness", "rotary", path, variant, "plain", "float32", settings={"family": "normal"})


@pytest.fixture
def stand():
    made = isolated.Stand(answer_to)
    yield made
    made.line.close()
    made.stream.close()
    os.waitpid(made.process, 0)
    os.close(made.alive)


@pytest.mark.parametrize("kind", isolated.KINDS.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (2, 0, 3), (2, 3, 5)])
def test_tensors_come_back_as_they_were(kind: torch.dtype, shape: tuple[int, ...]):
    one, other = (end.makefile("rwb") for end in socket.socketpair())
    sent = (torch.randn(shape) * 100).to(kind)
    isolated._send(one, {"score": float("inf")}, {"strided|out.grad": sent.transpose(0, -1) if sent.dim() > 1 else sent})
    header, got = isolated._receive(other)
    expected = sent.transpose(0, -1) if sent.dim() > 1 else sent
    assert header == {"score": "inf"}
    assert torch.equal(got["strided|out.grad"], expected)
    assert got["strided|out.grad"].dtype == kind


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b"[]\n", b'{"tensors": [["x", "float32", [-1]]]}\n', b'{"tensors": [["x", "object", [1]]]}\n', b"{}\n"],
)
def test_nonsense_is_an_error_that_the_judge_expects(line: bytes):
    one, other = (end.makefile("rwb") for end in socket.socketpair())
    one.write(line)
    one.flush()
    one.close()
    with pytest.raises((ValueError, KeyError, TypeError, RuntimeError, EOFError)):
        isolated._receive(other)


def test_both_sides_give_the_same_answers(stand: isolated.Stand):
    there, here = stand.contestant(cell()), Implementation.of(cell())
    case = here.spec.case("plain")
    for ours, theirs in zip(here.ways(case, "normal", 0, "whole"), there.ways(case, "normal", 0, "whole"), strict=True):
        assert isinstance(ours, str) or set(ours) == set(theirs)
    x = here.spec.inputs(case)
    assert torch.equal(there.answered(x, case, []).out, here.answered(x, case, []).out)


def test_it_is_heard_when_its_answer_begins_to_come_however_long_that_is(stand: isolated.Stand, monkeypatch: pytest.MonkeyPatch):
    """What passes on the way is no time of its own: large answers made honest clocks fall behind the judge's."""
    contestant, genuine = stand.contestant(cell()), isolated._receive
    monkeypatch.setattr(isolated, "_receive", lambda stream: (time.sleep(0.3), genuine(stream))[1])
    case = contestant.spec.case("plain", torch.float32)
    contestant.answered(contestant.spec.inputs(case, "normal", 0, cotangents=False), case, [])
    assert time.perf_counter() - contestant.heard >= 0.3


def test_what_it_raises_over_there_is_told_here(stand: isolated.Stand):
    contestant = stand.contestant(cell("sabotage"))
    with pytest.raises(isolated.Said) as told:
        contestant.ways(contestant.spec.case("plain"), "normal", 0, "whole")
    assert told.value.answer.outcome == "crashed"
    assert "raised" in told.value.answer.note


def test_nothing_of_it_is_loaded_here(stand: isolated.Stand, tmp_path: Path):
    file = tmp_path / "leaves_a_trace.py"
    file.write_text("import os\nos.environ['A_TRACE'] = '1'\ndef prepare(case):\n    return lambda x, position: x.clone()\n")
    stand.contestant(cell("", str(file)))
    assert "A_TRACE" not in os.environ


def test_an_answer_of_another_shape_is_refused():
    from harness import judge
    from harness.contract import ContractError

    class Liar:
        spec, gradients, deterministic = catalogue.load_spec("rotary"), False, False

        def ways(self, case, family, seed, form):
            return {"": Bunch(out=torch.zeros(1))}, ""

    with pytest.raises(ContractError, match="came back as"):
        judge.values(Liar(), Liar.spec.case("plain"), "normal")
