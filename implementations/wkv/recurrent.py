"""WKV as RWKV-4 runs it: one token after another, numerator and denominator kept relative to a running maximum."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}


def prepare(case):
    def run(
        k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, past_mean: Tensor, past_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        k, v, w, u = k.float(), v.float(), -decay.float().exp(), bonus.float()
        # The past is num / den and its logarithm top + log(den); the maximum is only a unit, and has no gradient.
        num, den, top, out = past_mean.float(), torch.ones_like(past_mean, dtype=torch.float32), past_weight.float(), []
        for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
            unit = torch.maximum(top, u + k_t).detach()
            old, new = torch.exp(top - unit), torch.exp(u + k_t - unit)
            out.append((old * num + new * v_t) / (old * den + new))
            unit = torch.maximum(top + w, k_t).detach()
            old, new = torch.exp(top + w - unit), torch.exp(k_t - unit)
            num, den, top = old * num + new * v_t, old * den + new, unit
        state = (num / den, top + den.log())
        return torch.stack(out, dim=1).to(case.dtype), *(x.to(case.dtype) for x in state)

    return run
