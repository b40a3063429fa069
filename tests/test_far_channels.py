"""AFT by matrix products: channels whose exponents lie too far apart for a product stand beside others in one call."""

import pytest
import torch

from harness import catalogue, compare, rounding
from harness.cell import Cell
from harness.implementation import Implementation
from harness.spec import Bunch

SPEC = catalogue.load_spec("aft")


@pytest.mark.parametrize("name", ["causal_simple", "longer_past", "local"])
@pytest.mark.parametrize("apart", [75, 120])  # as far as products reach; farther
def test_each_channel_is_answered_in_its_own_way(name: str, apart: int):
    case = SPEC.case(name, torch.float32)
    x, wrt = SPEC.inputs(case, "normal", cotangents=True), list(SPEC.differentiable(case))
    channel, key = torch.arange(case.d), torch.arange(case.m)
    x = Bunch({**x, "k": x.k + apart * (channel % 2) * (key[:, None] >= case.m // 2)})
    both = rounding.with_gradients(lambda of: dict(SPEC.reference(Bunch(of), case)), wrt)
    truth, budget = rounding.truth_and_budget(both, dict(x), torch.float32, seed=0)
    found = Implementation.of(Cell("", "aft", "matrix_products", dtype="float32")).outputs_and_gradients(x, case, wrt)
    assert {of for of in found if compare.score(found[of], truth[of], budget[of]) > 1} == set()
