"""WKV in chunks: each is summed up at once, the sums are handed on from chunk to chunk, then all chunks are read side by side."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}

CHUNK = 32  # tokens; a step of Python serves as many chunks as there are

# Numerator and denominator of a mean, and the logarithm of their unit. This is a maximum, so that nothing overflows, and has no
# gradient: it cancels.
Sums = tuple[Tensor, Tensor, Tensor]


def prepare(case):
    whole = case.n // CHUNK * CHUNK

    def run(
        k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, past_mean: Tensor, past_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        k, v, w, u = k.float(), v.float(), -decay.float().exp(), bonus.float()
        past, out = (past_mean.float(), torch.ones_like(past_mean, dtype=torch.float32), past_weight.float()), []
        # The rest is a single chunk of its own length.
        for part, size in ((slice(whole), CHUNK), (slice(whole, None), case.n - whole)):
            if k[:, part].numel():
                chunks = [x[:, part].unflatten(1, (-1, size)) for x in (k, v)]  # [b chunk step d]
                chunks_out, after = read(*chunks, w, u, handed_on(*chunks, w, past))
                past = tuple(x[:, -1] for x in after)
                out.append(chunks_out)
        num, den, top = past
        return torch.cat(out, 1).to(case.dtype), (num / den).to(case.dtype), (top + den.log()).to(case.dtype)

    return run


def handed_on(k: Tensor, v: Tensor, w: Tensor, past: Sums) -> Sums:
    """What is known before each chunk [b chunk d]; k, v [b chunk step d]."""
    k, v, size = k[:, :-1], v[:, :-1], k.shape[2]  # nobody reads the last
    age = torch.arange(size - 1, -1, -1, device=k.device)[:, None]
    exponent = k + age * w
    top = exponent.amax(2).detach()
    heard = torch.exp(exponent - top.unsqueeze(2))
    before = [past]
    for new in zip(*(x.unbind(1) for x in ((heard * v).sum(2), heard.sum(2), top)), strict=True):
        before.append(joined(before[-1], size * w, *new))
    num, den, top = (torch.stack(x, 1) for x in zip(*before, strict=True))
    return num, den, top


def read(k: Tensor, v: Tensor, w: Tensor, u: Tensor, past: Sums) -> tuple[Tensor, Sums]:
    """Outputs [b n d], and what is known after each chunk: one step after another, but that step of all chunks at once."""
    out = []
    for k_t, v_t in zip(k.unbind(2), v.unbind(2), strict=True):
        num, den, _ = joined(past, 0.0, v_t, 1.0, u + k_t)
        out.append(num / den)
        past = joined(past, w, v_t, 1.0, k_t)
    return torch.stack(out, 2).flatten(1, 2), past


def joined(past: Sums, fading: Tensor | float, num: Tensor, den: Tensor | float, top: Tensor) -> Sums:
    """The past, which fades, and what comes after it, in one unit."""
    faded = past[2] + fading
    unit = torch.maximum(faded, top).detach()
    old, new = torch.exp(faded - unit), torch.exp(top - unit)
    return old * past[0] + new * num, old * past[1] + new * den, unit
