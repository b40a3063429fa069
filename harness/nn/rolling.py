"""Attention with rotary positions to the last keys and the first ones, for models that go on past their training length."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.nn.attention import CausalAttention, appended
from harness.nn.rotary import angles_at, turn


class RollingAttention(CausalAttention):
    """Attention to the last `window` keys, its own included, and to the first `sinks`; it has no parameters of its own.

    Once the window has left them, `far(query[n]) -> places[n]` and `sink_places[s]` say where queries and sinks stand to each
    other. State: position, and keys (not turned) and values of the sinks and of the window but one.
    """

    def __init__(
        self, d: int, h: int, window: int, sinks: int, far: Callable[[Tensor], Tensor], sink_places: Callable[[int], Tensor]
    ):
        super().__init__(d, h)
        self.window, self.sinks, self.far = window, sinks, far
        self.sink_places = sink_places(sinks)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, d = q.shape[2:]
        place = torch.arange(n, device=q.device)
        near = angles_at(place, d)
        if n <= self.window:
            return super().attend(turn(q, near), turn(k, near), v)
        # One product for both: features [near, far], where keys of the window have no far half and sinks no near one. Values are
        # as wide, so that a fused kernel takes them.
        q = torch.cat([turn(q, near), turn(q, angles_at(self.far(place), d))], -1)
        first = min(self.sinks, n)
        sinks = (
            F.pad(turn(k[:, :, :first], angles_at(self.sink_places[:first].to(q.device), d)), (d, 0)),
            F.pad(v[:, :, :first], (0, d)),
        )
        k, v = F.pad(turn(k, near), (0, d)), F.pad(v, (0, d))
        w, blocks = self.window, -(-n // self.window)
        # Blocks [b m h w e] of w queries see their own keys, those of the block before, and the sinks.
        q, k, v = (F.pad(x, (0, 0, 0, -n % w)).unflatten(2, (-1, w)).transpose(1, 2) for x in (q, k, v))
        k, v = (
            torch.cat([F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)), x, s[:, None].expand(-1, blocks, -1, -1, -1)], 3)
            for x, s in zip((k, v), sinks, strict=True)
        )
        seen = self._seen(blocks, first, q.device)[:, None].repeat(q.shape[0], 1, 1, 1)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=d**-0.5)
        return out[..., :d].unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :n]

    def _seen(self, blocks: int, first: int, device: torch.device) -> Tensor:
        """[m w 2w+s]: a key of the window is seen there, a sink where the window has left it."""
        w, step = self.window, torch.arange(2 * self.window, device=device)
        distance = step[w:, None] - step
        seen = ((distance >= 0) & (distance < w)).repeat(blocks, 1, 1)
        seen[0, :, :w] = False  # before the first block there is nothing
        query = torch.arange(blocks * w, device=device).view(blocks, w, 1)
        return torch.cat([seen, query - torch.arange(first, device=device) >= w], -1)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        position, past = state or (0, None)
        k, v = appended(past, k, v)
        length, d = k.shape[2], q.shape[-1]
        index = torch.arange(length, device=q.device)
        place = torch.where(index < self.sinks, index, position - (length - 1 - index))
        left = (index < self.sinks) & (position - place >= self.window)
        here = torch.tensor([position], device=q.device)
        # The sinks are turned to where they stand for a query at its true place.
        behind = self.far(here) - self.sink_places.to(q.device)[index.clamp(max=max(self.sinks - 1, 0))] if self.sinks else 0
        place = torch.where(left, position - behind, place)
        out = F.scaled_dot_product_attention(turn(q, angles_at(here, d)), turn(k, angles_at(place, d)), v)
        if length == self.sinks + self.window:
            k, v = (torch.cat([x[:, :, : self.sinks], x[:, :, self.sinks + 1 :]], 2) for x in (k, v))
        return out, (position + 1, (k, v))
