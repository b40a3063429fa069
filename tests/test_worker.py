"""What an error of code under test means for its cell: an outcome with a sentence, whatever it is."""

import importlib.util
from pathlib import Path

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
        (
            ModuleNotFoundError("No module named 'flash_attn.ops'", name="flash_attn.ops"),
            "crashed",
            "raised ModuleNotFoundError: No module named 'flash_attn.ops' (a library? requires = (\"flash_attn\",) in the file",
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


def test_a_library_is_named_where_what_it_gave_is_under_test(tmp_path: Path):
    """The frames of a model of somebody's package, called by the harness: torch's own and the harness's say nothing."""
    package = tmp_path / "site-packages" / "published"
    package.mkdir(parents=True)
    (package / "model.py").write_text(
        "import torch\ndef forward():\n    return torch.nn.functional.linear(torch.ones(2), torch.ones(3))\n"
    )
    spec = importlib.util.spec_from_file_location("published", package / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    with pytest.raises(RuntimeError) as raised:
        model.forward()
    frames = raised.tb
    assert worker.answer_to(raised.value).note.endswith("in test_a_library_is_named_where_what_it_gave_is_under_test"), (
        "it is mine"
    )
    alone = raised.value.with_traceback(frames.tb_next)
    assert worker.answer_to(alone).note.endswith(", at published/model.py:3 in forward")
