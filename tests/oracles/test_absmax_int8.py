"""The reference of the int8 product against bitsandbytes' CPU kernels, and against whole numbers in NumPy.

bitsandbytes computes in float32: codes and sums must be equal, scales and products agree to its precision. What it makes of a row
of zeros is left to it: the reference says zeros, bitsandbytes converts NaN to an integer.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from harness.spec import Mistake
from harness.specs.absmax_int8 import absmax_int8, quantize
from harness.trial import caught, trials

INSTALL = "pip install bitsandbytes==0.50.2"

each_case = pytest.mark.parametrize("name", absmax_int8.cases)


@pytest.mark.parametrize("family", [family for family in absmax_int8.families if family != "silent"])
# torch._int_mm, with which bitsandbytes multiplies on CPU, gives memory as it found it for one feature (torch 2.13).
@pytest.mark.parametrize("name", [name for name in absmax_int8.cases if name != "one_wide"])
def test_codes_and_products_are_those_of_bitsandbytes(name: str, family: str) -> None:
    library = pytest.importorskip("bitsandbytes", reason=f"bitsandbytes is not installed: {INSTALL}").functional
    case = absmax_int8.case(name, torch.float16)
    x = absmax_int8.inputs(case, family)
    ours = absmax_int8.reference({key: value.double() for key, value in x.items()}, case)
    (x_code, x_top, _), (w_code, w_top, _) = (library.int8_vectorwise_quant(x[key].clone()) for key in ("x", "w"))
    assert torch.equal(ours.x_code, x_code.double())
    assert torch.equal(ours.w_code, w_code.double())
    torch.testing.assert_close(quantize(x.x.double())[1][:, 0] * 127, x_top.double(), rtol=1e-7, atol=0)
    sums = library.int8_linear_matmul(x_code, w_code)
    assert torch.equal(ours.x_code @ ours.w_code.mT, sums.double())
    theirs = torch.ops.bitsandbytes.int8_mm_dequant(sums, x_top, w_top, dtype=torch.float32)
    # Its 1 / 127^2 lacks a zero: 6.200124e-05 instead of 6.2000124e-05.
    torch.testing.assert_close(ours.out, theirs.double() / (6.200124e-05 * 127**2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", absmax_int8.families)
@each_case
def test_exact_arithmetic_of_fractions(name: str, family: str, agree: Any) -> None:
    """Codes by Python's fractions, whose `round` is to even; sums by NumPy in 64 bits."""
    case = absmax_int8.case(name, torch.float64)
    x = absmax_int8.inputs(case, family)

    def codes(rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        exact = [[Fraction(value) for value in row] for row in rows.tolist()]
        tops = [max(map(abs, row)) for row in exact]
        numbers = [[round(127 * value / top) if top else 0 for value in row] for row, top in zip(exact, tops, strict=True)]
        return np.array(numbers, dtype=np.int64), np.array([float(top / 127) for top in tops])

    ours = absmax_int8.reference(x, case)
    (x_code, x_scale), (w_code, w_scale) = codes(x.x), codes(x.w)
    agree(ours.x_code, torch.from_numpy(x_code).double())
    agree(ours.w_code, torch.from_numpy(w_code).double())
    agree(ours.out, torch.from_numpy((x_code @ w_code.T) * np.outer(x_scale, w_scale)))


def test_codes_that_are_rounded_up_from_0_47_on_are_seen_in_float32() -> None:
    """In 16 bits inputs keep clear of it."""

    def early(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = quantize(x)[1]
        rest = x / scale - (x / scale).floor()
        return torch.where((rest > 0.47) & (rest < 0.5), (x / scale).ceil(), torch.round(x / scale)), scale

    def wrong(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (x_code, x_scale), (w_code, w_scale) = early(x), early(w)
        return x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code, w_code

    assert next(caught(Mistake("rounds early", wrong), trials(absmax_int8, torch.float32)), None)
