"""Training on what is asked alone: `harness.nn.train` with targets of their own in place of each next token."""

import math
from collections.abc import Iterable

from torch import nn, optim
from torch.nn import functional as F

from harness.nn.train import BITS, Report, Settings, TrainingFailed, schedule

from .batch import NOTHING, Batch


def learn(model: nn.Module, batches: Iterable[Batch], settings: Settings, report: Report) -> list[float]:
    """Train on the targets of batches that do not end; returns the loss of each step in bits per answer."""
    decayed, kept = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    device = next(model.parameters()).device
    model.train()
    history: list[float] = []
    for step, batch in zip(range(settings.steps), batches):  # noqa: B905 (batches go on for ever)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, settings)
        said = model(batch.ids.to(device)).flatten(0, 1)
        loss = F.cross_entropy(said, batch.targets.to(device).flatten(), ignore_index=NOTHING)
        history.append(loss.item() * BITS)
        if not math.isfinite(history[-1]):
            raise TrainingFailed(f"the loss is {history[-1]} at step {step + 1} of {settings.steps}, lr {settings.lr:g}")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % max(1, settings.steps // 100) == 0:
            recent = history[-50:]
            report((step + 1) / settings.steps, f"{sum(recent) / len(recent):.2f} bits per answer")
    model.eval()
    return history
