"""Causal attention with rotary positions for the mixers of any model that runs the blocks of the decoder."""

from typing import Any

import torch
from torch import Tensor

from harness.nn.attention import CausalAttention
from harness.nn.rotary import angles_at, turn


class RotaryAttention(CausalAttention):
    """Causal attention whose queries and keys are turned by their place in the rows given; state: turned keys, and values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = angles_at(torch.arange(q.shape[2], device=q.device), q.shape[-1])
        return super().attend(turn(q, angles), turn(k, angles), v)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        place = 0 if state is None else state[0].shape[2]
        angles = angles_at(torch.tensor([place], device=q.device), q.shape[-1])
        return super().attend_last(turn(q, angles), turn(k, angles), v, state)
