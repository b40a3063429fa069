"""Training on a memory task by a curriculum: rows of one segment, then of up to two, and so on; on equal terms for every model.

Each rate of a few is a whole course, and the best by the loss of its last steps counts: the skill comes all at once, so a shorter
search would say nothing of it. What models take from one another is said in `harness.terms`.
"""

import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import Unsupported, catalogue, terms, text, weights
from harness.cell import Cell
from harness.implementation import Implementation
from harness.nn import train
from harness.spec import Case

from . import facts
from .scales import scale_of, text_of

LAST_STEPS = 50  # each had rows of its own
# Files that decide what training gives, by their own bytes alone.
TERMS = (Path(__file__), Path(facts.__file__), catalogue.PACKAGE / "terms.py")


class Answering(nn.Module):
    """A model that says one thing of each row, [b 1 v]: what a language model says at the end, all that an encoder says."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.model(ids)
        return logits[:, None] if logits.ndim == 2 else logits[:, -1:]


@dataclass(frozen=True)
class Trained:
    """A model with its trained weights, and what is to be said of its training."""

    model: Answering
    told: dict[str, Any]


def trained(cell: Cell, contestant: Implementation, report: train.Report) -> Trained:
    """The model that a cell names, trained on its task, or with the weights of the one it takes, trained so."""
    if terms.variant_of(cell).get("fine_tuned"):
        raise Unsupported("is tuned on text of the longest context: in the memory tasks there is none to tune it on")
    giver, scale = terms.giver_of(cell), scale_of(cell)["memory"]
    teaching = Implementation.of(giver) if giver != cell else contestant
    # The training length of models that have one: where the curriculum ends.
    sizes = {"v": 256, "t": scale["segment"] * len(scale["curriculum"]), **scale["model"]}
    sizes = terms.sizes_of(giver, teaching, sizes, scale["parameters"])
    made, told = _taught(giver, teaching.spec.case("plain", torch.float32, cell.device).resized(sizes), scale, report)
    case = contestant.spec.case("plain", torch.float32, cell.device).resized(sizes | terms.options_of(cell))
    model = terms.fresh(cell, case, cell.seed)
    model.load_state_dict(made)
    return Trained(Answering(model.eval()), told | ({"weights_of": giver.subject} if giver != cell else {}))


def lengths(scale: Mapping[str, Any], seed: int) -> list[int]:
    """How long the rows of each step are: in the k-th part of the curriculum 1 to k segments, all alike, as the dice fall."""
    rng = random.Random(seed)
    return [
        scale["segment"] * rng.randint(1, segments) for segments, steps in enumerate(scale["curriculum"], 1) for _ in range(steps)
    ]


def _taught(cell: Cell, case: Case, scale: Mapping[str, Any], report: train.Report) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights at the best rate, and what is to be said of all of them."""
    corpus, rates = text_of(cell), scale["rates"]
    code = [catalogue.implementation(cell.spec, cell.implementation).path, catalogue.PACKAGE / "nn" / "train.py"]
    made_of = {
        "text": corpus.digest,
        "code": [*(catalogue.digest(path) for path in code), *(hashlib.sha256(path.read_bytes()).hexdigest() for path in TERMS)],
        "sizes": [dict(case.values), scale["segment"], scale["curriculum"], scale["batch"]],
        "asked": [cell.spec, cell.implementation, cell.variant, cell.case, cell.seed, cell.device],
        "versions": torch.__version__,
    }

    def at(i: int, rate: float) -> tuple[dict[str, Any], bool]:
        def told(share: float, doing: str) -> None:
            report((i + share) / len(rates), f"learning rate {rate:g}, {doing}")

        return weights.trained(made_of | {"rate": rate}, lambda: _course(cell, case, scale, corpus, rate, told))

    tried = {rate: at(i, rate) for i, rate in enumerate(rates)}
    best = min(tried, key=lambda rate: _loss(tried[rate][0]["history"]))
    made, kept = tried[best]
    if not made["weights"]:
        raise train.TrainingFailed(f"the loss is no number at any learning rate of {', '.join(map(str, tried))}")
    told = {
        "bits_per_answer": round(_loss(made["history"]), 4),
        "steps": sum(scale["curriculum"]),
        "lr": best,
        "tried": {str(rate): round(_loss(of["history"]), 4) for rate, (of, _) in tried.items()},
        "time_s": round(made["time_s"], 1),
        "weights": "kept from an earlier run" if kept else "trained in this run",
    }
    return made["weights"], told


def _course(
    cell: Cell, case: Case, scale: Mapping[str, Any], corpus: text.Text, rate: float, report: train.Report
) -> dict[str, Any]:
    """The weights after a course, and the loss of each of its steps; no weights where that came to be no number."""
    began, model = time.perf_counter(), terms.fresh(cell, case, cell.seed)
    of_steps = lengths(scale, cell.seed)
    rows = facts.batches(cell.case, corpus.train, of_steps, scale["batch"], cell.seed)
    rows = ((ids.to(cell.device), targets.to(cell.device)) for ids, targets in rows)
    try:
        history = train.train(
            Answering(model), rows, train.Settings(steps=len(of_steps), lr=rate), report, unit="bits per answer"
        )
    except train.TrainingFailed:
        return {"weights": {}, "history": [math.inf], "time_s": time.perf_counter() - began}
    return {"weights": model.state_dict(), "history": history, "time_s": time.perf_counter() - began}


def _loss(history: Sequence[float]) -> float:
    """Bits per answer over the last steps."""
    last = history[-LAST_STEPS:]
    return sum(last) / len(last)
