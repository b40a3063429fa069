"""Trained weights come from the cache when all that they are made of is the same, and only then."""

from pathlib import Path

import pytest
import torch

from harness import weights


def test_the_same_making_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    calls = []

    def train() -> dict:
        calls.append(1)
        return {"weights": {"w": torch.arange(3.0)}, "history": [1.0, 0.5]}

    first, kept = weights.trained({"seed": 0, "code": "a"}, train)
    again, kept_again = weights.trained({"code": "a", "seed": 0}, train)
    assert (kept, kept_again, len(calls)) == (False, True, 1)
    assert torch.equal(first["weights"]["w"], again["weights"]["w"])
    assert weights.trained({"seed": 1, "code": "a"}, train)[1] is False
    assert not list(tmp_path.rglob("*.part"))
