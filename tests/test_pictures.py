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


def test_what_stands_beside_a_curve_is_dotted_in_its_colour_and_a_band_on_a_logarithmic_axis_ends_above_zero():
    curve = {1: {0: [0.5, 1.5, 4.0]}, 2: {0: [0.1, 0.2, 0.9]}, 4: {0: [0.0, 0.0, 0.0]}}
    (axis,) = pictures.figure(
        {"retnet": curve}, "bits", "bytes", paired=False, log="xy", beside={"retnet": {1: 2.0, 2: 0.5}}
    ).axes
    line, dotted = axis.lines
    assert (dotted.get_linestyle(), dotted.get_color()) == (":", line.get_color())
    assert list(dotted.get_ydata()) == [2.0, 0.5]
    ((band,),) = (part.get_paths() for part in axis.collections)
    assert min(y for x, y in band.vertices if x < 4) > 0
