"""The reference of T5's relative bias against its formula in plain Python, pair by pair, and against x-transformers.

Both take a logarithm where the reference compares whole numbers; x-transformers, like transformers, takes it in float32.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch

from harness.specs.relative_bias import relative_bias

INSTALL = "pip install x-transformers==2.31.10"


def bucket(query: int, key: int, buckets: int, bidirectional: bool, distance: int) -> int:
    """The bucket of one pair, as the paper's code has it."""
    ahead, base = key - query, 0
    if bidirectional:
        buckets //= 2
        base = buckets if ahead > 0 else 0
        n = abs(ahead)
    else:
        n = max(-ahead, 0)
    exact = buckets // 2
    if n < exact:
        return base + n
    # A billionth, for edges where the logarithm of a whole number is itself a whole number of steps.
    step = math.floor(math.log(n / exact) / math.log(distance / exact) * (buckets - exact) + 1e-9)
    return base + min(buckets - 1, exact + step)


@pytest.mark.parametrize("family", relative_bias.families)
@pytest.mark.parametrize("name", relative_bias.cases)
def test_a_loop_over_pairs(name: str, family: str, agree: Any) -> None:
    case = relative_bias.case(name, torch.float64)
    x = relative_bias.inputs(case, family, cotangents=True)
    numbers = [[bucket(i, j, case.buckets, case.bidirectional, case.distance) for j in x.key.tolist()] for i in x.query.tolist()]
    weight = x.weight.requires_grad_()
    bias = relative_bias.reference(x, case).bias
    rows = weight.detach().tolist()
    agree(bias, torch.tensor([[[rows[k][h] for k in row] for row in numbers] for h in range(case.h)], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(bias, weight, x["bias.grad"])
    counted = np.zeros((case.buckets, case.h))
    np.add.at(counted, np.array(numbers), x["bias.grad"].permute(1, 2, 0).numpy())
    agree(gradient, torch.from_numpy(counted))


@pytest.mark.parametrize("name", relative_bias.cases)
def test_x_transformers_has_the_same_buckets(name: str, agree: Any) -> None:
    """At every distance, in both directions: its float32 logarithm never falls on the other side of an edge."""
    library = pytest.importorskip("x_transformers.x_transformers", reason=f"x-transformers is not installed: {INSTALL}")
    case = relative_bias.case(name, torch.float64)
    weight = torch.arange(case.buckets, dtype=torch.float64)[:, None]
    place, options = torch.arange(case.far), {"bidirectional": case.bidirectional, "distance": case.distance}
    for key in (place[:1], place[-1:]):
        theirs = library.RelativePositionBias._relative_position_bucket(
            key - place[:, None], not case.bidirectional, case.buckets, case.distance
        )
        agree(relative_bias(weight, place, key, **options)[0], theirs.double())
