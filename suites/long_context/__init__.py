"""Does it hold past its training length? Language models trained alike at a short context, then asked at up to 16 times that.

A task is one such question, a module with
    measure(cell, contestant, progress) -> values       of one record, or the Answer that there is where nothing was measured
    table(records) -> data frames by title               and, where one would rather look, pictures(records) -> figures by title
    cost(cell) -> seconds on one core, about
and, where it asks others than language models, CONTRACTS.
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness import terms
from harness.cell import OK, Answer, Cell, Record
from harness.implementation import Implementation

from . import checkpoint, checkpoint_streaming, depth, extrapolation, facts, growth, memory_tasks, streaming
from .scales import text_of

if TYPE_CHECKING:
    from harness.plan import Selection

settings = {"scale": "default", "text": "", "task": "extrapolation", "model": ""}
choices = {"scale": ("smoke", "default", "full")}
limits = {"timeout": 14_400.0, "memory": 8.0}

CONTRACT = "ids[b n]:int<v -> logits[b n v]"
TASKS: dict[str, ModuleType] = {"extrapolation": extrapolation, "streaming": streaming, "depth": depth, "growth": growth}
TASKS |= dict.fromkeys(facts.NAMES, memory_tasks)
OF_MODELS: dict[str, ModuleType] = {"checkpoint": checkpoint, "checkpoint_streaming": checkpoint_streaming}
WITH_A_FOLDER = {
    "extrapolation": "checkpoint",
    "streaming": "checkpoint_streaming",
}  # what a task asks where model=FOLDER is given


def plan(selection: "Selection") -> Iterator[Cell]:
    """A cell for each language model, task and seed. Models that take the weights of another come last."""
    folder, asked = str(selection.settings["model"]), {name: selection.settings[name] for name in ("scale", "text")}
    tasks = selection.chosen("task", WITH_A_FOLDER if folder else TASKS)
    tasks = [WITH_A_FOLDER[task] for task in tasks] if folder else tasks
    asked |= {"model": folder} if folder else {}
    cells = [
        Cell("long-context", item.name, name, variant, task, "float32", selection.device, seed, asked)
        for item in selection.specs()
        for name, variant in selection.contestants(item.name)
        for task in tasks
        if item.contract in getattr(_module(task), "CONTRACTS", (CONTRACT,))
        for seed in selection.seeds
    ]
    yield from sorted(cells, key=lambda cell: terms.giver_of(cell) != cell)


def digests(cell: Cell) -> dict[str, str]:
    """The text that the model is trained and measured on, and the code of the model whose weights it takes, if it does."""
    return {"text": text_of(cell).digest[:16], **terms.digests(cell)}


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes on one core."""
    return float(_module(cell.case).cost(cell))


def measure(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> Answer:
    """Check the model against its reference, then do its task."""
    checked = terms.admitted(cell, contestant, progress)
    if checked.outcome != OK:
        return checked
    values = _module(cell.case).measure(cell, contestant, lambda share, doing: progress(0.02 + 0.98 * share, doing))
    if isinstance(values, Answer):
        return values
    return Answer(OK, {**values, "score": checked.values["score"]})


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """The tables of each task."""
    return _of_tasks("table", records)


def pictures(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of each task."""
    return _of_tasks("pictures", records)


def _module(task: str) -> ModuleType:
    return (TASKS | OF_MODELS)[task]


def _of_tasks(name: str, records: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    every = TASKS | OF_MODELS
    for module in dict.fromkeys(every.values()):
        tasks = [task for task in every if every[task] is module]
        mates = [record for record in records if record.cell.case in tasks]
        if mates and hasattr(module, name):
            found |= getattr(module, name)(mates)
    return found
