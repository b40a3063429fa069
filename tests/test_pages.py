"""What is published: pages with their tables and pictures, and an index that says what became of the papers' claims."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from harness import pages
from harness.cell import Cell, Record

ANSWER = Record(
    Cell("speed", "rotary", "pairs"), "ok", {}, "", {}, "here", {"torch": "2.13.0"}, 0.1, "2026-01-01T00:00:00+00:00", "0"
)


def suite(**frames: pd.DataFrame) -> SimpleNamespace:
    return SimpleNamespace(table=lambda records: frames)


def test_a_page_shows_its_pictures_and_says_what_the_grades_mean(tmp_path: Path):
    figure = SimpleNamespace(savefig=lambda file, **options: file.write_bytes(b"drawn"))
    drawing = suite(rotary=pd.DataFrame({"implementation": ["rotary/pairs"]}))
    drawing.pictures = lambda records: {"bits per byte": figure}
    page, *files = pages.write(tmp_path, "speed", drawing, [replace(ANSWER, values={"grade": "B"})])
    told = page.read_text()
    assert told.endswith("\n## Pictures\n\n![bits per byte](speed.bits-per-byte.png)\n")
    assert "grade A: within the rounding budget" in told
    assert [file.name for file in files] == ["speed.csv", "speed.bits-per-byte.png"]


def test_a_page_of_several_tables_begins_with_links_to_their_headings(tmp_path: Path):
    frames = {"Bits per byte (trained at 128; x)": pd.DataFrame({"a": [1]}), "Recall": pd.DataFrame({"a": [2]})}
    page, *_ = pages.write(tmp_path, "long-context", suite(**frames), [ANSWER])
    told = page.read_text()
    assert "On this page: [Bits per byte](#bits-per-byte-trained-at-128-x) · [Recall](#recall)\n" in told


def test_the_index_says_which_claims_of_the_papers_showed(tmp_path: Path):
    claims = pd.DataFrame({"claim": ["A is faster", "... and smaller", "B holds"], "here": ["shows", "not resolved", "shows"]})
    pages.write(tmp_path, "speed", suite(Claims=claims, Other=pd.DataFrame({"a": [1]})), [ANSWER])
    told = (tmp_path / "README.md").read_text()
    assert "[speed](tables/here/speed.md) on here: 2 shows, 1 not resolved\n" in told
    assert told.endswith("- **shows**: A is faster; B holds\n- **not resolved**: A is faster, and smaller\n")
