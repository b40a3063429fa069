"""The reference of linear attention against the naive functions of fla-core, and against a direct sum in NumPy's long doubles."""

import importlib.metadata
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.linear_attention import linear_attention

INSTALL = "pip install fla-core==0.6.0 einops"

each_case = pytest.mark.parametrize("name", linear_attention.cases)
each_family = pytest.mark.parametrize("family", linear_attention.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = linear_attention.case(name, torch.float64)
    return case, linear_attention.inputs(case, family, cotangents=True)


def values_and_gradients(function: Any, x: Bunch, outputs: tuple[str, ...] = ("out", "state", "state_sum")) -> list[Tensor]:
    """Outputs, and the gradients of q, k, v, past and past_sum."""
    leaves = {name: x[name].clone().requires_grad_() for name in ("q", "k", "v", "past", "past_sum")}
    found = function(Bunch({**x, **leaves}))
    return [*found, *torch.autograd.grad(found, list(leaves.values()), [x[f"{name}.grad"] for name in outputs])]


@pytest.fixture(scope="module")
def naive() -> ModuleType:
    """Naive functions of fla-core, read alone: importing the package would need triton, which they do not use."""
    pytest.importorskip("einops", reason=f"einops is not installed: {INSTALL}")
    try:
        file = importlib.metadata.distribution("fla-core").locate_file("fla/ops/linear_attn/naive.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"fla-core is not installed: {INSTALL}")
    found = importlib.util.spec_from_file_location("oracle_linear_attn", str(file))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


# It adds 1e-10 to its denominators, which shows where they are next to nothing, in the family `faint`.
@pytest.mark.parametrize("family", ["normal", "large"])
@each_case
def test_naive_recurrence_of_fla_with_its_normalisation(
    name: str, family: str, naive: ModuleType, agree: Any, in_float64: Any
) -> None:
    """The features go in; tokens come before heads there, and the denominator's past is [b 1 h d]."""
    in_float64(naive)

    def theirs(x: Bunch) -> tuple[Tensor, ...]:
        q, k = (torch.where(y > 0, y + 1, y.exp()).transpose(1, 2) for y in (x.q, x.k))
        past = (x.past, x.past_sum.unsqueeze(1))
        out, (state, total) = naive.naive_recurrent_linear_attn(
            q, k, x.v.transpose(1, 2), scale=1, initial_state=past, output_final_state=True, normalize=True
        )
        return out.transpose(1, 2), state, total.squeeze(1)

    case, x = drawn(name, family)
    reference = values_and_gradients(lambda y: tuple(linear_attention.reference(y, case).values()), x)
    for ours, oracle in zip(reference, values_and_gradients(theirs, x), strict=True):
        agree(ours, oracle)


@each_family
@each_case
def test_naive_recurrence_of_fla_for_numerator_and_denominator(
    name: str, family: str, naive: ModuleType, agree: Any, in_float64: Any
) -> None:
    """Without its normalisation: a column of ones beside the values gives the denominator."""
    in_float64(naive)

    def theirs(x: Bunch) -> tuple[Tensor, ...]:
        q, k = ((torch.nn.functional.elu(y) + 1).transpose(1, 2) for y in (x.q, x.k))
        v = torch.cat([x.v, torch.ones_like(x.v[..., :1])], -1).transpose(1, 2)
        past = torch.cat([x.past, x.past_sum.unsqueeze(-1)], -1)
        out, state = naive.naive_recurrent_linear_attn(q, k, v, scale=1, initial_state=past, output_final_state=True)
        out = out.transpose(1, 2)
        return out[..., :-1] / out[..., -1:], state[..., :-1], state[..., -1]

    case, x = drawn(name, family)
    reference = values_and_gradients(lambda y: tuple(linear_attention.reference(y, case).values()), x)
    for ours, oracle in zip(reference, values_and_gradients(theirs, x), strict=True):
        agree(ours, oracle)


@each_family
@each_case
def test_direct_sum_in_long_doubles(name: str, family: str, agree: Any) -> None:
    case, x = drawn(name, family)
    q, k, v, past, past_sum = (x[t].numpy().astype(np.longdouble) for t in ("q", "k", "v", "past", "past_sum"))
    q, k = (np.where(y > 0, y + 1, np.exp(np.minimum(y, 0))) for y in (q, k))
    out = np.zeros((case.b, case.h, case.n, case.e), np.longdouble)
    for at in np.ndindex(case.b, case.h, case.n):
        row, query = at[:2], q[at]
        weights = [(query * k[(*row, j)]).sum() for j in range(at[2] + 1)]
        numerator = sum((weight * v[(*row, j)] for j, weight in enumerate(weights)), start=query @ past[row])
        out[at] = numerator / (query @ past_sum[row] + sum(weights))
    agree(linear_attention.reference(x, case).out, torch.from_numpy(out.astype(np.float64)))
