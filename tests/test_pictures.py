"""Curves of language models: the bands, and which of them share a panel."""

import pytest

from harness import pictures


def test_the_band_of_a_picture_is_that_of_the_change_and_knows_of_seeds():
    first, later = [1.0, 5.0, 3.0, 7.0], [1.1, 5.1, 3.2, 7.1]
    curve = {32: {0: first}, 512: {0: later}}
    widths = pictures._widths
    assert widths(curve, paired=True)[1] < 0.1 < widths(curve, paired=False)[1]
    of_seeds = {32: {0: first, 1: first}, 512: {0: later, 1: [x + 1 for x in later]}}
    assert pictures._line(of_seeds)[1] == pytest.approx([4.0, 4.625])
    assert widths(of_seeds, paired=True)[1] > 1, "two seeds that differ by a bit say little"
    assert widths({32: {0: [1.0]}}, paired=False) == [0.0]
