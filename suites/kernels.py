"""What did the compiler make of it? Registers, spills, shared memory and tensor cores of every Triton kernel, without a GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from harness import catalogue, kernels
from harness.cell import OK, WRONG, Answer, Cell, Record
from harness.implementation import Implementation
from harness.spec import DTYPES

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Selection

settings = {"target": "*"}
limits = {"timeout": 600.0, "memory": 8.0}


def plan(selection: "Selection") -> Iterator[Cell]:
    """One cell for each shape that an implementation says to compile, each of its dtypes and each target."""
    for item in selection.specs():
        for name, variant in selection.contestants(item.name):
            facts = catalogue.implementation(item.name, name).facts
            for shape in selection.chosen("case", facts.get("compiles", {})):
                for dtype in selection.chosen("dtype", facts.get("dtypes", tuple(DTYPES))):
                    for target in selection.chosen("target", kernels.TARGETS):
                        yield Cell("kernels", item.name, name, variant, shape, dtype, "cuda", 0, {"target": target})


def measure(cell: Cell, contestant: Implementation, progress: Any = None) -> Answer:
    """Compile all that it launches for one answer with gradients; a kernel that spills is wrong, by name."""
    spec = contestant.spec
    sizes = catalogue.implementation(cell.spec, cell.implementation).facts["compiles"][cell.case]
    case = spec.case(next(iter(spec.cases)), DTYPES[cell.dtype]).resized(sizes, device="cuda")
    x = spec.inputs(case)
    leaves = [x[name].requires_grad_() for name in spec.differentiable(case)] if contestant.gradients else []

    def launching() -> None:
        answer = contestant.answer(x, case)
        outputs = [one for one in (answer if isinstance(answer, tuple) else (answer,)) if one.requires_grad]
        if outputs:
            torch.autograd.grad(outputs, leaves, [torch.ones_like(one) for one in outputs], allow_unused=True)

    found = kernels.compiled(launching, cell.settings["target"])
    if not found:
        return Answer(WRONG, {}, "it launches no Triton kernel")
    complaints = [kernel.complaint for kernel in found if kernel.complaint]
    values = {kernel.name: {key: value for key, value in asdict(kernel).items() if key != "name"} for kernel in found}
    return Answer(WRONG if complaints else OK, values, "; ".join(complaints))


def table(records: Sequence[Record]) -> "dict[str, pd.DataFrame]":
    """For each target, a row a kernel: what it takes, in each implementation, shape and dtype."""
    import pandas as pd

    frames: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda r: (r.cell.subject, r.cell.case, r.cell.dtype)):
        cell = record.cell
        about = {"implementation": cell.subject, "shape": cell.case, "dtype": cell.dtype}
        target = str(cell.settings["target"])
        rows = frames.setdefault(target, [])
        if record.outcome not in (OK, WRONG):
            rows.append({**about, "kernel": record.outcome})
        rows += [
            {**about, "kernel": name.removeprefix("_"), **_columns(kernel, target)} for name, kernel in record.values.items()
        ]
    return {target: pd.DataFrame(rows) for target, rows in frames.items()}


def _columns(kernel: dict[str, Any], target: str) -> dict[str, Any]:
    blocks, held_by = kernels.resident(target, kernel["registers"], kernel["warps"], kernel["shared_bytes"])
    return {
        "registers": kernel["registers"],
        "spills": kernel["spills"],
        "shared KiB": round(kernel["shared_bytes"] / 1024, 1),
        "tensor-core instructions": kernel["tensor_core"],
        "instructions": kernel["instructions"],
        "warps": kernel["warps"],
        "blocks a multiprocessor": blocks,
        "held by": held_by,
    }
