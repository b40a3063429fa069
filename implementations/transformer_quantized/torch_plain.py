"""A transformer with rotary positions and matrices quantized when they are read: LLM.int8(), NF4 once and twice, 4-bit absmax."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Unsupported
from harness.nn.attention import CausalAttention, appended
from harness.nn.decoder import Block, Decoder
from harness.nn.rotary import angles_at, turn

devices = ("cpu",)  # torch multiplies matrices of int32 on CPU only
dtypes = ("float32",)
gradients = False  # quantized weights are frozen
weights_of = "transformer_rope/torch_sdpa"
variants = {
    "llm_int8": {"options": {"scheme": "llm_int8"}},
    "nf4": {"options": {"scheme": "nf4"}},
    "nf4_double": {"options": {"scheme": "nf4_double"}},
    "absmax_int4": {"options": {"scheme": "absmax_int4"}},
}

NORMAL_FLOAT = """
-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""
TINY = torch.finfo(torch.float32).tiny


def prepare(case, **in_suites):
    model = Decoder(case.v, case.d, case.l, case.f, lambda layer: RotaryAttention(case.d, case.h), block=QuantizedBlock)
    for part in model.modules():
        if isinstance(part, Quantized):
            part.scheme, part.threshold = case.scheme, case.threshold
    return model


class Quantized(nn.Linear):
    """A linear layer that multiplies with what comes back from the codes of its matrix; LLM.int8() quantizes its input too."""

    scheme, threshold = "nf4", 6.0

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.detach()
        if self.scheme == "llm_int8":
            y = int8_product(x.flatten(0, -2), w, self.threshold).unflatten(0, x.shape[:-1])
            return y if self.bias is None else y + self.bias
        return F.linear(x, SCHEMES[self.scheme](w), self.bias)


class QuantizedBlock(Block):
    """A block of the decoder with quantized matrices."""

    def __init__(self, d: int, f: int, mixer: Any):
        super().__init__(d, f, mixer)
        self.up, self.down = Quantized(d, f), Quantized(f, d)


class RotaryAttention(CausalAttention):
    """Attention with rotary positions and quantized matrices; state: the keys, turned, and values so far."""

    def __init__(self, d: int, h: int):
        super().__init__(d, h)
        self.q, self.k, self.v, self.o = (Quantized(d, d, bias=False) for _ in range(4))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = angles_at(torch.arange(q.shape[2], device=q.device), q.shape[-1])
        return super().attend(turn(q, angles), turn(k, angles), v)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if self.q.scheme == "llm_int8":
            raise Unsupported("LLM.int8() finds outliers over all tokens of a call: one token at a time is another function")
        return super().step(x, state)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        position = 0 if state is None else state[0].shape[2]
        angles = angles_at(torch.tensor([position], device=q.device), q.shape[-1])
        k, v = appended(state, turn(k, angles), v)
        return F.scaled_dot_product_attention(turn(q, angles), k, v), (k, v)


def normal_float(w: Tensor, double: bool, block: int = 64) -> Tensor:
    """A matrix as it comes back from NF4: 4 bits an element, a magnitude a block, itself in 8 bits where `double`."""
    values = torch.tensor([float(value) for value in NORMAL_FLOAT.split()], device=w.device)
    blocks = F.pad(w.flatten(), (0, -w.numel() % block)).view(-1, block)
    magnitude = blocks.abs().amax(1)
    code = torch.bucketize(blocks / magnitude.clamp(min=TINY)[:, None], (values[1:] + values[:-1]) / 2)
    if double:
        magnitude = through_bytes(magnitude)
    return (values[code] * magnitude[:, None]).flatten()[: w.numel()].view_as(w)


def through_bytes(magnitude: Tensor) -> Tensor:
    """Magnitudes less their mean, in blocks of 256, as one byte each of the dynamic map; and back."""
    fractions = (torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64) for i in range(7))
    positive = torch.cat([10.0 ** (i - 6) * (f[1:] + f[:-1]) / 2 for i, f in enumerate(fractions)])
    values = torch.cat((positive, -positive, torch.tensor([0.0, 1.0]))).sort().values.to(magnitude)
    mean = magnitude.mean()
    blocks = F.pad(magnitude - mean, (0, -len(magnitude) % 256)).view(-1, 256)
    deviation = blocks.abs().amax(1, keepdim=True)
    byte = torch.bucketize(blocks / deviation.clamp(min=TINY), (values[1:] + values[:-1]) / 2)
    return (values[byte] * deviation).flatten()[: len(magnitude)] + mean


def int4(w: Tensor) -> Tensor:
    """A matrix as it comes back from codes -7 ... 7 of each row."""
    step = w.abs().amax(-1, keepdim=True).clamp(min=TINY) / 7
    return (w / step).round() * step


def int8_product(x: Tensor, w: Tensor, threshold: float) -> Tensor:
    """x[n d] times w[e d]: features with an outlier as they are, the others in whole numbers."""
    outlier = (x.abs() >= threshold).any(0)
    x_code, x_step = int8(x.masked_fill(outlier, 0.0))
    w_code, w_step = int8(w)
    quiet = (x_code.int() @ w_code.int().mT).float() * x_step * w_step.mT
    return quiet + x[:, outlier] @ w[:, outlier].mT


def int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of each row, and what one of them is worth."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=TINY) / 127
    return (x / step).round().to(torch.int8), step


SCHEMES = {"nf4": partial(normal_float, double=False), "nf4_double": partial(normal_float, double=True), "absmax_int4": int4}
