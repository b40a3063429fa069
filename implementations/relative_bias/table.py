"""T5's relative position bias as a table: the bucket of every distance is counted out in advance, and looked up.

Buckets are found by walking outwards: a distance enters the next one when its power has overtaken that of the edge.
"""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "memory": "N^2"}


def prepare(case):
    one_way = case.buckets // 2 if case.bidirectional else case.buckets
    ahead = [one_way + place for place in walk(one_way, case.distance, case.far)] if case.bidirectional else [0] * case.far
    behind = walk(one_way, case.distance, case.far)
    table = torch.tensor(ahead[:0:-1] + behind, device=case.device)

    def run(weight: Tensor, query: Tensor, key: Tensor) -> Tensor:
        bucket = table[query[:, None] - key + case.far - 1]
        return weight.float().index_select(0, bucket.flatten()).unflatten(0, bucket.shape).permute(2, 0, 1).to(case.dtype)

    return run


def walk(buckets: int, distance: int, far: int) -> list[int]:
    """The bucket of each distance 0 ... far - 1."""
    exact = buckets // 2
    rest = buckets - exact
    found, at = list(range(exact)), exact
    for n in range(exact, far):
        while at < buckets - 1 and n**rest * exact ** (at + 1 - exact) >= distance ** (at + 1 - exact) * exact**rest:
            at += 1
        found.append(at)
    return found[:far]
