"""RMT on torch's fused scaled_dot_product_attention; where the reach of gradients is bounded, all segments at once.

With a bounded reach, memories are found first, without gradients. Then each segment is read again, and as many before it
as gradients may reach, all segments as rows of one batch: k + 2 passes one after another, however long the input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.nn.decoder import Decoder
from harness.nn.rotary_attention import RotaryAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Rmt(case.v, case.d, case.l, case.f, case.h, case.m, case.t // 4, case.reach)


class Rmt(Decoder):
    """A decoder that reads segments of `s` tokens, and hands `m` memory vectors on from each to the next."""

    def __init__(self, v: int, d: int, l: int, f: int, h: int, m: int, s: int, reach: int | None):
        super().__init__(v, d, l, f, lambda layer: RotaryAttention(d, h))
        self.s, self.reach = s, reach
        self.memory = nn.Embedding(m, d)
        nn.init.normal_(self.memory.weight, std=0.05)  # the spread of embeddings

    def forward(self, ids: Tensor) -> Tensor:
        memory, segments = self._learned(ids), ids.split(self.s, 1)
        if self.reach is None or not torch.is_grad_enabled():
            x = self._read(segments, memory)[0]
        else:
            x = self._read(segments[: self.reach + 1], memory)[0]
            if len(segments) > self.reach + 1:
                x = torch.cat([x, self._read_again(ids, segments, memory, self.reach)], 1)
        return self.head(x)

    def _learned(self, ids: Tensor) -> Tensor:
        return self.memory.weight.expand(len(ids), -1, -1)

    def _read(self, segments: Sequence[Tensor], memory: Tensor) -> tuple[Tensor, list[Tensor]]:
        """ids[b s] one after another from memory[b m d] on -> what is said of all [b n d], the memory after each."""
        said, handed_on = [], []
        for ids in segments:
            x = torch.cat([memory, self.embedding(ids), memory], 1)
            for block in self.blocks:
                x = block(x)
            _, tokens, memory = self.norm(x).split([memory.shape[1], ids.shape[1], memory.shape[1]], 1)
            said.append(tokens)
            handed_on.append(memory)
        return torch.cat(said, 1), handed_on

    def _read_again(self, ids: Tensor, segments: Sequence[Tensor], memory: Tensor, reach: int) -> Tensor:
        """What is said of the segments after the first reach + 1 of ids[b n]: each by itself, with `reach` before it."""
        with torch.no_grad():
            _, handed_on = self._read(segments[: -1 - reach], memory)
        starts = torch.stack(handed_on, 1).flatten(0, 1)
        padded = nn.functional.pad(ids, (0, -ids.shape[1] % self.s))[:, self.s :]
        windows = padded.unfold(1, (reach + 1) * self.s, self.s).flatten(0, 1)
        x, _ = self._read(windows.split(self.s, 1), starts)
        return x[:, -self.s :].unflatten(0, (len(ids), -1)).flatten(1, 2)[:, : ids.shape[1] - (reach + 1) * self.s]

    def step(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """ids[b], state -> logits[b v], state: memory, what attention keeps of this segment, how many tokens it has."""
        memory, kept, place = state or (self._learned(ids), None, 0)
        if place == self.s:
            (memory, _), kept, place = self._rows(memory, kept), None, 0
        if kept is None:
            _, kept = self._rows(memory, [None] * len(self.blocks))
        x, kept = self._rows(self.embedding(ids)[:, None], kept)
        return self.head(x[:, 0]), (memory, kept, place + 1)

    def _rows(self, x: Tensor, kept: list[Any]) -> tuple[Tensor, list[Any]]:
        """Rows x[b n d] one after another, after those that attention has kept -> what is said of them [b n d], what is kept."""
        said = [x[:, :0]]
        for row in x.unbind(1):
            after = []
            for block, past in zip(self.blocks, kept, strict=True):
                row, past = block.step(row, past)
                after.append(past)
            kept = after
            said.append(self.norm(row)[:, None])
        return torch.cat(said, 1), kept
