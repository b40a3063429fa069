"""A transformer with rotary positions that keeps codes of its matrices: NF4 once and twice, 4-bit absmax, LLM.int8().

Codes of 4 bits lie two in a byte, those of 8 bits one, and no floats beside them but scales. The exception is LLM.int8() as the
paper has it: outlier features are found call by call, and meet the weights as they are, so the matrix of floats must stay and
nothing is saved. bitsandbytes keeps codes alone, and so does `llm_int8_codes`.
"""

from abc import ABC, abstractmethod
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
    "llm_int8_codes": {"options": {"scheme": "llm_int8_codes"}},
    "nf4": {"options": {"scheme": "nf4"}},
    "nf4_double": {"options": {"scheme": "nf4_double"}},
    "absmax_int4": {"options": {"scheme": "absmax_int4"}},
}

NORMAL_FLOAT = """
-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022833234
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""
TINY = torch.finfo(torch.float32).tiny


def prepare(case, **in_suites):
    linear = LAYERS[case.scheme]
    model = Decoder(
        case.v,
        case.d,
        case.l,
        case.f,
        lambda layer: RotaryAttention(case.d, case.h, linear),
        block=partial(QuantizedBlock, linear),
    )
    for part in model.modules():
        if isinstance(part, ROUND_INPUTS):
            part.threshold = case.threshold
    return model


class QuantizedBlock(Block):
    """A block of the decoder with quantized matrices."""

    def __init__(self, linear: type[nn.Linear], d: int, f: int, mixer: Any):
        super().__init__(d, f, mixer)
        self.up, self.down = linear(d, f), linear(f, d)


class RotaryAttention(CausalAttention):
    """Attention with rotary positions and quantized matrices; state: the keys, turned, and values so far."""

    def __init__(self, d: int, h: int, linear: type[nn.Linear]):
        super().__init__(d, h)
        self.q, self.k, self.v, self.o = (linear(d, d, bias=False) for _ in range(4))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = angles_at(torch.arange(q.shape[2], device=q.device), q.shape[-1])
        return super().attend(turn(q, angles), turn(k, angles), v)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if isinstance(self.q, ROUND_INPUTS):
            raise Unsupported("LLM.int8() finds outliers over all tokens of a call: one token at a time is another function")
        return super().step(x, state)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        position = 0 if state is None else state[0].shape[2]
        angles = angles_at(torch.tensor([position], device=q.device), q.shape[-1])
        k, v = appended(state, turn(k, angles), v)
        return F.scaled_dot_product_attention(turn(q, angles), k, v), (k, v)


class Quantized(nn.Linear, ABC):
    """A linear layer that keeps codes of its matrix as buffers.

    A scheme says `packed(w)`, the tensors to be kept by name. Once the decoder has given the
    first values, `weight` stands there for its name and shape alone. A matrix that is loaded under this name is packed; state
    dicts hold the codes.
    """

    @abstractmethod
    def packed(self, w: Tensor) -> dict[str, Tensor]: ...

    def start(self) -> None:
        for name, tensor in self.packed(self.weight.detach()).items():
            self.register_buffer(name, tensor)
        self._let_go()

    def _let_go(self) -> None:
        """Leaves of the matrix its name and shape: they lie on one number of the scales, and need no byte of their own."""
        scales = next(tensor for tensor in self.buffers() if tensor.is_floating_point())
        self.weight = nn.Parameter(scales.flatten()[0].expand(self.out_features, self.in_features), requires_grad=False)

    def _apply(self, *how: Any, **further: Any) -> "Quantized":
        super()._apply(*how, **further)
        self._let_go()  # moved to a device or another dtype, as in a copy, it would have become a whole matrix
        return self

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._let_go()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}weight"]

    def _load_from_state_dict(
        self, state: Any, prefix: str, of: Any, strict: bool, missing: Any, unknown: Any, errors: Any
    ) -> None:
        state, name = dict(state), f"{prefix}weight"
        w = state.pop(name, None)
        if w is not None and w.shape != self.weight.shape:
            errors.append(f"size mismatch for {name}: {list(w.shape)} is given, where it has {list(self.weight.shape)}.")
        elif w is not None:
            state |= {prefix + kept: tensor for kept, tensor in self.packed(w.detach()).items()}
        super()._load_from_state_dict(state, prefix, of, strict, missing, unknown, errors)
        missing[:] = [absent for absent in missing if absent != name]  # where no matrix came, its codes did, or are missing


class WeightOnly(Quantized):
    """It multiplies with `matrix()`, what comes back from the codes."""

    @abstractmethod
    def matrix(self) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix(), self.bias)


class NormalFloat(WeightOnly):
    """NF4: 4 bits an element, and a float32 magnitude for each block of 64."""

    def packed(self, w: Tensor) -> dict[str, Tensor]:
        code, magnitude = in_blocks(w, 64, normal_float())
        return {"codes": in_bytes(code), "magnitude": magnitude}

    def matrix(self) -> Tensor:
        code = of_bytes(self.codes, self.weight.numel())
        return from_blocks(code, self.magnitudes(), 64, normal_float()).view_as(self.weight)

    def magnitudes(self) -> Tensor:
        return self.magnitude


class NormalFloatTwice(NormalFloat):
    """NF4 whose magnitudes, less their mean, are bytes of the dynamic map: with a float32 deviation for each block of 256."""

    def packed(self, w: Tensor) -> dict[str, Tensor]:
        once = super().packed(w)
        mean = once["magnitude"].mean()
        byte, deviation = in_blocks(once["magnitude"] - mean, 256, dynamic_map())
        return {"codes": once["codes"], "magnitude": byte.to(torch.uint8), "deviation": deviation, "mean": mean}

    def magnitudes(self) -> Tensor:
        return from_blocks(self.magnitude.long(), self.deviation, 256, dynamic_map()) + self.mean


class AbsmaxInt4(WeightOnly):
    """Codes -7 ... 7, and a float32 step for each row."""

    def packed(self, w: Tensor) -> dict[str, Tensor]:
        code, step = of_rows(w, 7)
        return {"codes": in_bytes(code + 8), "step": step}

    def matrix(self) -> Tensor:
        return (of_bytes(self.codes, self.weight.numel()) - 8).view_as(self.weight) * self.step


class LLMInt8Codes(Quantized):
    """LLM.int8() in bitsandbytes' way: codes -127 ... 127 and a float32 step for each row; outlier features meet these too."""

    threshold = 6.0

    def packed(self, w: Tensor) -> dict[str, Tensor]:
        code, step = of_rows(w, 127)
        return {"codes": code.to(torch.int8), "step": step}

    def forward(self, x: Tensor) -> Tensor:
        return int8_product(
            x, self.codes, self.step, self.threshold, self.bias, lambda outlier: self.codes[:, outlier] * self.step
        )


