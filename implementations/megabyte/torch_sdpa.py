"""MEGABYTE on torch's fused scaled_dot_product_attention: the patches of a batch are the rows of one batch of the local model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Block, initialize
from harness.nn.rotary_attention import RotaryAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Megabyte(case.v, case.d, case.l, case.f, case.h, case.p, case.local)


class Megabyte(nn.Module):
    """A global model of `l - local` blocks over patches of `p` bytes, and a local one of `local` blocks within each patch."""

    def __init__(self, v: int, d: int, l: int, f: int, h: int, p: int, local: int):
        super().__init__()
        self.p, self.globally = p, l - local
        self.patches = Patches(v, d, p)
        self.bytes = Pad(d)
        self.embedding = nn.Embedding(v, d)
        self.blocks = nn.ModuleList(Block(d, f, RotaryAttention(d, h)) for _ in range(l))
        self.norm = nn.LayerNorm(d, eps=1e-5)
        initialize(self)

    def forward(self, ids: Tensor) -> Tensor:
        """ids[b n]:int -> logits[b n v]; position i sees ids up to and including i, and foretells i + 1."""
        (b, n), p = ids.shape, self.p
        patches = F.pad(ids, (0, p - n % p)).unflatten(1, (-1, p))  # the last one is not whole, and heard by none
        x = torch.cat([self.patches.pad.expand(b, 1, -1), self.patches(patches[:, :-1])], 1)
        heard = self.patches.heard(self._through(self.blocks[: self.globally], x))
        before = self.embedding(patches[:, :, :-1])
        x = torch.cat([self.bytes.pad.expand(b, before.shape[1], 1, -1), before], 2) + heard
        x = self._through(self.blocks[self.globally :], x.flatten(0, 1)).reshape(b, -1, x.shape[-1])
        return self._logits(x[:, 1 : n + 1])

    def _through(self, blocks: Any, x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)

    def step(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """ids[b], state -> logits[b v], state: what attention keeps of patches and of this patch, what this patch hears, its
        bytes. The global model makes one step for each patch, when its last byte is known."""
        if state is None:
            start = self.patches.pad.expand(len(ids), -1)
            _, state = self._first_of_patch(start, [None] * self.globally)
        of_patches, of_bytes, heard, seen = state
        seen = torch.cat([seen, ids[:, None]], 1)
        if seen.shape[1] == self.p:
            x, state = self._first_of_patch(self.patches(seen), of_patches)
        else:
            x = self.embedding(ids) + heard[:, seen.shape[1]]
            x, of_bytes = self._steps(self.blocks[self.globally :], x, of_bytes)
            state = of_patches, of_bytes, heard, seen
        return self._logits(x), state

    def _first_of_patch(self, patch: Tensor, of_patches: list[Any]) -> tuple[Tensor, Any]:
        """The patch before [b d], what attention keeps of those before it -> what is said before the first byte [b d], state."""
        x, of_patches = self._steps(self.blocks[: self.globally], patch, of_patches)
        heard = self.patches.heard(x)
        x = self.bytes.pad + heard[:, 0]
        x, of_bytes = self._steps(self.blocks[self.globally :], x, [None] * (len(self.blocks) - self.globally))
        return x, (of_patches, of_bytes, heard, torch.empty(len(x), 0, dtype=torch.int64, device=x.device))

    def _steps(self, blocks: Any, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        after = []
        for block, past in zip(blocks, states, strict=True):
            x, past = block.step(x, past)
            after.append(past)
        return x, after


class Pad(nn.Module):
    """A learned vector that stands before the first."""

    def __init__(self, d: int):
        super().__init__()
        self.pad = nn.Parameter(torch.empty(d))

    def start(self) -> None:
        nn.init.normal_(self.pad, std=0.05)


class Patches(Pad):
    """Patches of `p` bytes, whose embeddings of d / p numbers stand side by side; and what their bytes hear of them."""

    def __init__(self, v: int, d: int, p: int):
        super().__init__(d)
        self.p = p
        self.embedding = nn.Embedding(v, d // p)
        self.norm = nn.LayerNorm(d, eps=1e-5)
        self.to_bytes = nn.Linear(d // p, d, bias=False)

    def start(self) -> None:
        super().start()
        nn.init.normal_(self.embedding.weight, std=0.05)

    def forward(self, ids: Tensor) -> Tensor:
        """ids[... p] -> [... d]."""
        return self.embedding(ids).flatten(-2)

    def heard(self, x: Tensor) -> Tensor:
        """What the global model says of patches [... d] -> what each byte of the next hears [... p d]."""
        return self.to_bytes(self.norm(x).unflatten(-1, (self.p, -1)))
