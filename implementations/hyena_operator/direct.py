"""The Hyena operator with long convolutions as the sums they are, by torch's conv1d, in float32."""

import torch.nn.functional as F
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
grows = {"time": "N^2", "memory": "N^2"}  # forward is linear in memory; backward, torch's conv1d unfolds its input


def prepare(case):
    def run(projected: Tensor, short: Tensor, short_bias: Tensor, filter: Tensor, skip: Tensor) -> Tensor:
        x, skip = F.pad(projected.float().flatten(1, 2), (2, 0)), skip.float()
        x = F.conv1d(x, short.float().flatten(0, 1).unsqueeze(1), short_bias.float().flatten(), groups=case.s * case.d)
        *gates, v = x.unflatten(1, (case.s, case.d)).unbind(1)
        # conv1d correlates: the first tap goes last.
        taps = filter[..., : case.n].float().flip(-1).unsqueeze(2)
        for i, gate in enumerate(reversed(gates[1:])):
            v = gate * v
            v = F.conv1d(F.pad(v, (case.n - 1, 0)), taps[i], groups=case.d) + skip[i, :, None] * v
        return (gates[0] * v).to(case.dtype)

    return run
