"""Measures how often honest code is accused: every implementation here, over many seeds, shapes and families, in each dtype.

    python ci/false_alarms.py seeds=1000 spec=attention,retention impl=torch_* out=results/false-alarms
    python ci/false_alarms.py impl="plain code"

Plain code is the formula of each spec as torch computes it in the tested dtype, all that lies between rounded to it: what a
person writes down first. Where it gives no number (the square of what is little, 0 / 0) it is not asked. Where it overflows on
the way and gives one all the same, it is rejected rightly: norms in float16, whose squares are beyond 65,504.

Implementations that stand in Triton's interpreter here, a thousand times slower, are asked the first interpreted=200 seeds only.
Each seed draws a case, an input family and other sizes for the axes of that case. Prints the distribution of scores per spec
and dtype, as it stands after every spec; exits with 1 where one is above 1 in both budgets.
"""

import fnmatch
import math
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate

from harness import Unsupported, catalogue, machine, plan, request
from harness.cell import Cell
from harness.implementation import Implementation
from harness.plan import WrongRequest
from harness.spec import DTYPES
from harness.trial import PLAIN, Trial

# Axes whose size is nobody's choice but the data's: batch, queries or steps, keys. Heads and widths come from the cases.
FREE = ("b", "n", "m")
TRIES = 10
LARGEST = 2**16
KEY = ["code", "spec", "dtype"]
CODE = "implementations"
WORDS: dict[str, Any] = {"seeds": 200, "spec": "", "out": "", "first": 0, "impl": "*", "interpreted": 200}


def scores(job: tuple[str, str, int, str, int]) -> list[dict]:
    """Score of every implementation of a spec for one random case and family."""
    name, dtype, seed, impl, interpreted = job
    torch.set_num_threads(1)
    spec = catalogue.load_spec(name)
    rng = random.Random(f"{name} {seed}")
    case = spec.case(rng.choice([case for case in spec.cases if size(spec, case) <= LARGEST]), DTYPES[dtype])
    trial = Trial(spec, reshaped(spec, case, rng), rng.choice(list(spec.families)), seed)
    asked = {"spec": name, "dtype": dtype, "seed": seed, "case": trial.case.name, "family": trial.family}
    rows = []
    for full, item in catalogue.implementations(name).items():
        slow = "triton" in item.facts.get("requires", ())
        if not fnmatch.fnmatchcase(full.partition("/")[2], impl) or (slow and seed >= interpreted):
            continue
        for variant in item.facts.get("variants", {"": {}}):
            cell = Cell("correctness", name, full.partition("/")[2], variant, dtype=dtype)
            try:
                strict, score = trial.judged(Implementation.of(cell))
            except Unsupported:
                continue
            except Exception as error:
                error.add_note(f"{cell.subject} in {trial.case}, {trial.family}, seed {seed}")
                raise
            rows.append({**asked, "code": CODE, "implementation": cell.subject, "strict": strict, "score": score})
    if fnmatch.fnmatchcase(PLAIN, impl) and all(tensor.isfinite().all() for tensor in trial.plain.values()):
        strict, score = trial.scores(trial.plain)
        rows.append({**asked, "code": PLAIN, "implementation": PLAIN, "strict": strict, "score": score})
    return rows


def size(spec: Any, name: str) -> int:
    """Elements of the largest input of a case."""
    case = spec.case(name)
    return max(math.prod(tensor.shape(case.values)) for tensor in spec.given(case))


def reshaped(spec: Any, case: Any, rng: random.Random) -> Any:
    """The case at other sizes, as far as its own definition makes sense of them; models keep theirs."""
    if spec.parameters:
        return case
    axes = sorted(axis for tensor in spec.given(case) for axis in tensor.axes if not axis.isdigit())
    for _ in range(TRIES):
        sizes = {axis: rng.randint(1, case.values[axis]) for axis in axes if axis in FREE and rng.random() < 0.5}
        changed = case.resized(sizes)
        try:
            outputs = spec.reference(spec.inputs(changed), changed)
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError):
            continue
        # 0 / 0 is no definition: a causal mean, say, of queries that have no key.
        if all(
            tuple(outputs[t.name].shape) == t.shape(changed.values) and outputs[t.name].isfinite().all()
            for t in spec.contract.outputs
        ):
            return changed
    return case


