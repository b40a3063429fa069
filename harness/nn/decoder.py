"""A small byte-level decoder into which any mixer is put; it holds everything of a language model but the mixer."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Unsupported


class Decoder(nn.Module):
    """Embedding, `l` pre-norm blocks (mixer, then a GELU feed-forward part, each with its residual), norm, head.

    `mixer(layer)` makes the mixer of a layer, a module with
        forward(x[b n d]) -> y[b n d]                        causal; training and prefill
        step(x[b d], state) -> (y[b d], state)               one token further; state is None at the start
    `positions(start, stop) -> rows[n d]` is added to the embedding where given, as `LearnedPositions` is.
    `block(d, f, mixer)` makes a block where it is not `Block`. A part with a method `start()` gives its own first values.
    """

    def __init__(
        self,
        v: int,
        d: int,
        l: int,
        f: int,
        mixer: Callable[[int], nn.Module],
        positions: nn.Module | None = None,
        block: Callable[[int, int, Any], nn.Module] | None = None,
    ):
        super().__init__()
        self.embedding = nn.Embedding(v, d)
        self.positions = positions
        self.blocks = nn.ModuleList((block or Block)(d, f, mixer(layer)) for layer in range(l))
        self.norm = nn.LayerNorm(d, eps=1e-5)
        self.head = nn.Linear(d, v, bias=False)
        initialize(self)

    def forward(self, ids: Tensor) -> Tensor:
        """ids[b n]:int -> logits[b n v]; position i sees ids up to and including i."""
        x = self.embed(ids, 0)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def embed(self, ids: Tensor, start: int) -> Tensor:
        """ids[b n] at the positions from `start` on -> x[b n d], what goes into the first block."""
        x = self.embedding(ids)
        return x if self.positions is None else x + self.positions(start, start + ids.shape[1])

    def step(self, ids: Tensor, state: tuple[int, list[Any]] | None = None) -> tuple[Tensor, tuple[int, list[Any]]]:
        """ids[b]:int, state -> logits[b v], state: what `forward` says of this position, from the state alone."""
        position, states = state or (0, [None] * len(self.blocks))
        x = self.embed(ids[:, None], position)[:, 0]
        after, blocks = [], cast(Iterable[Any], self.blocks)
        for block, past in zip(blocks, states, strict=True):
            x, past = block.step(x, past)
            after.append(past)
        return self.head(self.norm(x)), (position + 1, after)


class Block(nn.Module):
    """x + mixer(norm1(x)), then x + down(gelu(up(norm2(x)))): GELU in its exact form, with erf."""

    def __init__(self, d: int, f: int, mixer: Any):
        super().__init__()
        self.norm1 = nn.LayerNorm(d, eps=1e-5)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(d, eps=1e-5)
        self.up = nn.Linear(d, f)
        self.down = nn.Linear(f, d)

    def forward(self, x: Tensor) -> Tensor:
        return self._feed(x + self.mixer(self.norm1(x)))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.mixer.step(self.norm1(x), state)
        return self._feed(x + y), state

    def _feed(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LearnedPositions(nn.Module):
    """A table of `t` learned rows: rows `start` to `stop` [n d] for a call; beyond the table it raises Unsupported."""

    def __init__(self, t: int, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(t, d))

    def forward(self, start: int, stop: int) -> Tensor:
        if stop > len(self.weight):
            # Neither clamped nor wrapped: a model that repeats its last row would hide that it cannot go on.
            raise Unsupported(f"learned positions end at {len(self.weight)}")
        return self.weight[start:stop]


def initialize(decoder: Decoder) -> None:
    """Embeddings of spread 0.05, matrices of 1 / sqrt(fan-in), those before a residual smaller with depth; biases zero.

    Then each part with a method `start()` gives itself the first values that this rule would not."""
    depth = (2 * len(decoder.blocks)) ** -0.5
    for name, weight in decoder.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif "norm" in name:
            nn.init.ones_(weight)
        elif name.startswith(("embedding", "positions")):
            nn.init.normal_(weight, std=0.05)
        elif weight.ndim > 1:
            residual = name.endswith(("mixer.o.weight", "down.weight"))
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * (depth if residual else 1.0))
    for part in decoder.modules():
        if callable(start := getattr(part, "start", None)):
            start()
