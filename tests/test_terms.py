"""On what terms language models enter: how wide they are made, and whose weights they take."""

import pytest

from harness import terms
from harness.cell import Cell


@pytest.mark.parametrize(("wanted", "f"), [(100 + 10 * 24, 24), (100 + 10 * 27, 24), (100 + 10 * 29, 32), (0, 8)])
def test_the_width_is_the_nearest_multiple_and_at_least_one(wanted: int, f: int):
    assert terms.width(lambda f: 100 + 10 * f, wanted) == f


def test_where_no_width_changes_anything_there_is_none():
    assert terms.width(lambda f: 100, 1000) == 0


def test_who_takes_weights_takes_those_that_its_file_names():
    taker = Cell("long-context", "transformer_interpolated", "torch_sdpa", "by_16", seed=3)
    giver = terms.giver_of(taker)
    assert (giver.spec, giver.implementation, giver.variant, giver.seed) == ("transformer_rope", "torch_sdpa", "", 3)
    assert terms.giver_of(giver) == giver
    assert set(terms.digests(taker)) == {"weights_of"}, "other code of the giver is another question"
    assert terms.digests(giver) == {}
