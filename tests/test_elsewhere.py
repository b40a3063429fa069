"""The rules of others, as they stand in their sources."""

import torch

from harness import elsewhere


def test_nan_is_accepted_by_no_rule():
    truth = {"out": torch.ones(3, dtype=torch.float64)}
    nan, plain = {"out": torch.full((3,), torch.nan)}, {"out": torch.ones(3)}
    assert not any(rule(nan, truth, plain) for rule in elsewhere.RULES.values())
    assert all(rule(plain, truth, plain) for rule in elsewhere.RULES.values())
