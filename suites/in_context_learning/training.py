"""Training on equal terms: the same rows, steps and schedule, about as many parameters, the best learning rate of few.

What models take from one another is said in `harness.terms`.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import Unsupported, catalogue, terms, weights
from harness.cell import Cell
from harness.connect.checkpoint import model_of
from harness.implementation import Implementation
from harness.nn import train

from .batch import Batch
from .remapping import Remapping
from .scales import SCALES, probe_of

TRAINED, TUNED = "trained", "symbol-tuned"
# A learning rate is judged by the loss of the last steps, on rows that no step before had: where a skill comes all at once, a
# search shorter than training says nothing of it.
LAST_STEPS = 50
TUNING_RATE = 0.5  # of symbol tuning, over that of training
UNTAUGHT: dict[str, Any] = {"steps": 0, "weights": "of the checkpoint"}  # what is said of a checkpoint in place of its training


def stages(cell: Cell, contestant: Implementation, report: train.Report) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """The model of a cell after training, then after symbol tuning where its probe has that; and what is to be said of each."""
    if of_folder := model_of(cell):
        yield TRAINED, _as_it_came(cell, contestant, of_folder), UNTAUGHT
        return
    giver = terms.giver_of(cell)
    teaching = Implementation.of(giver) if giver != cell else contestant
    sizes = sizes_of(giver, teaching)
    plain = contestant.spec.case("plain", torch.float32, cell.device)
    for stage, learned, told in _lessons(giver, teaching, sizes, report):
        model = contestant.prepare(plain.resized(sizes | terms.options_of(cell))).to(cell.device)
        model.load_state_dict(learned)
        yield stage, model.eval(), told | ({"weights_of": giver.subject} if giver != cell else {})


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


def _lessons(
    cell: Cell, contestant: Implementation, sizes: Mapping[str, int], report: train.Report
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Stage, weights, and what is to be said: of training from scratch, and of symbol tuning from there."""
    scale, probe = SCALES[cell.settings["scale"]], probe_of(cell)
    rows, steps, *tuning = scale["probes"][cell.case]
    case = contestant.spec.case("plain", torch.float32, cell.device).resized(sizes)
    code = [catalogue.implementation(cell.spec, cell.implementation).path, Path(__file__)]  # with all that they import
    made_of = {
        "code": [catalogue.digest(path) for path in code],
        "sizes": [dict(sizes), rows, scale["batch"]],
        "asked": [cell.spec, cell.implementation, cell.variant, cell.case, cell.seed, cell.device],
        "versions": torch.__version__,
    }

    def taught_at(rate: float) -> tuple[dict[str, Any], bool]:
        course = train.Settings(steps=steps, lr=rate)
        return weights.trained(
            made_of | {"course": repr(course)},
            lambda: _taught(terms.fresh(cell, case, cell.seed), probe.batches(scale["batch"]), course, report),
        )

    tried = {rate: taught_at(rate) for rate in scale["rates"]}
    best = min(tried, key=lambda rate: _loss(tried[rate][0]))
    made, kept = tried[best]
    if not made["weights"]:
        raise train.TrainingFailed(f"the loss is no number at any learning rate of {', '.join(map(str, tried))}")
    yield TRAINED, made["weights"], {**_told(made, kept, steps, best), "tried": {str(r): _loss(tried[r][0]) for r in tried}}
    if isinstance(probe, Remapping):
        then = train.Settings(steps=tuning[0], lr=TUNING_RATE * best)

        def tune() -> dict[str, Any]:
            model = terms.fresh(cell, case, cell.seed)
            model.load_state_dict(made["weights"])
            return _taught(model, probe.tuning(scale["batch"]), then, report)

        tuned, kept = weights.trained(made_of | {"course": f"at {best}, then {then!r}"}, tune)
        yield TUNED, tuned["weights"], _told(tuned, kept, then.steps, then.lr)


def _taught(model: nn.Module, batches: Iterable[Batch], course: train.Settings, report: train.Report) -> dict[str, Any]:
    """The weights after a course, and the loss of each of its steps; no weights where that came to be no number."""
    began, device = time.perf_counter(), next(model.parameters()).device
    rows = ((batch.ids.to(device), batch.targets.to(device)) for batch in batches)

    def told(share: float, doing: str) -> None:
        report(share, f"learning rate {course.lr:g}, {doing}")

    try:
        history = train.train(model, rows, course, told, unit="bits per answer")
    except train.TrainingFailed:
        return {"weights": {}, "history": [math.inf], "time_s": time.perf_counter() - began}
    return {"weights": model.state_dict(), "history": history, "time_s": time.perf_counter() - began}


def _loss(made: Mapping[str, Any]) -> float:
    """Bits per answer over the last steps; each had rows of its own."""
    last = made["history"][-LAST_STEPS:]
    return round(sum(last) / len(last), 4)


def _told(made: Mapping[str, Any], kept: bool, steps: int, rate: float) -> dict[str, Any]:
    return {
        "bits_per_answer": _loss(made),
        "steps": steps,
        "lr": rate,
        "time_s": round(made["time_s"], 1),
        "weights": "kept from an earlier run" if kept else "trained in this run",
    }
