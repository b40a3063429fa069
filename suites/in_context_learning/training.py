"""Training on equal terms: the same rows, steps and schedule, about as many parameters, the best learning rate of few.

How that is found is said in `harness.lessons`, what models take from one another in `harness.terms`.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import Unsupported, catalogue, lessons, terms, weights
from harness.cell import Cell
from harness.connect.checkpoint import model_of
from harness.implementation import Implementation
from harness.nn import train
from harness.watched import Reference, Watched

from .batch import Batch
from .remapping import Remapping
from .scales import SCALES, probe_of

# What decides how all are taught, beside the model and the probe with all that these import.
TERMS = (Path(__file__), Path(lessons.__file__), Path(terms.__file__))
TRAINED, TUNED = "trained", "symbol-tuned"
TUNING_RATE = 0.5  # of symbol tuning, over that of training
UNTAUGHT: dict[str, Any] = {"steps": 0, "weights": "of the checkpoint"}  # what is said of a checkpoint in place of its training


def stages(cell: Cell, contestant: Implementation, report: train.Report) -> Iterator[tuple[str, Watched, dict[str, Any]]]:
    """The model of a cell after training, then after symbol tuning where its probe has that; and what is to be said of each."""
    if of_folder := model_of(cell):
        yield TRAINED, Watched(_as_it_came(cell, contestant, of_folder), cell.device), UNTAUGHT
        return
    giver = terms.giver_of(cell)
    teaching = Implementation.of(giver) if giver != cell else contestant
    sizes = sizes_of(giver, teaching)
    plain = contestant.spec.case("plain", torch.float32, cell.device)
    for stage, learned, told in _learned(giver, teaching, sizes, report):
        case = plain.resized(sizes | terms.options_of(cell))
        model = contestant.prepare(case).to(cell.device)
        model.load_state_dict(learned)
        yield (
            stage,
            Watched(model.eval(), cell.device, Reference(contestant.spec, case, learned)),
            told | ({"weights_of": giver.subject} if giver != cell else {}),
        )


def _as_it_came(cell: Cell, contestant: Implementation, of_folder: Mapping[str, str]) -> nn.Module:
    """A checkpoint over as many symbols as the probe has; it is not trained."""
    probe = probe_of(cell)
    if isinstance(probe, Remapping):
        raise Unsupported("its labels mean something by training here alone; lm_eval's tasks in harness/connect ask checkpoints")
    plain = contestant.spec.case("plain", torch.float32, cell.device)
    return contestant.prepare(plain.resized({"v": probe.v, **of_folder})).eval()


def sizes_of(cell: Cell, contestant: Implementation) -> dict[str, int]:
    """The sizes of a scale and a probe; to the budget of parameters, embedding and head are added."""
    scale, probe = SCALES[cell.settings["scale"]], probe_of(cell)
    budget = scale["parameters"] + 2 * probe.v * scale["model"]["d"]
    return terms.sizes_of(cell, contestant, {"v": probe.v, "t": probe.n, **scale["model"]}, budget)


def _learned(
    cell: Cell, contestant: Implementation, sizes: Mapping[str, int], report: train.Report
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Stage, weights, and what is to be said: of training from scratch, and of symbol tuning from there."""
    scale, probe = SCALES[cell.settings["scale"]], probe_of(cell)
    rows, steps, *tuning = scale["probes"][cell.case]
    case = contestant.spec.case("plain", torch.float32, cell.device).resized(sizes)
    code = [catalogue.implementation(cell.spec, cell.implementation).path, Path(inspect.getfile(type(probe)))]
    made_of = {
        "code": weights.digests(code, TERMS),
        "sizes": [dict(sizes), rows, scale["batch"]],
        "asked": [cell.spec, cell.implementation, cell.variant, cell.case, cell.seed, cell.device],
        "versions": torch.__version__,
    }
    fresh = partial(terms.fresh, cell, case, cell.seed)
    first = lessons.Lesson(fresh, lambda: _rows(probe.batches(scale["batch"])), steps, made_of)
    best, told = lessons.learned(first, scale["rates"], report)
    yield TRAINED, best.weights, told
    if isinstance(probe, Remapping):

        def taught() -> nn.Module:
            model = fresh()
            model.load_state_dict(best.weights)
            return model

        after = made_of | {"after": [steps, best.rate]}
        second = lessons.Lesson(taught, lambda: _rows(probe.tuning(scale["batch"])), tuning[0], after)
        tuned, told = lessons.learned(second, [TUNING_RATE * best.rate], report)
        yield TUNED, tuned.weights, told


def _rows(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((batch.ids, batch.targets) for batch in batches)
