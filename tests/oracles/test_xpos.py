"""The reference of xPos against rotary-embedding-torch, and against a sum over pairs of complex numbers in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.xpos import xpos

INSTALL = "pip install rotary-embedding-torch==0.9.1"

each_family = pytest.mark.parametrize("family", xpos.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = xpos.case(name, torch.float64)
    return case, xpos.inputs(case, family, cotangents=True)


@each_family
# The library divides by d - 2, and its powers of a million positions from their middle are infinite, or 0.
@pytest.mark.parametrize("name", [name for name in xpos.cases if name != "narrow" and "million" not in name])
def test_rotary_embedding_torch(name: str, family: str, agree: Any, in_float64: Any) -> None:
    library = pytest.importorskip(
        "rotary_embedding_torch.rotary_embedding_torch", reason=f"rotary-embedding-torch is not installed: {INSTALL}"
    )
    in_float64(library)
    case, x = drawn(name, family)
    module = library.RotaryEmbedding(case.d, use_xpos=True, xpos_scale_base=case.scale_base)
    # It makes the buffer while torch's default is float32, and centres on half the number of positions that it is given.
    module.scale = (torch.arange(0, case.d, 2, dtype=torch.float64) + 0.4 * case.d) / (1.4 * case.d)
    scale = module.get_scale(torch.cat([x.query, x.key]).double())
    q = library.apply_rotary_emb(module(x.query.double()), x.q, scale=scale[: case.n])
    k = library.apply_rotary_emb(module(x.key.double()), x.k, scale=1 / scale[case.n :])
    agree(xpos.reference(x, case).score, q @ k.mT)


@each_family
@pytest.mark.parametrize("name", xpos.cases)
def test_sum_over_pairs_of_complex_numbers(name: str, family: str, agree: Any) -> None:
    """score = sum_i zeta_i^((p - s) / base) Re(q_i conj(k_i) e^(j (p - s) theta_i)), never split into two factors."""

    def pairs(y: Tensor) -> np.ndarray:
        return y.detach().numpy().view(np.complex128)

    case, x = drawn(name, family)
    distance = (x.query[:, None] - x.key).numpy()[..., None]
    i = np.arange(case.d // 2)
    factor = ((2 * i / case.d + 0.4) / 1.4) ** (distance / case.scale_base) * np.exp(1j * distance * 10000.0 ** (-2 * i / case.d))
    q, k = x.q.requires_grad_(), x.k.requires_grad_()
    score = xpos.reference(x, case).score
    agree(score, torch.from_numpy(np.einsum("bhni,bhmi,nmi->bhnm", pairs(q), pairs(k).conj(), factor).real.copy()))
    our_q, our_k = torch.autograd.grad(score, [q, k], x["score.grad"])
    cotangent = x["score.grad"].numpy()
    for ours, terms, operands in (
        (our_q, "bhnm,bhmi,nmi->bhni", (cotangent, pairs(k), factor.conj())),
        (our_k, "bhnm,bhni,nmi->bhmi", (cotangent, pairs(q), factor)),
    ):
        agree(ours, torch.from_numpy(np.ascontiguousarray(np.einsum(terms, *operands)).view(np.float64)))
