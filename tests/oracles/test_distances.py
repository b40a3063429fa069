"""The models that tell other distances than the true ones, against each query turned by each told distance, key by key."""

import pytest
import torch

from harness import catalogue
from harness.specs import _distances
from harness.specs.rotary import rotary


def key_by_key(q, k, distance):
    """Products [b h n m] where each query [b h n d] is turned by its distance [n m] to each key, and keys are not turned."""
    turned = rotary(q.repeat_interleave(k.shape[2], dim=2), distance.flatten()).unflatten(2, distance.shape)
    return (turned * k[:, :, None]).sum(-1)


def of_lm_infinite(case, query, key):
    return (query - key).clamp(max=case.t)


def of_streaming(case, query, key):
    """Places in a cache of t: the first `sinks`, then the newest at its end."""
    in_cache = torch.where(key < case.sinks, key, key - (query - case.t + 1).clamp(min=0))
    return query.clamp(max=case.t - 1) - in_cache


@pytest.mark.parametrize("case", ["plain", "long", "one_sink", "all_within"])
@pytest.mark.parametrize(("spec", "told"), [("transformer_lm_infinite", of_lm_infinite), ("transformer_streaming", of_streaming)])
def test_a_model_scores_as_if_each_query_were_turned_by_the_distance_it_is_told(spec, told, case, monkeypatch):
    it = catalogue.load_spec(spec)
    case = it.case(case, torch.float64)
    x, place = it.inputs(case), torch.arange(case.n)
    expected = it.reference(x, case)["logits"]
    distance = told(case, place[:, None], place)
    monkeypatch.setattr(_distances, "at", lambda q, k, *places: key_by_key(q, k, distance))
    assert (it.reference(x, case)["logits"] - expected).abs().max() < 1e-12, f"{spec} tells other distances in case {case.name}"
