"""A transformer without positions, on torch's fused scaled_dot_product_attention."""

from harness.nn.attention import CausalAttention
from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: CausalAttention(case.d, case.h))
