"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) in torch operations: an online softmax over tiles, recomputed in backward.

No tensor here has n x m elements, except the bias and its gradient where a bias is given.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "N", "memory": "N", "state": "N"}
variants = {"tile_16": {"tile": 16}, "tile_64": {"tile": 64}}


def prepare(case, tile: int = 64):
    if case.slopes or case.blocks or case.documents:
        raise Unsupported("knows a bias and visibility by place only: no ALiBi, blocks or documents")
    first, end = reach(case)
    tiles = []
    for rows in cut(0, case.n, tile):
        # Both bounds grow from query to query, so the first query of a tile sees its first key, and the last its last.
        low, high = int(first[rows][0]), int(end[rows][-1])
        tiles.append((rows, cut(low // tile * tile, high, tile)))
    first, end = first.to(case.device)[:, None], end.to(case.device)[:, None]

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = q.unflatten(1, (case.g, -1)), k.unsqueeze(2), v.unsqueeze(2)
        bias = bias if bias is None else bias.unflatten(0, (case.g, -1))
        return Tiled.apply(q, k, v, bias, first, end, tiles).flatten(1, 2)

    return run


def cut(start: int, stop: int, tile: int) -> list[slice]:
    """Slices of `tile` places that cover start ... stop - 1; the last may reach beyond."""
    return [slice(place, place + tile) for place in range(start, stop, tile)]


def reach(case) -> tuple[Tensor, Tensor]:
    """Each of the n queries sees the keys first ... end - 1; both [n]."""
    here = torch.arange(case.m - case.n, case.m) + 1
    nothing, everything = torch.zeros_like(here), torch.full_like(here, case.m)
    known = {
        "full": (nothing, everything),
        "causal": (nothing, here.clamp(min=0)),
        "prefix": (nothing, here.clamp(min=min(case.prefix, case.m))),
        "sliding_window": ((here - case.window).clamp(min=0), here.clamp(min=0)),
    }
    if case.visibility not in known:
        raise Unsupported(f"knows no visibility {case.visibility!r}")
    return known[case.visibility]


class Tiled(torch.autograd.Function):
    """Attention of q [b g r n d] to k [b g 1 m d] and v [b g 1 m e], r query heads to a key head."""

    @staticmethod
    def forward(ctx, q, k, v, bias, first, end, tiles):
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        log_total = q.new_empty(*q.shape[:-1], 1, dtype=torch.float32)
        for rows, all_columns in tiles:
            top = torch.full_like(log_total[..., rows, :], -torch.inf)
            base, total = torch.zeros_like(top), torch.zeros_like(top)
            mixed = torch.zeros_like(out[..., rows, :], dtype=torch.float32)
            for columns in all_columns:
                score = scores(q, k, bias, first, end, rows, columns)
                higher = torch.maximum(top, score.amax(-1, keepdim=True))
                base = higher.masked_fill(higher == -torch.inf, 0.0)
                weight, kept = torch.exp(score - base), torch.exp(top - base)
                total = kept * total + weight.sum(-1, keepdim=True)
                mixed = kept * mixed + weight @ v[..., columns, :].float()
                top = higher
            out[..., rows, :] = mixed / total.masked_fill(total == 0, 1.0)
            # Where no key is seen: infinite, so that the recomputed weights exp(score - log_total) are 0.
            log_total[..., rows, :] = torch.where(total > 0, base + total.log(), torch.inf)
        ctx.save_for_backward(q, k, v, bias, first, end, out, log_total)
        ctx.tiles = tiles
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        q, k, v, bias, first, end, out, log_total = ctx.saved_tensors
        d_q, d_k, d_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for rows, all_columns in ctx.tiles:
            d_mixed = d_out[..., rows, :].float()
            correction = (d_mixed * out[..., rows, :].float()).sum(-1, keepdim=True)
            for columns in all_columns:
                weight = torch.exp(scores(q, k, bias, first, end, rows, columns) - log_total[..., rows, :])
                d_score = weight * (d_mixed @ v[..., columns, :].float().mT - correction)
                d_v[..., columns, :] += (weight.mT @ d_mixed).sum(2, keepdim=True)
                d_q[..., rows, :] += d_score @ k[..., columns, :].float()
                d_k[..., columns, :] += (d_score.mT @ q[..., rows, :].float()).sum(2, keepdim=True)
                if d_bias is not None:
                    d_bias[..., rows, columns] = d_score.sum(0)
        scale = q.shape[-1] ** -0.5
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return (scale * d_q).to(q.dtype), (scale * d_k).to(k.dtype), d_v.to(v.dtype), d_bias, None, None, None


def scores(q: Tensor, k: Tensor, bias: Tensor | None, first: Tensor, end: Tensor, rows: slice, columns: slice) -> Tensor:
    """One tile of scores in float32, -inf where the key is not seen."""
    score = q[..., rows, :].float() @ k[..., columns, :].float().mT * q.shape[-1] ** -0.5
    if bias is not None:
        score = score + bias[..., rows, columns].float()
    key = torch.arange(columns.start, columns.start + score.shape[-1], device=q.device)
    return score.masked_fill((key < first[rows]) | (key >= end[rows]), -torch.inf)
