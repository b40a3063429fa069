"""Retention in its chunkwise form: parallel inside each chunk, all chunks at once, recurrent from chunk to chunk (eq. 7)."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}
variants = {"chunk_16": {"chunk": 16}, "chunk_64": {"chunk": 64}}


def prepare(case, chunk: int = 64):
    whole = case.n // chunk * chunk

    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, state = q.float(), k.float(), v.float(), past.float()
        out = []
        # The rest is a single chunk of its own length.
        for part, size in ((slice(whole), chunk), (slice(whole, None), case.n - whole)):
            if q[:, :, part].numel():
                part_out, state = chunks(q[:, :, part], k[:, :, part], v[:, :, part], state, decay, size)
                out.append(part_out)
        return torch.cat(out, dim=2).to(case.dtype), state.to(case.dtype)

    return run


def chunks(q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Outputs [b h n e] and the state after them, for n a multiple of the chunk size."""
    q, k, v = (x.unflatten(2, (-1, size)) for x in (q, k, v))  # [b h chunk step width]
    step = torch.arange(size, device=q.device)[:, None]
    distance = step - step.mT
    decay = decay[:, None, None, None]
    triangle = (decay ** distance.clamp(min=0)).masked_fill(distance < 0, 0.0)
    within = (q @ k.mT * triangle) @ v

    written = (k * decay ** (size - 1 - step)).mT @ v
    over_a_chunk = (decay**size).squeeze(1)
    before = []
    for new in written.unbind(2):
        before.append(state)
        state = over_a_chunk * state + new
    across = decay ** (step + 1) * (q @ torch.stack(before, dim=2))
    return (within + across).flatten(2, 3), state
