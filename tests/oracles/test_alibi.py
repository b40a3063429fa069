"""The reference of ALiBi against the one in x-transformers, and its slopes against those that the paper prints."""

from typing import Any

import pytest
import torch

from harness.specs.alibi import alibi, slopes

INSTALL = "pip install x-transformers==2.31.10"


@pytest.fixture
def float64_by_default() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", alibi.cases)
def test_bias_is_that_of_x_transformers(name: str, agree: Any, float64_by_default: None) -> None:
    library = pytest.importorskip("x_transformers.x_transformers", reason=f"x-transformers is not installed: {INSTALL}")
    case = alibi.case(name, torch.float64)
    x = alibi.inputs(case)
    theirs = library.AlibiPositionalBias(case.h).forward_custom_pos(x.query.double(), x.key.double())
    agree(alibi.reference(x, case).bias, theirs)


def test_eight_heads_have_the_slopes_of_the_paper(agree: Any) -> None:
    """Section 3: 1/2, 1/4, ... 1/256 for 8 heads; 16 heads have the means of neighbours in between, beginning with 2^-0.5."""
    agree(slopes(8), torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256], dtype=torch.float64))
    agree(slopes(16), torch.tensor([2 ** -(0.5 * i) for i in range(1, 17)], dtype=torch.float64))
