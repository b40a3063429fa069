"""The rules by which others accept a kernel, restated from their sources: what do they let through that ours does not?

    allclose 1e-2          KernelBench, BackendBench: |got - right| <= 1e-2 + 1e-2 |right|, in every dtype
    assert_close           tritonbench: torch.testing.assert_close with the defaults of the dtype
    twice the plain error  flash-attention: the largest error is at most twice that of plain code in the same dtype

They are applied to gradients as to outputs, though only flash-attention asks gradients at all; and the right answer is the
truth in float64, as the dtype stores it, which is kinder to nobody.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Named = Mapping[str, Tensor]


def allclose(got: Named, truth: Named, plain: Named) -> bool:
    return all(torch.allclose(got[name], truth[name].to(got[name].dtype), rtol=1e-2, atol=1e-2) for name in got)


def assert_close(got: Named, truth: Named, plain: Named) -> bool:
    try:
        for name in got:
            torch.testing.assert_close(got[name], truth[name].to(got[name].dtype))
    except AssertionError:
        return False
    return True


def twice_the_plain_error(got: Named, truth: Named, plain: Named) -> bool:
    return all(_off(got[name], truth[name]) <= 2 * _off(plain[name], truth[name]) for name in got)


def _off(got: Tensor, truth: Tensor) -> float:
    """The largest error; infinite if what came is not finite where it should be."""
    error = torch.where(got == truth, 0.0, (got.double() - truth).abs())
    return float(error.nan_to_num(nan=torch.inf).max()) if error.numel() else 0.0


RULES: dict[str, Callable[[Named, Named, Named], bool]] = {
    "allclose 1e-2": allclose,
    "assert_close": assert_close,
    "twice the plain error": twice_the_plain_error,
}
