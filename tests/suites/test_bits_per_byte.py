"""Bits per byte under ever longer contexts: the same bytes at each, right values for models known in closed form."""

import math
from pathlib import Path

import pytest
import torch

from harness import Unsupported, catalogue

bpb = catalogue.load(Path(__file__).parents[2] / "suites" / "long_context" / "bits_per_byte.py")
DOCUMENTS = [bytes(range(256)) * 4, b"short", bytes(range(255, -1, -1)) * 8]


def uniform(ids):
    return torch.zeros(*ids.shape, 256)


def test_a_model_that_knows_nothing_takes_eight_bits_everywhere():
    bits = bpb.measure(uniform, DOCUMENTS, [16, 64, 256], scored=8, count=10).bits
    assert list(bits) == [16, 64, 256]
    assert all(len(samples) == 10 and samples == pytest.approx([8.0] * 10) for samples in bits.values())
    assert bpb.horizon(bits) == 256


def test_every_context_is_scored_on_the_same_bytes():
    seen = []

    def spy(ids):
        seen.append(ids)
        return uniform(ids)

    bpb.measure(spy, DOCUMENTS, [16, 64], scored=8, count=10)
    short, long = seen
    assert short.shape == (10, 16)
    assert long.shape == (10, 64)
    assert torch.equal(short, long[:, -16:])


def test_the_farthest_context_is_asked_in_every_fourth_window_that_reaches_it():
    seen = []

    def spy(ids):
        seen.append(ids)
        return uniform(ids)

    bpb.measure(spy, DOCUMENTS, [64], scored=8, count=24)
    found = bpb.further(spy, DOCUMENTS, longest=64, far=1000, scored=8, count=24)
    places = bpb.ends(DOCUMENTS, 64, 24)
    reach = [i for i, (_, end) in enumerate(places) if end >= 1000]
    assert 4 < len(reach) < 24
    assert found == {"context": 1000, "windows": reach[::4], "bits": pytest.approx([8.0] * len(reach[::4]))}
    assert torch.equal(torch.cat(seen[1:])[:, -64:], seen[0][reach[::4]]), "the windows do not end where the others do"


def test_why_the_farthest_context_is_not_asked_is_said():
    def ends(ids):
        raise Unsupported("positions end")

    assert bpb.further(ends, DOCUMENTS, 64, 1000, 8, 24)["bits"] == "positions end"
    said = bpb.further(uniform, DOCUMENTS, 64, 5000, 8, 24)["bits"]
    assert said == "no window has 5000 bytes of its document before its end"


def counting(ids):
    """Foretells the next of bytes that count up, with 3 bits for the right one; wrong on those that count down."""
    logits = torch.full((*ids.shape, 256), -math.log(255 / 7))
    return logits.scatter(-1, ((ids + 1) % 256)[..., None], 0.0)


def test_a_model_right_with_probability_an_eighth_takes_three_bits():
    bits = bpb.measure(counting, DOCUMENTS[:1], [16, 64], scored=8, count=6).bits
    assert bits[64] == pytest.approx([3.0] * 6, abs=1e-5)


def test_every_byte_of_the_longest_window_is_scored_by_its_position():
    def knows_after(ids):
        late = (torch.arange(ids.shape[1]) >= 32)[:, None]
        return torch.where(late, counting(ids), uniform(ids))

    found = bpb.measure(knows_after, DOCUMENTS[:1], [100, 20], scored=8, count=6, positions=True).by_position
    assert list(found) == [16, 32, 64, 100]
    assert found[32] == pytest.approx([8.0] * 6)
    assert found[64] == found[100] == pytest.approx([3.0] * 6, abs=1e-5)


def test_positions_are_those_of_the_longest_context_that_is_supported():
    def short(ids):
        if ids.shape[1] > 32:
            raise Unsupported("positions end at 32")
        return uniform(ids)

    assert list(bpb.measure(short, DOCUMENTS, [32, 64], scored=8, count=6, positions=True).by_position) == [16, 32]


def test_late_failures_count_in_full():
    def fails_after(ids):
        late = (torch.arange(ids.shape[1]) >= 60)[:, None]
        return torch.where(late, uniform(ids), counting(ids))

    bits = bpb.measure(fails_after, DOCUMENTS[:1], [16, 64, 128], scored=8, count=6).bits
    assert bpb.mean(bits[16]) == pytest.approx(3.0, abs=1e-4)
    assert bpb.mean(bits[64]) == pytest.approx(5.5, abs=1e-4)
    assert bpb.mean(bits[128]) == pytest.approx(8.0, abs=1e-4)
    assert bpb.horizon(bits) == 16


def test_a_context_that_is_unsupported_says_why_and_ends_the_horizon():
    def short_table(ids):
        if ids.shape[1] > 16:
            raise Unsupported("learned positions end at 16")
        return uniform(ids)

    bits = bpb.measure(short_table, DOCUMENTS, [16, 64], scored=8, count=4).bits
    assert bits[64] == "learned positions end at 16"
    assert bpb.horizon(bits) == 16


def test_the_horizon_ends_at_the_first_context_that_leaves_the_tolerance():
    assert bpb.horizon({1: [2.0], 2: [2.09], 4: [2.2], 8: [2.0]}) == 2
    assert bpb.horizon({1: [2.0], 2: [math.nan]}) == 1
    assert bpb.horizon({1: [2.0], 2: [1.0]}) == 2


def test_windows_are_spread_over_all_documents_that_are_long_enough():
    places = bpb.ends(DOCUMENTS, 1000, 107)
    assert {document for document, _ in places} == {0, 2}
    assert all(1000 <= end < len(DOCUMENTS[document]) for document, end in places)
    assert len(set(places)) == 107
    with pytest.raises(ValueError, match="longer than 9999 bytes; the longest has 2048"):
        bpb.ends(DOCUMENTS, 9999, 1)