class LLMInt8(nn.Linear):
    """LLM.int8() as the paper has it: outlier features meet the matrix itself, which therefore stays."""

    threshold = 6.0

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.detach()
        return int8_product(x, *of_rows(w, 127), self.threshold, self.bias, lambda outlier: w[:, outlier])


ROUND_INPUTS = (LLMInt8, LLMInt8Codes)
LAYERS = {
    "nf4": NormalFloat,
    "nf4_double": NormalFloatTwice,
    "absmax_int4": AbsmaxInt4,
    "llm_int8": LLMInt8,
    "llm_int8_codes": LLMInt8Codes,
}


def int8_product(x: Tensor, code: Tensor, step: Tensor, threshold: float, bias: Tensor | None, weights_of: Any) -> Tensor:
    """x[... d] times a matrix of codes[e d] and steps[e 1]: in whole numbers, but for features with an outlier."""
    rows = x.flatten(0, -2)
    outlier = (rows.abs() >= threshold).any(0)
    x_code, x_step = of_rows(rows.masked_fill(outlier, 0.0), 127)
    quiet = (x_code.int() @ code.int().mT).float() * x_step * step.mT
    y = (quiet + rows[:, outlier] @ weights_of(outlier).mT).unflatten(0, x.shape[:-1])
    return y if bias is None else y + bias


def of_rows(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Codes -levels ... levels of each row, as floats, and what one of them is worth."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=TINY) / levels
    return (x / step).round(), step


def in_blocks(x: Tensor, block: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """For each element the number of the value nearest to it over the largest magnitude of its block; and these magnitudes."""
    blocks = F.pad(x.flatten(), (0, -x.numel() % block)).view(-1, block)
    magnitude = blocks.abs().amax(1)
    code = torch.bucketize(blocks / magnitude.clamp(min=TINY)[:, None], (values[1:] + values[:-1]) / 2)
    return code.flatten()[: x.numel()], magnitude


def from_blocks(code: Tensor, magnitude: Tensor, block: int, values: Tensor) -> Tensor:
    return values[code] * magnitude.repeat_interleave(block)[: len(code)]


def in_bytes(code: Tensor) -> Tensor:
    """Codes 0 ... 15, two in a byte, the first in the high half."""
    code = F.pad(code.flatten().to(torch.uint8), (0, code.numel() % 2))
    return code[::2] << 4 | code[1::2]


def of_bytes(packed: Tensor, number: int) -> Tensor:
    return torch.stack((packed >> 4, packed & 15), 1).flatten()[:number].long()


def normal_float() -> Tensor:
    return torch.tensor([float(value) for value in NORMAL_FLOAT.split()])


def dynamic_map() -> Tensor:
    """The 256 values of a byte: sign, place of the first set bit as a power of ten, and the rest as a fraction of [0.1, 1]."""
    fractions = (torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64) for i in range(7))
    positive = torch.cat([10.0 ** (i - 6) * (f[1:] + f[:-1]) / 2 for i, f in enumerate(fractions)])
    return torch.cat((positive, -positive, torch.tensor([0.0, 1.0]))).sort().values.float()
