"""What an error of code under test means for its cell: an outcome with a sentence, whatever it is."""

import pytest
import torch

from harness import Unsupported, worker
from harness.contract import ContractError


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "outcome", "note"),
    [
        (Unsupported("no window"), "unsupported", "no window"),
        (Unsupported("\n"), "unsupported", "without a message"),
        (ContractError("returned 2 outputs\nnot 1"), "wrong", "returned 2 outputs\nnot 1"),
        (MemoryError(), "out_of_memory", "asked for more memory than allowed: MemoryError at "),
        (torch.OutOfMemoryError(), "out_of_memory", "asked for more memory than allowed: OutOfMemoryError at "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "asked for more memory than allowed: "),
        (RuntimeError("b\x07d\nmore"), "crashed", "raised RuntimeError: b?d, at "),
        (
            RuntimeError("It failed.\nTraceback of TorchScript:\n  x\nRuntimeError: bad shape"),
            "crashed",
            "raised RuntimeError: bad shape, at ",
        ),
        (SystemExit(3), "crashed", "called exit(3), at "),
        (Mute(), "crashed", "raised Mute: with a message that cannot be printed, at "),
        (KeyboardInterrupt(), "crashed", "raised KeyboardInterrupt: without a message, at "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_an_outcome_with_a_sentence(error: BaseException, outcome: str, note: str):
    try:
        raise error
    except BaseException as raised:
        answer = worker.answer_to(raised)
    assert answer.outcome == outcome
    assert answer.note.startswith(note)
    assert " at " not in note or answer.note.endswith("in test_every_error_is_an_outcome_with_a_sentence")
