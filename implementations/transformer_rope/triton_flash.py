"""A transformer with rotary positions, on the Triton flash attention that is written here, in place of torch's.

Its kernels are for tiles of 16 rows and more, so one token at a time is attended to by torch.
"""

from torch import Tensor

from harness import Unsupported
from harness.nn import flash_kernels
from harness.nn.attention import CausalAttention
from harness.nn.decoder import Decoder
from harness.nn.rotary_attention import RotaryAttention

requires = ("triton",)
devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    if case.device == "cpu" and not flash_kernels.INTERPRETED:
        raise Unsupported("on the CPU it is interpreted only: needs TRITON_INTERPRET=1 set before triton is imported")
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: FlashRotaryAttention(case.d, case.h))


class FlashAttention(CausalAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_kernels.attention(flash_kernels.seen(causal=True), q, k, v)


class FlashRotaryAttention(RotaryAttention, FlashAttention):
    """Turned by their place, then attended to by the kernel."""
