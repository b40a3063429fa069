"""AFT as it is printed, in torch and float32: one softmax over keys for each query and channel."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "N", "memory": "N^2", "state": "N"}


def prepare(case):
    query = torch.arange(case.m - case.n, case.m, device=case.device)[:, None]
    distance = query - torch.arange(case.m, device=case.device)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        score = k.float().mT.contiguous().unsqueeze(1)  # [b 1 d m]
        if bias is not None:
            near = distance.abs() < case.window if case.window else torch.ones_like(distance, dtype=torch.bool)
            score = score + torch.where(near, bias.float(), 0.0).unsqueeze(1)
        score = score.expand(-1, case.n, -1, -1)
        if case.causal:
            score = score.masked_fill((distance < 0).unsqueeze(1), -torch.inf)
        mean = (score.softmax(-1) * v.float().mT.contiguous().unsqueeze(1)).sum(-1)
        return (torch.sigmoid(q.float()) * mean).to(case.dtype)

    return run
