"""Additive attention as it is printed, in torch and float32, with the annotations projected once for all queries."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    key = torch.arange(case.m, device=case.device)

    def run(
        s: Tensor, h: Tensor, last: Tensor, query_weight: Tensor, key_weight: Tensor, score_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        s, h, query_weight, key_weight, score_weight = (x.float() for x in (s, h, query_weight, key_weight, score_weight))
        query, projected = s @ query_weight.T, h @ key_weight.T
        score = torch.tanh(query.unsqueeze(2) + projected.unsqueeze(1)) @ score_weight
        weight = score.masked_fill(key > last[:, None, None], -torch.inf).softmax(-1)
        return (weight @ h).to(case.dtype), weight.to(case.dtype)

    return run
