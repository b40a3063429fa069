"""What does it learn in context? Language models trained alike from scratch on tasks whose answers stand in the context alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness import parameters, terms
from harness.cell import OK, Answer, Cell, Record
from harness.implementation import Implementation

from . import baselines, tables, training
from . import pictures as drawing
from .batch import Ask
from .scales import PROBES, SCALES, Probe, probe_of

if TYPE_CHECKING:
    from harness.plan import Selection

settings = {"scale": "default", "probe": "*", "model": ""}
choices = {"scale": ("smoke", "default", "full")}
limits = {"timeout": 14_400.0, "memory": 8.0}

CONTRACT = "ids[b n]:int<v -> logits[b n v]"


def plan(selection: "Selection") -> Iterator[Cell]:
    """A cell for each language model, probe and seed: it is checked, trained, measured as one. Who takes weights comes last."""
    probes, folder = selection.chosen("probe", PROBES), str(selection.settings["model"])
    asked = {"scale": selection.settings["scale"]} | ({"model": folder} if folder else {})
    cells = [
        Cell("in-context-learning", item.name, name, variant, probe, "float32", selection.device, seed, asked)
        for item in selection.specs()
        if item.contract == CONTRACT
        for name, variant in selection.contestants(item.name)
        for probe in probes
        for seed in selection.seeds
    ]
    # A fine-tune is for contexts longer than any here.
    cells = [cell for cell in cells if not terms.variant_of(cell).get("fine_tuned")]
    yield from sorted(cells, key=lambda cell: terms.giver_of(cell) != cell)


def digests(cell: Cell) -> dict[str, str]:
    """The code of the model whose weights it takes, and the checkpoint that it asks, where it does."""
    return terms.digests(cell)


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core."""
    return float(SCALES[cell.settings["scale"]]["cost_s"])


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> Answer:
    """Check the model against its reference, train it on the probe or take its trained weights, measure it in context."""
    checked = terms.admitted(cell, contestant, progress)
    if checked.outcome != OK:
        return checked
    probe = probe_of(cell)
    found = {name: _measured(probe, ask) for name, ask in baselines.of(probe).items()}
    told, counted = {}, {}
    for stage, ask, of_stage in training.stages(cell, contestant, lambda share, doing: progress(0.02 + 0.9 * share, doing)):
        found[stage] = _measured(probe, ask)
        told[stage], counted = of_stage, parameters.counted(ask.model, ask.reference.weights if ask.reference else {})
    values = {
        "found": found,
        "score": {name: probe.score(columns) for name, columns in found.items()},
        "chance": probe.chance,
        "conformance": checked.values["score"],
        **counted,
        "training": told,
    }
    return Answer(OK, values)


def _measured(probe: Probe, ask: Ask) -> dict[str, list[float]]:
    return {name: [round(x, 5) for x in samples] for name, samples in probe.measure(ask).items()}


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Scores of all probes, differences to the best model, each probe in detail, remapping by flips, and the training."""
    return {title: pd.DataFrame(rows) for title, rows in tables.of(records).items() if rows}


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """Recall, induction and regression by how hard they are; and who follows labels that are flipped."""
    found: dict[str, Any] = {}
    for scale in sorted({r.cell.settings["scale"] for r in records}):
        good = [r for r in records if r.outcome == OK and r.cell.settings["scale"] == scale]
        found |= {title if scale == "default" else f"{title} {scale}": figure for title, figure in drawing.of(good).items()}
    return found
