"""Measures how often honest code is accused: every implementation here, over many seeds, cases and families, in each dtype.

    python ci/false_alarms.py seeds=200 spec=attention,retention out=results/false-alarms.csv

Prints the distribution of scores per spec and dtype; exits with 1 where one is above 1 in both budgets.
"""

import random
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from tabulate import tabulate

from harness import Unsupported, audit, catalogue
from harness.cell import Cell
from harness.implementation import Implementation
from harness.spec import DTYPES


def scores(job: tuple[str, str, int]) -> list[dict]:
    """Score of every implementation of a spec for one random case and family."""
    name, dtype, seed = job
    torch.set_num_threads(1)
    spec = catalogue.load_spec(name)
    rng = random.Random(f"{name} {seed}")
    question = audit.Question(spec, spec.case(rng.choice(list(spec.cases)), DTYPES[dtype]), rng.choice(list(spec.families)), seed)
    asked = {"spec": name, "dtype": dtype, "seed": seed, "case": question.case.name, "family": question.family}
    rows = []
    for full, item in catalogue.implementations(name).items():
        for variant in item.facts.get("variants", {"": {}}):
            cell = Cell("correctness", name, full.partition("/")[2], variant, dtype=dtype)
            try:
                strict, score = question.judged(Implementation.of(cell))
            except Unsupported:
                continue
            rows.append({**asked, "implementation": cell.subject, "strict": strict, "score": score})
    return rows


def main(words: list[str]) -> int:
    settings = {"seeds": "200", "spec": "", "out": "", "first": "0"} | dict(word.split("=", 1) for word in words)
    specs = [spec for spec in settings["spec"].split(",") if spec] or [
        s for s in catalogue.specs() if catalogue.implementations(s)
    ]
    seeds = range(int(settings["first"]), int(settings["first"]) + int(settings["seeds"]))
    jobs = [(spec, dtype, seed) for spec in specs for dtype in DTYPES for seed in seeds]
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        rows = pd.DataFrame([row for found in pool.map(scores, jobs, chunksize=8) for row in found])
    spread = rows.groupby(["spec", "dtype"]).agg(
        answers=("score", "size"),
        seeds=("seed", "nunique"),
        median=("strict", "median"),
        p99=("strict", lambda s: s.quantile(0.99)),
        worst=("strict", "max"),
        grade_b=("strict", lambda s: int((s > 1).sum())),
        rejected=("score", lambda s: int((s > 1).sum())),
    )
    print(tabulate(spread.reset_index().round(2).values.tolist(), headers=["spec", "dtype", *spread.columns], tablefmt="pipe"))
    rejected = rows[rows.score > 1]
    print(rejected.to_string() if len(rejected) else "no honest implementation was rejected")
    if settings["out"]:
        Path(settings["out"]).parent.mkdir(parents=True, exist_ok=True)
        spread.reset_index().round(4).to_csv(settings["out"], index=False)
    return int(len(rejected) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
