"""What is published under `results/`: a page for each suite and machine, its tables and pictures, and the index of all."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from harness import machine, report
from harness.cell import Record

SMALL = "The papers' models are larger: what does not show at the size measured here is not thereby wrong."


def write(folder: Path, title: str, suite: ModuleType, records: Sequence[Record]) -> list[Path]:
    """Write the tables of a suite as Markdown and as CSV, its pictures, and the index of all tables; return the files."""
    frames = report.tables(suite, records)
    place = folder / "tables" / records[0].machine
    place.mkdir(parents=True, exist_ok=True)
    files = [page := place / f"{title}.md"]
    for name, frame in frames.items():
        file = place / (f"{title}.csv" if len(frames) == 1 else f"{title}.{report.slug(name.partition('(')[0])}.csv")
        frame.to_csv(file, index=False)
        files.append(file)
    drawn: list[str] = []
    for name, figure in suite.pictures(records).items() if hasattr(suite, "pictures") else ():
        files.append(file := place / f"{title}.{report.slug(name)}.png")
        figure.savefig(file, dpi=120, metadata={"Software": None})
        drawn.append(f"![{name}]({file.name})")
    pictures = ["## Pictures", *drawn] if drawn else []
    contents = _contents([*frames, *(["Pictures"] if drawn else [])])
    parts = [f"# {title}", _origin(records), report.legend(records), contents, report.render(frames, "markdown"), *pictures]
    page.write_text("\n\n".join(filter(None, parts)) + "\n")
    _index(folder)
    return files


def _origin(records: Sequence[Record]) -> str:
    """The machine, versions and days that a table comes from."""
    machines = sorted({record.machine for record in records})
    described = machine.describe() if machines == [machine.name()] else ", ".join(machines)
    versions = sorted({record.libraries for record in records})
    days = sorted({record.at[:10] for record in records})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f"Machine: {described} (`{', '.join(machines)}`). Versions: {'; '.join(versions)}. Measured {span}, {len(records)} cells."
    )


def _contents(titles: Sequence[str]) -> str:
    """Links to the headings of a page that has several, by the anchors that GitHub gives them."""
    anchors = {title: "".join(c for c in title.lower() if c.isalnum() or c in " -_").replace(" ", "-") for title in titles}
    links = [f"[{title.partition(' (')[0]}](#{anchor})" for title, anchor in anchors.items()]
    return "On this page: " + " · ".join(links) if len(links) > 1 else ""


def _index(folder: Path) -> None:
    """results/README.md: the list of all pages, and what became of the papers' claims."""
    pages = sorted(folder.glob("tables/*/*.md"))
    rows = [f"| {page.stem} | {page.parent.name} | [{page.name}]({page.relative_to(folder)}) |" for page in pages]
    head = ["# Results", "", "Written by `harness run`; do not edit.", "", "| suite | machine | table |", "|---|---|---|"]
    said = [line for page in pages for line in _reading(page, folder)]
    if said:
        said = ["", "## What the papers claim, and what showed here", "", SMALL, *said]
    (folder / "README.md").write_text("\n".join([*head, *rows, *said]) + "\n")


def _reading(page: Path, folder: Path) -> list[str]:
    """What became of the claims that a page holds, in a line for each verdict; nothing where it holds none."""
    found = _claims(page)
    counts = ", ".join(f"{len(claims)} {verdict}" for verdict, claims in found.items())
    lines = [f"- **{verdict}**: {'; '.join(claims)}" for verdict, claims in found.items()]
    return ["", f"[{page.stem}]({page.relative_to(folder)}) on {page.parent.name}: {counts}", "", *lines] if found else []


def _claims(page: Path) -> dict[str, list[str]]:
    """The claims of a page's tables by their verdict; one that goes on from the claim before it is told with that."""
    found: dict[str, list[str]] = {}
    for file in sorted(page.parent.glob(f"{page.stem}.*.csv")):
        before = ""
        with file.open(newline="") as text:
            rows = csv.DictReader(text)
            for row in rows if {"claim", "here"} <= set(rows.fieldnames or ()) else ():
                before = f"{before}, {row['claim'][4:]}" if row["claim"].startswith("... ") else row["claim"]
                found.setdefault(row["here"], []).append(before)
    return dict(sorted(found.items(), reverse=True))
