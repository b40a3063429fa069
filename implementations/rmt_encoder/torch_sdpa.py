"""RMT around an encoder, on torch's fused scaled_dot_product_attention: one segment after another."""

import torch
from torch import Tensor, nn

from harness.nn.decoder import Block, initialize
from harness.nn.full_attention import FullRotaryAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return RmtEncoder(case.v, case.d, case.l, case.f, case.h, case.m, case.t // 4)


class RmtEncoder(nn.Module):
    """An encoder that reads segments of `s` tokens, and hands `m` memory vectors on from each to the next."""

    def __init__(self, v: int, d: int, l: int, f: int, h: int, m: int, s: int):
        super().__init__()
        self.s = s
        self.embedding = nn.Embedding(v, d)
        self.blocks = nn.ModuleList(Block(d, f, FullRotaryAttention(d, h)) for _ in range(l))
        self.norm = nn.LayerNorm(d, eps=1e-5)
        self.head = nn.Linear(d, v, bias=False)
        self.memory = nn.Embedding(m, d)
        self.special = nn.ParameterDict({name: torch.empty(d) for name in ("cls", "sep")})
        initialize(self)
        for vectors in (self.memory.weight, *self.special.values()):
            nn.init.normal_(vectors, std=0.05)  # the spread of embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """ids[b n]:int -> logits[b v]: what the CLS of the last segment says."""
        memory = self.memory.weight.expand(len(ids), -1, -1)
        first = ids.shape[1] % self.s or self.s
        for segment in (ids[:, :first], *ids[:, first:].split(self.s, 1)):
            if segment.shape[1]:
                said, memory = self._read(segment, memory)
        return self.head(said)

    def _read(self, ids: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """ids[b s], memory[b m d] -> what is said at CLS [b d], the memory after it [b m d]."""
        cls, sep = (self.special[name].expand(len(ids), 1, -1) for name in ("cls", "sep"))
        x = torch.cat([cls, memory, sep, self.embedding(ids), sep], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, : 1 + memory.shape[1]])
        return x[:, 0], x[:, 1:]
