"""Does it compute what the paper defines? Values, gradients, final states and laws, in every case, dtype and input family."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from harness import catalogue, rounding, verdict
from harness.cell import OK, OUTCOMES, WRONG, Answer, Cell, Record
from harness.implementation import Implementation
from harness.plan import Selection
from harness.spec import DTYPES, Bunch, Law, dice

settings = {"family": "*", "law": "*"}
limits = {"timeout": 60.0, "memory": 8.0}


def plan(selection: Selection) -> Iterator[Cell]:
    """One cell for each input family and for each law, in each case and dtype, of each contestant."""
    for item in selection.specs():
        spec = catalogue.load_spec(item.name)
        for name, variant in selection.contestants(item.name):
            for dtype in selection.chosen("dtype", DTYPES):
                for case in selection.chosen("case", spec.cases):
                    questions = [{"family": family} for family in selection.chosen("family", spec.families)]
                    holds = [law.name for law in spec.laws.values() if law.when(spec.case(case))]
                    laws = [{"law": law} for law in selection.chosen("law", holds)]
                    # Asking for some families, or some laws, asks for no other kind of cell.
                    for question in (questions if selection.settings["law"] == "*" else []) + (laws if selection.settings["family"] == "*" else []):
                        for seed in selection.seeds:
                            yield Cell("correctness", item.name, name, variant, case, dtype, selection.device, seed, question)


def measure(cell: Cell, contestant: Implementation, progress: Any = None) -> Answer:
    """Judge one input family, or one law."""
    if "law" in cell.settings:
        return judge_law(cell, contestant, contestant.spec.laws[cell.settings["law"]])
    return judge_values(cell, contestant)


def judge_values(cell: Cell, contestant: Implementation) -> Answer:
    """Outputs and, where claimed, gradients, against the reference."""
    spec = contestant.spec
    case = spec.case(cell.case, DTYPES[cell.dtype], cell.device)
    drawn = spec.inputs(case, cell.settings["family"], cell.seed, cotangents=contestant.gradients)
    x = Bunch({name: tensor.clone().to(cell.device) for name, tensor in drawn.items()})
    got = contestant.outputs_and_gradients(x, case) if contestant.gradients else contestant.outputs(x, case)
    if written := [name for name in drawn if not torch.equal(drawn[name], x[name].cpu())]:
        return Answer(WRONG, {}, f"it writes into its input {written[0]}")
    wrt = spec.differentiable(case) if contestant.gradients else []
    reference = rounding.with_gradients(lambda y: dict(spec.reference(y, case)), wrt) if wrt else (lambda y: dict(spec.reference(y, case)))
    return verdict.judge(reference, drawn, got, case.dtype, verdict.axes_of(spec, case), cell.seed).answer


def judge_law(cell: Cell, contestant: Implementation, law: Law) -> Answer:
    """Both sides of a law by the implementation, whose difference may be what rounding leaves in those of the reference."""
    spec = contestant.spec
    case = spec.case(cell.case, DTYPES[cell.dtype], cell.device)
    x = spec.inputs(case, "normal", cell.seed)
    words = (spec.name, cell.case, law.name, cell.seed)

    def by_contestant(given: Bunch, **changes: Any) -> Bunch:
        inputs, resized = _changed(spec, case, given, changes)
        return contestant.outputs({name: t.to(cell.device).contiguous() for name, t in inputs.items()}, resized)

    def by_reference(given: Bunch, **changes: Any) -> Bunch:
        inputs, resized = _changed(spec, case, given, changes)
        return Bunch({name: rounding.stored(t) for name, t in spec.reference(inputs, resized).items()})

    got = _differences(law.check(by_contestant, Bunch({n: t.to(cell.device) for n, t in x.items()}), dice(*words)))
    if not got or not all(t.numel() for t in got.values()):
        return Answer(WRONG, {}, f"the law {law.name} compared nothing")
    reference = lambda y: _differences(law.check(by_reference, Bunch(y), dice(*words)))  # noqa: E731
    return verdict.judge(reference, dict(x), got, case.dtype, {}, cell.seed).answer


def _changed(spec: Any, case: Any, given: Bunch, changes: dict[str, Any]) -> tuple[Bunch, Any]:
    """Inputs and case after a law's changes: tensors are inputs, whose shapes give new sizes; the rest are options."""
    inputs = Bunch({**given, **{name: value for name, value in changes.items() if isinstance(value, Tensor)}})
    options = {name: value for name, value in changes.items() if not isinstance(value, Tensor)}
    sizes = spec.contract.sizes({name: tensor.shape for name, tensor in inputs.items()})
    return inputs, case.resized({**sizes, **options})


def _differences(sides: tuple[Any, Any]) -> dict[str, Tensor]:
    left, right = (side if isinstance(side, tuple) else (side,) for side in sides)
    return {f"left - right ({i})": one.double() - other.double() for i, (one, other) in enumerate(zip(left, right, strict=True))}


def table(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """For each spec, a row an implementation: worst score and grade in each dtype, and how many cells ended how."""
    rows = pd.DataFrame(
        [
            {"spec": r.cell.spec, "implementation": r.cell.subject, "dtype": r.cell.dtype, "outcome": r.outcome}
            | {"score": float(r.values.get("score", "nan")), "grade": r.values.get("grade", "")}
            for r in records
        ]
    )
    return {spec: _rows(part) for spec, part in rows.groupby("spec", sort=True)} if len(rows) else {}


def _rows(part: pd.DataFrame) -> pd.DataFrame:
    found = []
    for name, cells in part.groupby("implementation", sort=True):
        row: dict[str, Any] = {"implementation": name}
        for dtype in DTYPES:
            row[dtype] = _standing(cells[cells.dtype == dtype])
        row["cells"] = len(cells)
        found.append(row | {outcome.replace("_", " "): int((cells.outcome == outcome).sum()) for outcome in OUTCOMES})
    return pd.DataFrame(found)


def _standing(cells: pd.DataFrame) -> str:
    """Grade and worst score, or how the worst cell ended."""
    bad = [outcome for outcome in OUTCOMES if outcome != OK and (cells.outcome == outcome).any()]
    failing = [outcome for outcome in bad if outcome != "unsupported"]
    if failing:
        return " and ".join(outcome.replace("_", " ") for outcome in failing)
    good = cells[cells.outcome == OK]
    if good.empty:
        return "unsupported" if len(cells) else "not asked"
    return f"{good.grade.max()} {good.score.max():.2f}"
