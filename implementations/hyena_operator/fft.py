"""The Hyena operator with long convolutions by fast Fourier transforms of twice the length, in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
grows = {"time": "N log N", "memory": "N"}


def prepare(case):
    size = 2 * case.n  # nothing wraps around

    def run(projected: Tensor, short: Tensor, short_bias: Tensor, filter: Tensor, skip: Tensor) -> Tensor:
        x, skip = F.pad(projected.float().flatten(1, 2), (2, 0)), skip.float()
        x = F.conv1d(x, short.float().flatten(0, 1).unsqueeze(1), short_bias.float().flatten(), groups=case.s * case.d)
        *gates, v = x.unflatten(1, (case.s, case.d)).unbind(1)
        spectrum = torch.fft.rfft(filter[..., : case.n].float(), size)
        for i, gate in enumerate(reversed(gates[1:])):
            v = gate * v
            v = torch.fft.irfft(torch.fft.rfft(v, size) * spectrum[i], size)[..., : case.n] + skip[i, :, None] * v
        return (gates[0] * v).to(case.dtype)

    return run
