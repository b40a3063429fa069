"""What an implementation returns is looked at before its values are, and its facts say what it is not asked."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import Unsupported, catalogue
from harness.cell import Cell
from harness.contract import ContractError
from harness.implementation import Implementation, _same_names, claims

RETENTION = catalogue.load_spec("retention")
CASE = RETENTION.case("plain", torch.float32)
RIGHT = {tensor.name: torch.zeros(tensor.shape(CASE.values)) for tensor in RETENTION.contract.outputs}
OUT, STATE = RIGHT.values()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OUT, "returned 1 outputs; the contract has 2"),
        ({"out": OUT, "last": STATE}, "returned outputs named out, last; the contract names out, state"),
        ((OUT, STATE.mT), "but should have"),
        ((OUT, STATE.double()), "is float64, but should be float32"),
        ((OUT, STATE.to_sparse()), "but should be a strided tensor on cpu"),
        ((OUT, torch.nn.Parameter(STATE)), "Parameter, not a torch.Tensor"),
        ((OUT, None), "is a builtins.NoneType, not a torch.Tensor"),
    ],
    ids=["one", "names", "shape", "dtype", "layout", "class", "nothing"],
)
def test_what_the_contract_does_not_say_is_refused(answer: Any, said: str):
    contestant = Implementation(RETENTION, lambda case: None, {}, gradients=False)
    assert list(contestant.named((OUT, STATE), CASE)) == ["out", "state"]
    assert contestant.named({"state": STATE, "out": OUT}, CASE).out is OUT, "by name, in any order"
    with pytest.raises(ContractError, match=said):
        contestant.named(answer, CASE)


def test_what_writes_into_an_input_is_refused_though_it_puts_back_what_was_there():
    def run(q, *rest):
        q.mul_(2).div_(2)
        return OUT, STATE

    contestant = Implementation(RETENTION, lambda case: run, {}, gradients=False)
    x = RETENTION.inputs(CASE)
    with pytest.raises(ContractError, match="it writes into its input q"):
        contestant.outputs(x, CASE)


def test_a_function_of_other_inputs_is_told_what_it_is_called_with():
    x = RETENTION.inputs(CASE)
    with pytest.raises(TypeError) as told:
        Implementation(RETENTION, lambda case: torch.nn.Identity(), {}, gradients=False).outputs(x, CASE)
    assert told.value.__notes__ == ["it is called with q, k, v, past, decay, as the contract has them"]
    with pytest.raises(ContractError, match="returned a NoneType, but should return a function of q, k, v, past, decay"):
        Implementation(RETENTION, lambda case: None, {}, gradients=False).outputs(x, CASE)


@pytest.mark.parametrize(
    ("got", "said"),
    [
        ({"a": (2,)}, "absent: b; unknown: none"),
        ({"a": (2,), "b": (3,), "c": (1,)}, "absent: none; unknown: c"),
        ({"a": (2,), "b": (3, 1)}, r"parameter b has shape \[3, 1\], but should have \[3\]"),
        ({"_orig_mod.a": (2,), "_orig_mod.b": (3,)}, r"compile it in place: model.compile\(\)"),
    ],
    ids=["absent", "unknown", "shape", "compiled"],
)
def test_parameters_are_those_of_the_reference(got: dict[str, Any], said: str):
    _same_names({"b": (3,), "a": (2,)}, {"a": (2,), "b": (3,)})
    with pytest.raises(ContractError, match=said):
        _same_names(got, {"a": (2,), "b": (3,)})


def test_tied_parameters_are_not_said_to_be_absent():
    spec = catalogue.load_spec("transformer_learned")
    model = catalogue.load(catalogue.implementation("transformer_learned", "torch_sdpa").path)

    def tied(case):
        made = model.prepare(case)
        made.head.weight = made.embedding.weight
        return made

    case = spec.case("one_token")
    with pytest.raises(ContractError, match="is tied to embedding"):
        Implementation(spec, tied, {}, gradients=False).outputs(spec.inputs(case), case)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"device": "cuda"}, "runs on cpu, not on cuda"),
        ({"dtype": "float16"}, "takes float32, not float16"),
        ({}, "needs no_library_of_this_name, which is not installed"),
    ],
    ids=["device", "dtype", "library"],
)
def test_what_the_facts_exclude_is_unsupported(cell: dict[str, str], said: str, tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text('devices = ("cpu",)\ndtypes = ("float32",)\nrequires = ("torch", "no_library_of_this_name")\n')
    with pytest.raises(Unsupported, match=said):
        claims(Cell("correctness", "rotary", str(path), **cell))


def test_gradients_may_be_claimed_on_one_device_alone(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text('gradients = ("cuda",)\n')
    told = {device: claims(Cell("correctness", "rotary", str(path), device=device)) for device in ("cpu", "cuda")}
    assert told == {device: {"gradients": device == "cuda", "deterministic": False} for device in told}
