"""Effective memory: a model that sees so far and no further has influence so far and none further."""

import torch

from harness import catalogue

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
