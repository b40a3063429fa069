"""Matrix products and a softmax, all in float32, with every score in memory at once."""

import torch
from torch import Tensor

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "N", "memory": "N^2", "state": "N"}


def prepare(case):
    seen = visible(case)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, slopes: Tensor | None = None, **hiding) -> Tensor:
        # One more axis for the query heads that share a key head.
        q, k, v = q.float().unflatten(1, (case.g, -1)), k.float().unsqueeze(2), v.float().unsqueeze(2)
        score = q @ k.mT * case.d**-0.5
        if bias is not None:
            score = score + bias.float().unflatten(0, (case.g, -1))
        if slopes is not None:
            score = score - slopes.unflatten(0, (case.g, -1))[..., None, None] * distance(case)
        hidden = ~seen_of(seen, case, **hiding).unflatten(1, (case.g, -1))
        # Filled again after the softmax: a row without keys is NaN there, and its gradient too.
        weight = score.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0.0)
        return (weight @ v).flatten(1, 2).to(case.dtype)

    return run


def places(case) -> tuple[Tensor, Tensor]:
    """Where the queries [n 1] and the keys [m] stand; the queries are at the last n of m places."""
    return torch.arange(case.m - case.n, case.m, device=case.device)[:, None], torch.arange(case.m, device=case.device)


def distance(case) -> Tensor:
    query, key = places(case)
    return (query - key).abs()


def visible(case) -> Tensor:
    """Which of m keys each of n queries sees by its place, [n m]."""
    query, key = places(case)
    past = key <= query
    known = {
        "full": torch.ones_like(past),
        "causal": past,
        "prefix": past | (key < case.prefix),
        "sliding_window": past & (query - key < case.window),
        "lambda": past & ((query - key < case.window) | (key < case.sinks)),
    }
    if case.visibility not in known:
        raise Unsupported(f"knows no visibility {case.visibility!r}")
    return known[case.visibility]


def seen_of(seen: Tensor, case, blocks: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
    """What is seen by place, by block and by document: [1 or b, h, n, m]."""
    seen = seen.expand(1, case.h, case.n, case.m)
    if blocks is not None:
        each = blocks.repeat_interleave(case.block, 1)[:, : case.n].repeat_interleave(case.block, 2)[..., : case.m]
        seen = seen & (each > 0)
    if documents is not None:
        # Queries before the first key belong to no document.
        own = torch.nn.functional.pad(documents, (max(0, case.n - case.m), 0), value=-1)[:, -case.n :]
        seen = seen & (own[:, :, None] == documents[:, None, :])[:, None]
    return seen
