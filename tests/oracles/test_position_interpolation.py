"""The reference of position interpolation against rotary-embedding-torch, and against complex numbers in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.position_interpolation import position_interpolation

INSTALL = "pip install rotary-embedding-torch==0.9.1"

each_family = pytest.mark.parametrize("family", position_interpolation.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = position_interpolation.case(name, torch.float64)
    return case, position_interpolation.inputs(case, family, cotangents=True)


@each_family
# The library divides by d - 2.
@pytest.mark.parametrize("name", [name for name in position_interpolation.cases if name != "narrow"])
def test_rotary_embedding_torch(name: str, family: str, agree: Any, in_float64: Any) -> None:
    library = pytest.importorskip(
        "rotary_embedding_torch.rotary_embedding_torch", reason=f"rotary-embedding-torch is not installed: {INSTALL}"
    )
    in_float64(library)
    case, x = drawn(name, family)
    module = library.RotaryEmbedding(case.d, theta=case.base, interpolate_factor=case.factor)
    # It numbers positions itself; rows are dealt out to where the reference has them.
    places = module.get_seq_pos(case.far, dtype=torch.float64, device=x.x.device)
    theirs = library.apply_rotary_emb(module(places)[x.position], x.x)
    agree(position_interpolation.reference(x, case).out, theirs)


@each_family
@pytest.mark.parametrize("name", position_interpolation.cases)
def test_multiplication_of_complex_numbers(name: str, family: str, agree: Any) -> None:
    case, x = drawn(name, family)
    pair = np.arange(case.d // 2)
    turn = np.exp(1j * x.position.numpy()[:, None] * float(case.base) ** (-2 * pair / case.d) / case.factor)

    def times(y: Tensor, number: np.ndarray) -> Tensor:
        return torch.from_numpy((y.numpy().view(np.complex128) * number).view(np.float64))

    leaf = x.x.clone().requires_grad_()
    out = position_interpolation.reference({**x, "x": leaf}, case).out
    agree(out.detach(), times(x.x, turn))
    (gradient,) = torch.autograd.grad(out, leaf, x["out.grad"])
    agree(gradient, times(x["out.grad"], turn.conj()))
