"""A language model of torch's LSTM layers, each in place of a transformer's attention."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: Cells(case.d))


class Gates(nn.Module):
    """What one vector gives to the gates i, f, g, o of each cell."""

    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, d, d))
        self.bias = nn.Parameter(torch.empty(4, d))


class Cells(nn.Module):
    """As many LSTM cells as the model is wide; state: hidden vector and cell."""

    def __init__(self, d: int):
        super().__init__()
        self.input, self.hidden = Gates(d), Gates(d)

    def start(self) -> None:
        """Matrices of 1 / sqrt(fan-in); cells begin by forgetting little."""
        for gates in (self.input, self.hidden):
            nn.init.normal_(gates.weight, std=gates.weight.shape[2] ** -0.5)
        nn.init.ones_(self.input.bias[1])

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, None)[0]

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        out, state = self._run(x[:, None], state)
        return out[:, 0], state

    def _run(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x[b n d] and the state before -> out[b n d] and the state after."""
        if state is None:
            nothing = x.new_zeros(1, len(x), x.shape[2])
            state = (nothing, nothing)
        weights = [w.flatten(0, 1) for w in (self.input.weight, self.hidden.weight, self.input.bias, self.hidden.bias)]
        # Biases, one layer, no dropout, kernels that keep what backward needs, one direction, batch first.
        out, hidden, cell = torch.lstm(x, state, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
        return out, (hidden, cell)
