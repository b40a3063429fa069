"""LLM.int8() from codes alone against bitsandbytes' Linear8bitLt, which keeps no other weights.

bitsandbytes counts for a token's scale also what lies below the threshold in outlier features. So outlier features are loud in
every token here: nothing of them lies below, and the scales are the same.
"""

import pytest
import torch

from harness.specs.llm_int8 import llm_int8
from harness.specs.transformer_quantized import weights_in

INSTALL = "pip install bitsandbytes==0.50.2"


@pytest.mark.parametrize("loud", [0, 1, 5])
@pytest.mark.parametrize("threshold", [6.0, 2.0])
def test_the_product_is_that_of_bitsandbytes(threshold: float, loud: int) -> None:
    library = pytest.importorskip("bitsandbytes", reason=f"bitsandbytes is not installed: {INSTALL}")
    n, d, e = 7, 96, 40
    rng = torch.Generator().manual_seed(loud)
    x = torch.randn(n, d, generator=rng).clamp(-0.9 * threshold, 0.9 * threshold)
    x[:, :loud] = x[:, :loud].sign() * (10 * threshold + x[:, :loud].abs())
    x, w = x.half(), torch.randn(e, d, generator=rng).half()
    layer = library.nn.Linear8bitLt(d, e, bias=False, has_fp16_weights=False, threshold=threshold)
    layer.load_state_dict({"weight": w})
    theirs = layer.to("cpu").eval()(x).double()
    kept, paper = (
        llm_int8(x.double(), weights_in[scheme](w.double()), threshold=threshold)[0] for scheme in ("llm_int8_codes", "llm_int8")
    )

    def apart(ours: torch.Tensor) -> float:
        return float((ours - theirs).norm() / theirs.norm())

    # It stores in float16, whose rounding unit is 2**-11: the largest error, which few elements reach.
    assert apart(kept) < 2**-11
    if loud:
        # A step is 1/127 of a row's largest weight, and rounding to it moves a typical weight by half a per cent.
        assert apart(paper) > 5 * 2**-11, "the weights of outlier features are as they were"
