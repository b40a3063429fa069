"""Effective memory: a model that sees so far and no further has influence so far and none further."""

from functools import partial

import pytest
import torch

from harness import catalogue
from harness.specs.alibi import alibi
from harness.specs.hyena_lm import filters
from harness.specs.retention import retention, retnet_decay
from harness.specs.wkv import wkv

suite = catalogue.load(catalogue.find("suite", "long-context").path)
TEXT = [bytes(torch.randint(32, 120, (400,), generator=torch.Generator().manual_seed(0)).tolist())]


def seeing(*back: int):
    """A model whose answer depends on the bytes that lie so far back."""

    def model(ids):
        logits = torch.zeros(*ids.shape, 256)
        for k in back:
            logits[:, k:] += torch.nn.functional.one_hot(ids[:, : ids.shape[1] - k], 256) * 3.0
        return logits

    return model


def test_influence_is_where_the_model_looks_and_nowhere_else():
    found = suite.extrapolation.effective_memory.influence(seeing(1, 8), TEXT, 64, 6, seed=0)
    assert list(found) == [1, 2, 4, 8, 16, 32]
    for k, bits in found.items():
        assert len(bits) == 6
        assert all(b > 0.1 for b in bits) if k in (1, 8) else max(map(abs, bits)) < 1e-12, f"influence {bits} at {k}"


def test_the_same_seed_asks_the_same():
    once, again = (suite.extrapolation.effective_memory.influence(seeing(2), TEXT, 32, 3, seed=5) for _ in range(2))
    assert once == again


def decay(name: str, far: int, weights=None, **sizes: int) -> list[float]:
    """The analytic decay of a spec from 0 to `far`."""
    spec = catalogue.load_spec(name)
    return spec.decay(torch.arange(far, dtype=torch.float64), spec.case("plain").resized(sizes), weights or {}).tolist()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("transformer_window", {"t": 12}),
        ("transformer_lm_infinite", {"t": 6, "sinks": 1}),
        ("transformer_streaming", {"t": 7, "sinks": 1}),
    ],
)
def test_a_reach_is_as_far_as_the_reference_sees(name: str, sizes: dict[str, int]):
    spec = catalogue.load_spec(name)
    case = spec.case("plain").resized({"n": 20, "l": 2, "b": 1} | sizes)
    x = spec.inputs(case.resized({}, dtype=torch.float64))
    said = spec.reference(x, case).logits[0, -1]
    for k, share in enumerate(decay(name, 18, **case.values)):
        other = x.ids.clone()
        other[0, -1 - k] = (other[0, -1 - k] + 1) % case.v
        differs = bool((spec.reference({**x, "ids": other}, case).logits[0, -1] != said).any())
        assert differs == (share == 1), f"{k} tokens back"


def test_retnets_decay_is_what_is_left_of_a_state():
    q = k = torch.zeros(1, 4, 9, 1, dtype=torch.float64)
    _, state = retention(q, k, k, torch.ones(1, 4, 1, 1, dtype=torch.float64), retnet_decay(4))
    assert decay("retnet", 10, h=4)[9] == pytest.approx(state.max().item())


def test_rwkvs_decay_is_what_is_left_of_the_weight_of_the_past():
    learned = {f"blocks.{i}.mixer.decay": torch.tensor([-2.0, -1.0 - i], dtype=torch.float64) for i in range(3)}
    nobody, past = torch.full((1, 5, 2), -1e30, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    left = [wkv(nobody, 0 * nobody, speed, past[0], past, past)[2].exp().max().item() for speed in learned.values()]
    assert decay("rwkv4", 6, learned, l=3)[5] == pytest.approx(max(left))


def test_alibis_decay_is_the_weight_of_a_token_beside_an_equal_one():
    place = torch.arange(8)
    weights = alibi(place, place, h=6).exp()
    assert decay("transformer_alibi", 8, h=6) == pytest.approx(weights[:, 7].amax(0).flip(0).tolist())


def test_hyenas_decay_is_that_of_its_slowest_filter():
    def ones(x, layer, parameters, name):
        return torch.ones(len(x), 3, dtype=torch.float64)

    taps = filters(9, 5, partial(ones, parameters={"filter.frequency": torch.ones(())}, name=""))
    assert decay("hyena_lm", 9, t=5, d=3) == pytest.approx(taps.amax(0).tolist())


def test_what_is_expected_of_a_byte_goes_with_the_square_of_what_is_left():
    assert suite.extrapolation.effective_memory.expected(3.0, {1: 0.5, 2: 0.25, 4: 0.0}) == {1: 3.0, 2: 0.75, 4: 0.0}
