"""The reference of rotary embedding against rotary-embedding-torch, and against multiplication of complex numbers in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.rotary import rotary

INSTALL = "pip install rotary-embedding-torch==0.9.1"

each_family = pytest.mark.parametrize("family", rotary.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = rotary.case(name, torch.float64)
    return case, rotary.inputs(case, family, cotangents=True)


@each_family
# The library divides by d - 2.
@pytest.mark.parametrize("name", [name for name in rotary.cases if name != "narrow"])
def test_rotary_embedding_torch(name: str, family: str, agree: Any, in_float64: Any) -> None:
    library = pytest.importorskip(
        "rotary_embedding_torch.rotary_embedding_torch", reason=f"rotary-embedding-torch is not installed: {INSTALL}"
    )
    in_float64(library)
    case, x = drawn(name, family)
    angles = library.RotaryEmbedding(case.d, theta=case.base)(x.position.double())
    agree(rotary.reference(x, case).out, library.apply_rotary_emb(angles, x.x))


@each_family
@pytest.mark.parametrize("name", rotary.cases)
def test_multiplication_of_complex_numbers(name: str, family: str, agree: Any) -> None:
    case, x = drawn(name, family)
    turn = np.exp(1j * np.outer(x.position.numpy(), float(case.base) ** -(np.arange(case.d // 2) * 2 / case.d)))

    def times(y: Tensor, number: np.ndarray) -> Tensor:
        return torch.from_numpy((y.numpy().view(np.complex128) * number).view(np.float64))

    leaf = x.x.clone().requires_grad_()
    out = rotary.reference({**x, "x": leaf}, case).out
    agree(out.detach(), times(x.x, turn))
    (gradient,) = torch.autograd.grad(out, leaf, x["out.grad"])
    agree(gradient, times(x["out.grad"], turn.conj()))
