"""Compares a commit with itself, again and again, by the gate on wall-clock: nothing got slower, so every alarm is a false one.

    python ci/same_code.py times=20 spec=attention,retention impl=torch_sdpa,chunkwise length=512 pairs=6 out=results/false-alarms

Every other setting is that of `harness compare HEAD HEAD suite=speed`. Prints a line a comparison, and writes what is known so
far after each; exits with 1 where one alarms, with 2 where one could not be made.
"""

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from harness import machine, plan, request
from harness.paired import SLOWER, VERDICTS
from harness.plan import WrongRequest


def compared(settings: list[str]) -> pd.DataFrame:
    """A row for each cell: the ratio of times with its interval, the smallest slowdown found, and the verdict."""
    command = [sys.executable, "-m", "harness", "compare", "HEAD", "HEAD", "suite=speed", *settings, "format=csv"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = pd.read_csv(io.StringIO(said.stdout)) if said.stdout else pd.DataFrame()
    if "verdict" not in rows:
        print(f"{said.stderr}\nno comparison was made: {' '.join(command)}", file=sys.stderr)
        raise SystemExit(2)
    return rows[rows.verdict.notna()]  # a cell that could not be compared has none


def by_cell(rows: pd.DataFrame) -> pd.DataFrame:
    """For each cell over all comparisons: verdicts, the ratios that were seen, and the slowdowns that would have been found."""
    cells = rows.groupby(["implementation", "case", "form", "length"])
    counts = {verdict: cells.verdict.agg(lambda of, verdict=verdict: int((of == verdict).sum())) for verdict in VERDICTS}
    ratio = {"lowest ratio": cells["ratio"].min(), "median ratio": cells["ratio"].median(), "highest ratio": cells["ratio"].max()}
    finds = {"finds from, median": cells["finds from"].median(), "at worst": cells["finds from"].max()}
    return pd.DataFrame({"comparisons": cells.size(), **counts, **ratio, **finds}).round(3).reset_index()


def summary(rows: pd.DataFrame) -> str:
    """The cells as a table of Markdown, under the sentence that counts."""
    table = by_cell(rows)
    alarms, of = rows[rows.verdict == SLOWER].comparison.nunique(), rows.comparison.nunique()
    text = tabulate(table.values.tolist(), headers=list(table.columns), tablefmt="pipe")
    return f"{alarms} of {of} comparisons of a commit with itself raised an alarm, on {machine.name()}.\n\n{text}"


def write(place: Path, asked: str, rows: pd.DataFrame) -> None:
    """Each cell of each comparison, and what they come to."""
    place.mkdir(parents=True, exist_ok=True)
    rows.to_csv(place / "same-code.csv", index=False)
    (place / "same-code.md").write_text(
        f"# The same code against itself\n\nWritten by `ci/same_code.py {asked}`.\n\n{summary(rows)}\n"
    )


def main(words: list[str]) -> int:
    settings = request.read(words, ("times", "out", *plan.WORDS))
    times, out = plan.typed_as("times", settings.pop("times", 20), 20), settings.pop("out", "")
    if not times:
        raise WrongRequest("times=0 compares nothing.\n  Try: times=20")
    rows = pd.DataFrame()
    for number in range(1, times + 1):
        found = compared([f"{key}={value}" for key, value in settings.items()]).assign(comparison=number)
        rows = pd.concat([rows, found])
        counts = found.verdict.value_counts().items()
        print(f"{number:4} of {times}: {', '.join(f'{count} {name}' for name, count in counts)}", flush=True)
        if out:
            write(Path(out), " ".join(words), rows)
    print(summary(rows))
    return int((rows.verdict == SLOWER).any())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except WrongRequest as error:
        print(f"same_code: {error}", file=sys.stderr)
        sys.exit(2)
