"""The reference of the Hyena operator against NumPy's convolve and Fourier transforms, and against torch's nn.Conv1d."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.spec import Bunch, Case
from harness.specs.hyena_operator import hyena_operator

each_case = pytest.mark.parametrize("name", hyena_operator.cases)
each_family = pytest.mark.parametrize("family", hyena_operator.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = hyena_operator.case(name, torch.float64)
    return case, hyena_operator.inputs(case, family, cotangents=True)


def by_convolve(v: np.ndarray, h: np.ndarray) -> np.ndarray:
    return np.convolve(v, h)[: len(v)]


def by_transforms(v: np.ndarray, h: np.ndarray) -> np.ndarray:
    size = len(v) + len(h) - 1
    return np.fft.ifft(np.fft.fft(v, size) * np.fft.fft(h, size)).real[: len(v)]


@pytest.mark.parametrize("convolve", [by_convolve, by_transforms])
@each_family
@each_case
def test_channel_by_channel_in_numpy(name: str, family: str, convolve: Any, agree: Any) -> None:
    """Order 2 is x_0 * (h conv (x_1 * v) + skip * x_1 * v); each order more puts another gate and filter around it."""
    case, x = drawn(name, family)
    projected, short, bias, filters, skip = (x[name].numpy() for name in ("projected", "short", "short_bias", "filter", "skip"))
    out = np.zeros((case.b, case.d, case.n))
    for row, c in np.ndindex(case.b, case.d):
        blocks = [np.convolve(projected[row, s, c], short[s, c, ::-1])[: case.n] + bias[s, c] for s in range(case.s)]
        v = blocks[-1]
        for i in range(case.f):
            v = blocks[case.s - 2 - i] * v
            v = convolve(v, filters[i, c, : case.n]) + skip[i, c] * v
        out[row, c] = blocks[0] * v
    agree(hyena_operator.reference(x, case).out, torch.from_numpy(out))


@each_family
@each_case
def test_gradients_are_those_of_conv1d(name: str, family: str, agree: Any) -> None:
    """The short filter is torch's own module, left-padded and cropped as in the official code; long ones are its function."""
    case, x = drawn(name, family)

    def theirs(y: dict[str, Tensor]) -> Tensor:
        module = nn.Conv1d(case.s * case.d, case.s * case.d, 3, padding=2, groups=case.s * case.d, dtype=torch.float64)
        weights = {"weight": y["short"].reshape(-1, 1, 3), "bias": y["short_bias"].flatten()}
        mixed = torch.func.functional_call(module, weights, (y["projected"].flatten(1, 2),))[..., : case.n]
        *gates, v = mixed.unflatten(1, (case.s, case.d)).unbind(1)
        for i in range(case.f):
            v = v * gates[case.f - i]
            taps = y["filter"][i, :, : case.n].flip(-1).unsqueeze(1)
            long = nn.functional.conv1d(v, taps, padding=case.n - 1, groups=case.d)[..., : case.n]
            v = long + y["skip"][i].unsqueeze(-1) * v
        return v * gates[0]

    leaves = {name: x[name].clone().requires_grad_() for name in hyena_operator.differentiable(case)}
    found = hyena_operator.reference(leaves, case).out, theirs(leaves)
    agree(*found)
    gradients = [torch.autograd.grad(out, list(leaves.values()), x["out.grad"]) for out in found]
    for our, their in zip(*gradients, strict=True):
        agree(our, their)
