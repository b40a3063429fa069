"""HAT on torch's fused scaled_dot_product_attention: full segments are one batch, a short last one goes beside it."""

import torch
from torch import Tensor, nn

from harness import Unsupported
from harness.nn.decoder import Block, initialize
from harness.nn.full_attention import FullAttention, FullRotaryAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Hat(case.v, case.d, case.l, case.f, case.h, case.g, case.t // case.g, case.layout)


class Hat(nn.Module):
    """An encoder of segments of `s` tokens, at most `g`; a letter of the layout for each block, S within segments, D across."""

    def __init__(self, v: int, d: int, l: int, f: int, h: int, g: int, s: int, layout: str):
        super().__init__()
        self.s, self.layout = s, [layout[i % len(layout)] for i in range(l)]
        kinds = {"S": FullRotaryAttention, "D": FullAttention}
        self.embedding = nn.Embedding(v, d)
        self.blocks = nn.ModuleList(Block(d, f, kinds[letter](d, h)) for letter in self.layout)
        self.norm = nn.LayerNorm(d, eps=1e-5)
        self.head = nn.Linear(d, v, bias=False)
        self.segments = nn.Embedding(g, d)
        self.special = nn.ParameterDict({"cls": torch.empty(d)})
        initialize(self)
        for vectors in (self.segments.weight, self.special["cls"]):
            nn.init.normal_(vectors, std=0.05)  # the spread of embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """ids[b n]:int -> logits[b v]; beyond the table of segments it raises Unsupported."""
        b, n = ids.shape
        count = -(-n // self.s)
        if "D" in self.layout and count > self.segments.num_embeddings:
            raise Unsupported(f"learned positions of segments end at {self.segments.num_embeddings} segments of {self.s} tokens")
        full, last = ids.split([n - n % self.s, n % self.s], 1)
        parts = [part for part in (full.reshape(b, -1, self.s), last[:, None]) if part.numel()]
        x = [torch.cat([self.special["cls"].expand(*part.shape[:2], 1, -1), self.embedding(part)], 2) for part in parts]
        for letter, block in zip(self.layout, self.blocks, strict=True):
            if letter == "S":
                x = [block(rows.flatten(0, 1)).view_as(rows) for rows in x]
            else:
                said = block(torch.cat([rows[:, :, 0] for rows in x], 1) + self.segments.weight[:count])
                said = said.split([rows.shape[1] for rows in x], 1)
                x = [torch.cat([cls[:, :, None], rows[:, :, 1:]], 2) for cls, rows in zip(said, x, strict=True)]
        return self.head(self.norm(torch.cat([rows[:, :, 0] for rows in x], 1)).amax(1))
