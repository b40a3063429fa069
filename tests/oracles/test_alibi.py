"""The reference of ALiBi against the one in x-transformers, and its slopes against those that the paper prints."""

from typing import Any

import pytest
import torch

from harness import judge
from harness.implementation import Implementation
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


@pytest.mark.parametrize("family", ["normal", "last"])
def test_slopes_of_bloom_in_float32_are_accepted(family: str) -> None:
    """BLOOM takes powers of a base that float32 rounds, so a slope that is a round number comes out a few units beside it."""
    library = pytest.importorskip("transformers.models.bloom.modeling_bloom", reason="transformers is not installed")
    case = alibi.case("sixteen_heads")

    def prepare(case: Any) -> Any:
        slope = library.build_alibi_tensor(torch.ones(1, 2), case.h, torch.float32)[:, :, 1:]
        return lambda query, key: -slope * (query[:, None] - key).abs()

    answer = judge.values(Implementation(alibi, prepare, {}, False), case, family)
    assert (answer.outcome, answer.values["grade"]) == ("ok", "A"), answer.note