def write(place: Path, spread: pd.DataFrame) -> None:
    """Add these specs to the published table, in the place of what it says of them."""
    place.mkdir(parents=True, exist_ok=True)
    file = place / "scores.csv"
    before = pd.read_csv(file) if file.exists() else spread[:0]
    again = before.set_index(KEY).index.isin(spread.set_index(KEY).index)
    table = pd.concat([before[~again], spread.round(4)]).sort_values(KEY)
    table = table[spread.columns].astype({"of_each_at_least": "Int64"})
    table.to_csv(file, index=False)
    shown = table.round(2).astype(object).where(table.notna(), "-")
    text = tabulate(shown.values.tolist(), headers=list(table.columns), tablefmt="pipe")
    said = "Written by `ci/false_alarms.py`, which says what plain code is, and why of its norms in float16 some are rejected."
    (place / "scores.md").write_text(f"# Scores of honest code\n\n{said}\n\n{text}\n")


def spread_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The distribution of scores by `KEY`: strict ones, by the budget of grade A, and how many end above 1."""
    of_it = rows.groupby(["spec", "dtype", "implementation"]).seed.transform("nunique")
    return (
        rows.assign(seeds_of_it=of_it)
        .groupby(KEY)
        .agg(
            implementations=("implementation", "nunique"),
            seeds=("seed", "nunique"),
            of_each_at_least=("seeds_of_it", "min"),
            answers=("score", "size"),
            median=("strict", "median"),
            p99=("strict", lambda s: s.quantile(0.99)),
            worst=("strict", "max"),
            worst_that_decides=("score", "max"),
            grade_b=("strict", lambda s: int((s > 1).sum())),
            rejected=("score", lambda s: int((s > 1).sum())),
        )
        .reset_index()
    )


def _settings(words: list[str]) -> dict[str, Any]:
    """The words, each of the type of its default."""
    said = request.read(words, WORDS)
    for key in said.keys() - WORDS:
        raise WrongRequest(f"no setting named {key!r}.{catalogue.suggestion(key, WORDS)}")
    return {key: plan.typed_as(key, said.get(key, default), default) for key, default in WORDS.items()}


def main(words: list[str]) -> int:
    os.environ["TRITON_INTERPRET"] = "1"
    settings = _settings(words)
    specs = [spec for spec in settings["spec"].split(",") if spec] or [
        s for s, item in catalogue.specs().items() if catalogue.implementations(s) and item.facts.get("DEFINED", True)
    ]
    seeds = range(settings["first"], settings["first"] + settings["seeds"])
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(mp_context=get_context("forkserver"), initializer=machine.end_with_parent) as pool:
        for spec in specs:
            jobs = [(spec, dtype, seed, settings["impl"], settings["interpreted"]) for dtype in DTYPES for seed in seeds]
            found += [row for part in pool.map(scores, jobs, chunksize=8) for row in part]
            if not (rows := [row for row in found if row["spec"] == spec]):
                continue
            spread = spread_of(pd.DataFrame(rows))
            if settings["out"]:
                write(Path(settings["out"]), spread)
            print(tabulate(spread.round(2).values.tolist(), headers=list(spread.columns), tablefmt="pipe"), flush=True)
    if not found:
        raise WrongRequest(
            f"seeds={settings['seeds']} impl={settings['impl']} ask nothing of {', '.join(specs)}.\n  Try: seeds=200 impl=*"
        )
    judged = pd.DataFrame(found)
    rejected = judged[judged.score > 1]
    print(rejected.to_string() if len(rejected) else "no honest code was rejected")
    return int(len(rejected) > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (WrongRequest, catalogue.NotFound) as error:
        print(f"false_alarms: {error}", file=sys.stderr)
        sys.exit(2)
