"""The reference of attention against torch's own: scaled_dot_product_attention with its gradients, and flex_attention.

Masks are written out key by key here, by the table of visibilities, so that a wrong mask of the spec has nothing to agree with.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from harness.spec import Bunch, Case
from harness.specs.alibi import slopes
from harness.specs.attention import attend, attention, visible

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

each_case = pytest.mark.parametrize("name", attention.cases)
each_family = pytest.mark.parametrize("family", attention.families)


def sees(i: int, j: int, case: Case) -> bool:
    """Whether query i, which stands at place i + m - n, sees key j."""
    place = i + case.m - case.n
    if case.visibility == "full":
        return True
    if case.visibility == "prefix" and j < case.prefix:
        return True
    if case.visibility == "sliding_window":
        return 0 <= place - j <= case.window - 1
    if case.visibility == "lambda" and j >= case.sinks:
        return 0 <= place - j <= case.window - 1
    return j <= place


def mask(case: Case, x: Bunch) -> Tensor:
    """[b h n m], key by key."""
    by_place = torch.tensor([[sees(i, j, case) for j in range(case.m)] for i in range(case.n)])
    shown = by_place.repeat(case.b, case.h, 1, 1)
    past = case.m - case.n
    for i, j in by_place.nonzero().tolist():
        if "blocks" in x:
            shown[:, :, i, j] &= x.blocks[:, i // case.block, j // case.block] == 1
        if "documents" in x:
            same = x.documents[:, i + past] == x.documents[:, j] if i + past >= 0 else torch.zeros(case.b, dtype=torch.bool)
            shown[:, :, i, j] &= same[:, None]
    return shown


def added(case: Case, x: Bunch) -> Tensor:
    """What is added to the scores, [h n m]; zeros stand for nothing."""
    bias = x.get("bias", torch.zeros(case.h, case.n, case.m, dtype=torch.float64))
    if "slopes" in x:
        distance = torch.tensor([[abs(i + case.m - case.n - j) for j in range(case.m)] for i in range(case.n)])
        bias = bias - x.slopes[:, None, None] * distance
    return bias


def doubled(x: Bunch) -> Bunch:
    """With the slopes in float64 too: they are drawn in float32 whatever the case."""
    return Bunch({name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in x.items()})


def sdpa(x: Bunch, case: Case) -> Tensor:
    shown = added(case, x).expand(case.b, -1, -1, -1).masked_fill(~mask(case, x), -torch.inf)
    return F.scaled_dot_product_attention(x.q, x.k, x.v, attn_mask=shown, enable_gqa=case.h != case.g)


# The scores of `sunk` are -20,000: float64 itself leaves 6e-10 in its gradients. Its values are compared with flex_attention's.
@pytest.mark.parametrize("family", [family for family in attention.families if family != "sunk"])
@each_case
def test_values_and_gradients_are_those_of_sdpa(name: str, family: str, agree: Any) -> None:
    case = attention.case(name, torch.float64)
    x = doubled(attention.inputs(case, family, cotangents=True))
    leaves = Bunch({name: x[name].requires_grad_() for name in attention.differentiable(case)})
    ours, theirs = attention.reference(leaves, case).out, sdpa(leaves, case)
    agree(ours, theirs)
    gradients = [torch.autograd.grad(out, list(leaves.values()), x["out.grad"]) for out in (ours, theirs)]
    for our, their in zip(*gradients, strict=True):
        agree(our, their)


@each_family
@each_case
def test_values_are_those_of_flex_attention(name: str, family: str, agree: Any) -> None:
    case = attention.case(name, torch.float64)
    x = doubled(attention.inputs(case, family))
    bias, shown = added(case, x), mask(case, x)
    blocks = create_block_mask(lambda b, h, i, j: shown[b, h, i, j], case.b, case.h, case.n, case.m, device="cpu")
    theirs = flex_attention(x.q, x.k, x.v, lambda score, b, h, i, j: score + bias[h, i, j], blocks, enable_gqa=case.h != case.g)
    agree(attention.reference(x, case).out, theirs)


def test_alibi_is_a_bias(agree: Any) -> None:
    """Together with the spec `alibi`: its slopes times the distance between places, as a score modification of flex_attention."""
    case = attention.case("longer_past", torch.float64)
    x, slope, past = attention.inputs(case), slopes(case.h), case.m - case.n
    distance = torch.tensor([[abs(i + past - j) for j in range(case.m)] for i in range(case.n)])
    ours = attend(x.q, x.k, x.v, -slope[:, None, None] * distance, visible(case.n, case.m, "causal"))
    blocks = create_block_mask(lambda b, h, i, j: j <= i + past, None, None, case.n, case.m, device="cpu")
    theirs = flex_attention(x.q, x.k, x.v, lambda score, b, h, i, j: score - slope[h] * (i + past - j), blocks, enable_gqa=True)
    agree(ours, theirs)
