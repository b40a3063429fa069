"""The reference of retention against two published libraries: yet-another-retnet, and the naive functions of fla-core.

The former computes in float64 of itself, with decays of its own; the latter takes any decay, once it is kept out of float32.
"""

import importlib.metadata
import importlib.util
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.retention import retention

INSTALL = "pip install yet-another-retnet==0.5.1 fla-core==0.6.0"

each_case = pytest.mark.parametrize("name", retention.cases)
each_family = pytest.mark.parametrize("family", retention.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = retention.case(name, torch.float64)
    x = retention.inputs(case, family, cotangents=True)
    return case, Bunch({**x, "decay": x.decay.double()})


def values_and_gradients(function: Any, x: Bunch) -> list[Tensor]:
    """out, state, and the gradients of q, k, v and past."""
    leaves = {name: x[name].clone().requires_grad_() for name in ("q", "k", "v", "past")}
    out, state = function(Bunch({**x, **leaves}))
    return [out, state, *torch.autograd.grad([out, state], list(leaves.values()), [x["out.grad"], x["state.grad"]])]


def reference(case: Case) -> Any:
    return lambda x: retention.reference(x, case).values()


@pytest.fixture(scope="module")
def retnet() -> Any:
    return pytest.importorskip("yet_another_retnet.retention", reason=f"yet-another-retnet is not installed: {INSTALL}")


@each_family
@each_case
def test_one_parallel_step_of_yet_another_retnet(name: str, family: str, retnet: Any, agree: Any) -> None:
    case, x = drawn(name, family)
    x |= {"past": 0 * x.past, "decay": retnet._build_decay_gammas(case.h, dtype=torch.float64)}
    agree(retention.reference(x, case).out, retnet.retention_parallel(x.q, x.k, x.v, scale=1)[0])


@each_family
@each_case
@pytest.mark.parametrize("chunk", [7, 16])
def test_chunks_of_yet_another_retnet(chunk: int, name: str, family: str, retnet: Any, agree: Any) -> None:
    def in_chunks(x: Bunch) -> tuple[Tensor, Tensor]:
        state, out = x.past, []
        for part in zip(*(x[name].split(chunk, 2) for name in "qkv"), strict=True):
            part_out, state = retnet.retention_chunkwise(*part, state, scale=1)
            out.append(part_out)
        return torch.cat(out, 2), state

    case, x = drawn(name, family)
    x |= {"decay": retnet._build_decay_gammas(case.h, dtype=torch.float64)}
    for ours, theirs in zip(values_and_gradients(reference(case), x), values_and_gradients(in_chunks, x), strict=True):
        agree(ours, theirs)


@each_family
@each_case
def test_recurrent_steps_of_yet_another_retnet(name: str, family: str, retnet: Any, agree: Any) -> None:
    def step_by_step(x: Bunch) -> tuple[Tensor, Tensor]:
        state, out = x.past, []
        for q, k, v in zip(x.q.unbind(2), x.k.unbind(2), x.v.unbind(2), strict=True):
            step_out, state = retnet.retention_recurrent(q, k, v, state, scale=1)
            out.append(step_out)
        return torch.stack(out, 2), state

    case, x = drawn(name, family)
    x |= {"decay": retnet._build_decay_gammas(case.h, dtype=torch.float64)}
    for ours, theirs in zip(values_and_gradients(reference(case), x), values_and_gradients(step_by_step, x), strict=True):
        agree(ours, theirs)


def of_fla(path: str) -> ModuleType:
    """A file of fla-core, read alone: importing the package would need triton, which its naive functions do not use."""
    try:
        file = importlib.metadata.distribution("fla-core").locate_file(path)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"fla-core is not installed: {INSTALL}")
    found = importlib.util.spec_from_file_location(f"oracle_{path.replace('/', '_')}", str(file))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", ["normal", "large", "needle"])  # its decays are those of RetNet, always
@each_case
def test_naive_retention_of_fla(name: str, family: str, agree: Any, in_float64: Any) -> None:
    naive = of_fla("fla/ops/retention/naive.py")
    in_float64(naive)
    case, x = drawn(name, family)
    x |= {"past": 0 * x.past}
    # It scales the scores by d^-1/2 of its own.
    agree(retention.reference(x, case).out, naive.naive_retention(x.q * case.d**0.5, x.k, x.v))


@each_family
@each_case
def test_naive_recurrent_simple_gla_of_fla(name: str, family: str, agree: Any, in_float64: Any) -> None:
    """Gated linear attention whose gate is the same for all tokens is retention; tokens come before heads there."""
    naive = of_fla("fla/ops/simple_gla/naive.py")
    in_float64(naive)

    def theirs(x: Bunch) -> tuple[Tensor, Tensor]:
        q, k, v = (x[name].transpose(1, 2) for name in "qkv")
        gate = x.decay.log().expand(q.shape[:3])
        out, state = naive.naive_recurrent_simple_gla(q, k, v, gate, scale=1, initial_state=x.past)
        return out.transpose(1, 2), state

    case, x = drawn(name, family)
    for our, their in zip(values_and_gradients(reference(case), x), values_and_gradients(theirs, x), strict=True):
        agree(our, their)
