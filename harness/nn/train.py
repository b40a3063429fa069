"""The trainer that every model shares: the same data, schedule and optimizer, whatever mixer the model holds."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn import room

Report = Callable[[float, str], None]
BITS = 1 / math.log(2)  # bits in a nat
NOTHING = -100  # the target where nothing is asked: cross_entropy passes over it
CUT_OFF = "its logits are cut off from its parameters: no gradient reaches them"


@dataclass(frozen=True)
class Settings:
    """How to train: `steps` batches, learning rate `lr` reached after `warmup` (share of the steps), then a cosine to 0."""

    steps: int = 1000
    lr: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0


class CannotLearn(ValueError):
    """A model has nothing that training could change; the message says why."""


class TrainingFailed(RuntimeError):
    """Training came to a loss that is no number; the message says at which step."""


def train(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, Tensor]],
    settings: Settings,
    report: Report | None = None,
    unit: str = "bits per byte",
    at_once: int = 0,
) -> list[float]:
    """Train on ids[b n+1]:int64 batches to foretell each next byte; returns the loss of each step in bits per byte.

    A batch may be a pair: ids[b n] and targets[b n], NOTHING where nothing is asked; then the loss is in bits per target.
    `report(fraction, sentence)` hears of progress some hundred times. Raises TrainingFailed where the loss is no number,
    CannotLearn where no parameter learns or no gradient comes to one.
    A step takes `at_once` rows of its batch at a time; where nothing is said, all of them, or on a GPU as many as have room.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise CannotLearn("has no parameters that learn")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    model.train()
    history: list[float] = []
    room_for: dict[torch.Size, int] = {}
    for step, batch in zip(range(settings.steps), batches):  # noqa: B905 (batches may go on for ever)
        ids, targets = batch if isinstance(batch, tuple) else (batch[:, :-1], batch[:, 1:])
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, settings)
        if not at_once and ids.device.type != "cpu" and ids.shape not in room_for:
            room_for[ids.shape] = rows_with_room(model, ids, targets)
        history.append(gradients(model, ids, targets, at_once or room_for.get(ids.shape, len(ids))) * BITS)
        if all(p.grad is None for p in model.parameters()):
            raise CannotLearn(CUT_OFF)
        if not math.isfinite(history[-1]):
            raise TrainingFailed(f"the loss is {history[-1]} at step {step + 1} of {settings.steps}, lr {settings.lr:g}")
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        if report and (step + 1) % max(1, settings.steps // 100) == 0:
            recent = history[-50:]
            report((step + 1) / settings.steps, f"{sum(recent) / len(recent):.2f} {unit}")
    if len(history) < settings.steps:
        raise TrainingFailed(f"the data ended after {len(history)} of {settings.steps} steps")
    model.eval()
    return history


def gradients(model: nn.Module, ids: Tensor, targets: Tensor, at_once: int) -> float:
    """The mean loss over all targets of a batch, in nats, its gradients added to those of the model; some rows at a time."""
    if at_once >= len(ids):
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        _backward(loss)
        return loss.item()
    total, asked = 0.0, (targets != NOTHING).sum()
    for some, wanted in zip(ids.split(at_once), targets.split(at_once), strict=True):
        loss = F.cross_entropy(model(some).flatten(0, 1), wanted.flatten(), reduction="sum") / asked
        _backward(loss)
        total += loss.item()
    return total


def _backward(loss: Tensor) -> None:
    """CannotLearn where the loss hangs on nothing that has a gradient."""
    if not loss.requires_grad:
        raise CannotLearn(CUT_OFF)
    loss.backward()


def rows_with_room(model: nn.Module, ids: Tensor, targets: Tensor) -> int:
    """How many rows of a batch a device holds at once, forward and backward, beside what the optimizer keeps."""
    moments = [torch.empty_like(p) for p in model.parameters() for _ in range(2)]
    found = room.most(lambda rows: gradients(model, ids[:rows], targets[:rows], rows), len(ids))
    model.zero_grad()
    del moments
    return found


def schedule(step: int, settings: Settings) -> float:
    """The share of the learning rate at a step: linear up, then half a cosine down to nothing."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def windows(documents: Sequence[bytes], length: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches without end of ids[batch length]:int64, each row from a place within one document, all places alike.

    The same seed gives the same rows in the same order, whatever model is trained on them.
    """
    kept = [document for document in documents if len(document) >= length]
    if not kept:
        raise ValueError(f"no document is as long as a window of {length} bytes")
    corpus = torch.frombuffer(bytearray(b"".join(kept)), dtype=torch.uint8)
    places = torch.tensor([len(document) - length + 1 for document in kept]).cumsum(0)
    rng = torch.Generator().manual_seed(seed)
    offsets = torch.arange(length)
    while True:
        place = torch.randint(int(places[-1]), (batch,), generator=rng)
        # Each document before the one drawn from has length - 1 bytes at its end where no window starts.
        start = place + torch.searchsorted(places, place, right=True) * (length - 1)
        yield corpus[start[:, None] + offsets].long()
