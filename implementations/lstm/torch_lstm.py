"""torch's own LSTM, the one behind nn.LSTM, with the weights given as inputs and all of it in float32."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}


def prepare(case):
    def run(
        x: Tensor,
        past: Tensor,
        past_cell: Tensor,
        input_weight: Tensor,
        hidden_weight: Tensor,
        input_bias: Tensor,
        hidden_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = [w.float().flatten(0, 1) for w in (input_weight, hidden_weight, input_bias, hidden_bias)]
        past, past_cell = past.float().unsqueeze(0), past_cell.float().unsqueeze(0)
        # Biases, one layer, no dropout, kernels that keep what backward needs, one direction, batch first.
        settings = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        out, hidden, cell = torch.lstm(x.float(), (past, past_cell), weights, *settings)
        return out.to(case.dtype), hidden.squeeze(0).to(case.dtype), cell.squeeze(0).to(case.dtype)

    return run
