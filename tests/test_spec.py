"""Specs: what a declaration must say, what inputs are drawn, and what is refused."""

import pytest
import torch

from harness.contract import ContractError
from harness.spec import Bunch, _read, spec


def scaled(**changes: object):
    declared = {"cases": {"plain": {}, "wide": {"d": 9, "by": 3.0}}, "n": 4, "d": 5, **changes}

    @spec("x[n d], kept[n]:float32 -> out[n d]", **declared)
    def scale(x, kept, *, by=2.0):
        return by * x

    return scale


def test_a_case_has_sizes_and_options_as_attributes():
    case = scaled().case("wide", torch.bfloat16)
    assert (case.n, case.d, case.by, case.dtype) == (4, 9, 3.0, torch.bfloat16)
    with pytest.raises(AttributeError, match="case 'wide' has no 'window', only"):
        _ = case.window


def test_an_unknown_size_or_option_is_refused():
    with pytest.raises(ContractError, match=r"scale: wrong sets 'w', which is no axis and no option; known: by, d, l, n"):
        scaled(cases={"wrong": {"w": 1}})


def test_an_axis_without_a_size_is_refused():
    with pytest.raises(ContractError, match="no size is given for axis d"):

        @spec("x[n d] -> out[n d]", cases={}, n=1)
        def nothing(x): ...


def test_inputs_are_rounded_to_the_dtype_and_what_is_kept_is_not():
    it = scaled()
    x = it.inputs(it.case("plain", torch.float16), "large", cotangents=True)
    assert (x.x.dtype, x.kept.dtype, x["out.grad"].dtype) == (torch.float16, torch.float32, torch.float16)
    assert it.differentiable(it.case("plain")) == ["x"]


def test_the_reference_answers_by_name_and_other_functions_may_play_it():
    it = scaled()
    case = it.case("wide")
    x = it.inputs(case)
    assert torch.equal(it.reference(x, case).out, 3 * x.x)
    assert torch.equal(it.reference(x, case, lambda x, kept, *, by: x).out, x.x)
    assert torch.equal(it(x.x, x.kept, by=1.0), x.x)


def test_a_bunch_says_what_it_holds():
    with pytest.raises(AttributeError, match="there is no 'k' here, only q, v"):
        _ = Bunch(q=1, v=2).k


def test_some_rows_and_some_outputs_are_read_by_nobody():
    """As padding is not, and final states in training."""
    drawn = {"out": torch.ones(2, 5, 3), "state": torch.ones(2)}
    whole, rows, *alone = (_read(drawn, number) for number in (0, 1, 2, 5))
    assert whole == drawn
    assert rows["out"][0, :, 0].tolist() == [1, 0, 1, 1, 0]
    assert [{name: bool(t.any()) for name, t in one.items()} for one in alone] == [
        {"out": True, "state": False},
        {"out": False, "state": True},
    ]
