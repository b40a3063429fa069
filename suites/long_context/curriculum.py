"""Training on a memory task by a curriculum: rows of one segment, then of up to two, and so on; on equal terms for every model.

How the learning rate is found is said in `harness.lessons`, what models take from one another in `harness.terms`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import Unsupported, catalogue, lessons, terms, weights
from harness.cell import Cell
from harness.implementation import Implementation
from harness.nn import train
from harness.spec import Case, Spec
from harness.watched import Reference, Watched

from . import facts
from .scales import scale_of, text_of

# Files that decide what training gives, by their own bytes alone.
TERMS = (Path(__file__), Path(facts.__file__), Path(lessons.__file__), Path(terms.__file__))


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
    case: Case
    weights: Mapping[str, Tensor]  # that it was given: a module may keep them otherwise

    def watched(self, spec: Spec, device: str) -> Watched:
        """How it is asked, held against its spec."""
        own = {name.removeprefix("model."): tensor for name, tensor in self.weights.items()}
        return Watched(self.model.model, device, Reference(spec, self.case, own), last=True)


def trained(cell: Cell, contestant: Implementation, report: train.Report) -> Trained:
    """The model that a cell names, trained on its task, or with the weights of the one it takes, trained so."""
    if terms.variant_of(cell).get("fine_tuned"):
        raise Unsupported("is tuned on text of the longest context: in the memory tasks there is none to tune it on")
    giver, scale = terms.giver_of(cell), scale_of(cell)["memory"]
    teaching = Implementation.of(giver) if giver != cell else contestant
    # The training length of models that have one: where the curriculum ends.
    sizes = {"v": 256, "t": scale["segment"] * len(scale["curriculum"]), **scale["model"]}
    sizes = terms.sizes_of(giver, teaching, sizes, scale["parameters"])
    taught = teaching.spec.case("plain", torch.float32, cell.device).resized(sizes)
    learned, told = lessons.learned(_lesson(giver, taught, scale), scale["rates"], report)
    case = contestant.spec.case("plain", torch.float32, cell.device).resized(sizes | terms.options_of(cell))
    model = Answering(terms.fresh(cell, case, cell.seed))
    model.load_state_dict(learned.weights)
    told |= {"weights_of": giver.subject} if giver != cell else {}
    return Trained(model.eval(), told, case, learned.weights)


def lengths(scale: Mapping[str, Any], seed: int) -> list[int]:
    """How long the rows of each step are: in the k-th part of the curriculum 1 to k segments, all alike, as the dice fall."""
    rng = random.Random(seed)
    return [
        scale["segment"] * rng.randint(1, segments) for segments, steps in enumerate(scale["curriculum"], 1) for _ in range(steps)
    ]


def _lesson(cell: Cell, case: Case, scale: Mapping[str, Any]) -> lessons.Lesson:
    """The curriculum of a cell, for its model of these sizes."""
    corpus, of_steps = text_of(cell), lengths(scale, cell.seed)
    code = [catalogue.implementation(cell.spec, cell.implementation).path, catalogue.PACKAGE / "nn" / "train.py"]
    return lessons.Lesson(
        start=lambda: Answering(terms.fresh(cell, case, cell.seed)),
        rows=lambda: facts.batches(cell.case, corpus.train, of_steps, scale["batch"], cell.seed),
        steps=len(of_steps),
        made_of={
            "text": corpus.digest,
            "code": weights.digests(code, TERMS),
            "sizes": [dict(case.values), scale["segment"], scale["curriculum"], scale["batch"]],
            "asked": [cell.spec, cell.implementation, cell.variant, cell.case, cell.seed, cell.device],
            "versions": torch.__version__,
        },
    )
