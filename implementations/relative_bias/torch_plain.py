"""T5's relative position bias as T5 computes it: the bucket of each pair by a logarithm in float32, then an embedding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "memory": "N^2"}


def prepare(case):
    one_way = case.buckets // 2 if case.bidirectional else case.buckets
    exact = one_way // 2

    def run(weight: Tensor, query: Tensor, key: Tensor) -> Tensor:
        ahead = key - query[:, None]
        base = (ahead > 0) * one_way if case.bidirectional else 0
        distance = ahead.abs() if case.bidirectional else (-ahead).clamp(min=0)
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(case.distance / exact)
        shared = (exact + (ratio * (one_way - exact)).long()).clamp(max=one_way - 1)
        bucket = base + torch.where(distance < exact, distance, shared)
        return F.embedding(bucket, weight.float()).permute(2, 0, 1).to(case.dtype)

    return run
