"""Does it compute what the paper defines? Values, gradients, final states and laws, in every case, dtype and input family."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness import catalogue, judge
from harness.cell import OK, OUTCOMES, Answer, Cell, Record
from harness.implementation import Implementation
from harness.spec import DTYPES

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Selection

settings = {"family": "*", "law": "*"}
limits = {"timeout": 60.0, "memory": 8.0}
isolated = True  # what is judged stands in a process of its own


def plan(selection: "Selection") -> Iterator[Cell]:
    """One cell for each input family and for each law, in each case and dtype, of each contestant."""
    for item in selection.specs():
        spec = catalogue.load_spec(item.name)
        for name, variant in selection.contestants(item.name):
            for dtype in selection.chosen("dtype", DTYPES):
                for case in selection.chosen("case", spec.cases):
                    questions = [{"family": family} for family in selection.chosen("family", spec.families)]
                    questions += [{**question, "form": "step"} for question in questions if spec.of_modules]
                    holds = [law.name for law in spec.laws.values() if law.when(spec.case(case))]
                    laws = [{"law": law} for law in selection.chosen("law", holds)]
                    # Asking for some families, or some laws, asks for no other kind of cell.
                    for question in (questions if selection.settings["law"] == "*" else []) + (
                        laws if selection.settings["family"] == "*" else []
                    ):
                        for seed in selection.seeds:
                            yield Cell("correctness", item.name, name, variant, case, dtype, selection.device, seed, question)


def measure(cell: Cell, contestant: Implementation, progress: Any = None) -> Answer:
    """Judge one input family, or one law."""
    case = contestant.spec.case(cell.case, DTYPES[cell.dtype], cell.device)
    if law := cell.settings.get("law"):
        return judge.law(contestant, case, law, cell.seed)
    return judge.values(contestant, case, cell.settings["family"], cell.seed, cell.settings.get("form", "whole"))


def table(records: Sequence[Record]) -> "dict[str, pd.DataFrame]":
    """For each spec, a row an implementation: worst score and grade in each dtype, and how many cells ended how."""
    import pandas as pd

    rows = pd.DataFrame(
        [
            {"spec": r.cell.spec, "implementation": r.cell.subject, "dtype": r.cell.dtype, "outcome": r.outcome}
            | {"score": float(r.values.get("score", "nan")), "grade": r.values.get("grade", "")}
            for r in records
        ]
    )
    return {spec: _rows(part) for spec, part in rows.groupby("spec", sort=True)} if len(rows) else {}


def _rows(part: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    found = []
    for name, cells in part.groupby("implementation", sort=True):
        row: dict[str, Any] = {"implementation": name}
        for dtype in DTYPES:
            row[dtype] = _standing(cells[cells.dtype == dtype])
        row["cells"] = len(cells)
        found.append(row | {outcome.replace("_", " "): int((cells.outcome == outcome).sum()) for outcome in OUTCOMES})
    return pd.DataFrame(found)


def _standing(cells: "pd.DataFrame") -> str:
    """Grade and worst score, or how the worst cell ended."""
    bad = [outcome for outcome in OUTCOMES if outcome != OK and (cells.outcome == outcome).any()]
    failing = [outcome for outcome in bad if outcome != "unsupported"]
    if failing:
        return " and ".join(outcome.replace("_", " ") for outcome in failing)
    good = cells[cells.outcome == OK]
    if good.empty:
        return "unsupported" if len(cells) else "not asked"
    return f"{good.grade.max()} {good.score.max():.2f}"
