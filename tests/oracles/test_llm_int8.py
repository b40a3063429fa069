"""The reference of LLM.int8() against bitsandbytes' CPU kernels, and against its definition in NumPy, feature by feature.

bitsandbytes takes another side on two points, and so does `of_bitsandbytes`, which is what it is compared with; it shares all
other lines with the reference. Rows of zeros are left out: bitsandbytes converts NaN to an integer there.
"""

from typing import Any

import numpy as np
import pytest
import torch

from harness.specs.llm_int8 import llm_int8, of_bitsandbytes

INSTALL = "pip install bitsandbytes==0.50.2"


@pytest.mark.parametrize("family", [family for family in llm_int8.families if family != "silent"])
# No threshold, to bitsandbytes, is a threshold of 0.
@pytest.mark.parametrize("name", [name for name in llm_int8.cases if name != "all_outliers"])
def test_codes_and_products_are_those_of_bitsandbytes(name: str, family: str) -> None:
    library = pytest.importorskip("bitsandbytes", reason=f"bitsandbytes is not installed: {INSTALL}")
    case = llm_int8.case(name, torch.float16)
    x = llm_int8.inputs(case, family)
    out, x_code = of_bitsandbytes(x.x.double(), x.w.double(), threshold=case.threshold)
    code, _, _ = library.functional.int8_vectorwise_quant(x.x.clone(), threshold=case.threshold)
    # Where bitsandbytes' scale counts more than ours, inputs are not clear of ties: a code may be the neighbour's.
    assert (x_code - code.double()).abs().max() <= 1
    assert (x_code != code.double()).float().mean() < 0.01
    layer = library.nn.Linear8bitLt(case.d, case.e, bias=False, has_fp16_weights=False, threshold=case.threshold)
    layer.load_state_dict({"weight": x.w})
    theirs = layer.to("cpu").eval()(x.x).double()
    # It computes and stores in float16, whose least numbers are 2^-24 apart.
    size = (x.x.double().abs() @ x.w.double().abs().mT).max()
    torch.testing.assert_close(out, theirs, rtol=2e-3, atol=2e-4 * float(size) + 2**-25)


@pytest.mark.parametrize("family", llm_int8.families)
@pytest.mark.parametrize("name", llm_int8.cases)
def test_feature_by_feature(name: str, family: str, agree: Any) -> None:
    case = llm_int8.case(name, torch.float64)
    x = llm_int8.inputs(case, family)
    tokens, rows = x.x.numpy(), x.w.numpy()
    apart = [j for j in range(case.d) if np.abs(tokens[:, j]).max() >= case.threshold]
    kept = [j for j in range(case.d) if j not in apart]
    codes, out = np.zeros_like(tokens), np.zeros((case.n, case.e))
    for i in range(case.n):
        top = max((abs(tokens[i, j]) for j in kept), default=0.0)
        for j in kept:
            codes[i, j] = np.rint(127 * tokens[i, j] / top) if top else 0.0
        for k in range(case.e):
            widest = np.abs(rows[k]).max()
            exact = sum(tokens[i, j] * rows[k, j] for j in apart)
            sums = sum(int(codes[i, j]) * int(np.rint(127 * rows[k, j] / widest)) for j in kept) if widest else 0
            out[i, k] = exact + sums * top * widest / 127**2
    ours = llm_int8.reference(x, case)
    agree(ours.x_code, torch.from_numpy(codes))
    agree(ours.out, torch.from_numpy(out))
