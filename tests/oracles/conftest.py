"""What the oracles share: how near a reference must be to published code, and how such code is made to compute in float64."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def agree() -> Callable[[Tensor, Tensor], None]:
    """`agree(reference, oracle)`: both in float64, equal to 1e-10 of the largest element (of 1, where all are smaller)."""

    def check(reference: Tensor, oracle: Tensor) -> None:
        assert reference.dtype == oracle.dtype == torch.float64
        assert reference.numel() > 0
        torch.testing.assert_close(reference, oracle, rtol=0, atol=1e-10 * max(1.0, float(oracle.detach().abs().max())))

    return check


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """`in_float64(module)`: until the test ends, what the module casts to float32 is cast to float64.

    Many libraries take float64, compute in float32 and give float64 back; compared to 1e-7 an oracle proves little."""

    def patch(module: ModuleType) -> None:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        monkeypatch.setattr(module, "torch", TorchInFloat64())

    return patch


class TorchInFloat64:
    """The module torch, but its float32 is float64."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)
