"""Every saboteur ends with its own outcome and a sentence, its honest look-alike is accepted, and nobody else suffers.

Those in `timed` are honest at the small sizes at which everything is judged, and cheat where they are timed.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from harness import catalogue, ceilings, runner
from harness.cell import Cell, Record

FOLDER = Path(__file__).parent / "saboteurs"
SABOTEURS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "honest")
TIMED = sorted((FOLDER / "timed").glob("*.py"))
LIMITS = runner.Limits(time_s=15.0, memory_bytes=2**30, workers=2)


def cell(path: Path, variant: str, **changes: object) -> Cell:
    fields = {"suite": "correctness", "spec": "rotary", "case": "plain", "dtype": "float32", "settings": {"family": "normal"}}
    fields |= catalogue.Item("implementation", path.stem, path).facts.get("question", {})
    return Cell(**{**fields, "implementation": str(path), "variant": variant, **changes})


def ask(*cells: Cell) -> list[Record]:
    records = {record.cell: record for record in runner.run([(cell, {}) for cell in cells], LIMITS, None)}
    return [records[cell] for cell in cells]


@pytest.mark.parametrize("path", SABOTEURS, ids=lambda path: path.stem)
def test_a_saboteur_is_named_and_its_lookalike_accepted(path: Path):
    facts = catalogue.Item("implementation", path.stem, path).facts
    sabotage, lookalike, after = ask(cell(path, "sabotage"), cell(path, "lookalike"), cell(path, "lookalike", case="wide"))
    assert sabotage.outcome == facts["expected"]["sabotage"], sabotage.note
    reasons = facts["reason"] if isinstance(facts["reason"], tuple) else (facts["reason"],)
    assert any(reason in sabotage.note for reason in reasons), sabotage.note
    assert lookalike.outcome == facts["expected"]["lookalike"], lookalike.note
    assert after.outcome == "ok", f"what came after was not answered: {after.note}"


def test_cells_of_others_are_answered_beside_saboteurs():
    bad = [cell(FOLDER / f"{name}.py", "sabotage") for name in ("hangs", "is_killed", "raises", "eats_memory")]
    good = [cell(FOLDER / "raises.py", "lookalike", case=case) for case in ("plain", "wide", "one_step")]
    records = ask(*bad, *good)
    assert [record.outcome for record in records] == ["timed_out", "crashed", "crashed", "out_of_memory", "ok", "ok", "ok"]


def test_no_process_outlives_the_run():
    ask(cell(FOLDER / "leaves_a_child.py", "sabotage"), cell(FOLDER / "hangs.py", "sabotage"))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (
        left := [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "10000"]]
    ):
        time.sleep(0.1)
    assert not left, "a child of an ended worker is still there"


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Cell, Record]]:
    """Answers of suite=speed to all saboteurs under timing, by workers that find ceilings in their cache."""
    settings = {"scale": "smoke", "threads": 1, "form": "forward", "batch": 1, "length": 64, "round": 0}
    asked = {"suite": "speed", "spec": "layer_norm", "settings": settings}
    cells = [cell(path, variant, **asked) for path in TIMED for variant in ("sabotage", "lookalike")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        ceilings.folder().mkdir(parents=True)
        for threads in (0, 1):
            high = ceilings.Ceilings(threads, 1e12, 1e13, dict.fromkeys(ceilings.DTYPES, 1e14))
            ceilings.file("cpu", threads).write_text(json.dumps(asdict(high)))
        forkserver._forkserver._stop()  # workers have the environment that its server started with
        yield dict(zip(cells, ask(*cells), strict=True))
    forkserver._forkserver._stop()


@pytest.mark.parametrize("path", TIMED, ids=lambda path: path.stem)
def test_who_cheats_under_timing_is_named_and_the_lookalike_is_timed(path: Path, timed: dict[Cell, Record]):
    facts = catalogue.Item("implementation", path.stem, path).facts
    sabotage, lookalike = (
        next(record for asked, record in timed.items() if (asked.implementation, asked.variant) == (str(path), variant))
        for variant in ("sabotage", "lookalike")
    )
    assert sabotage.outcome == facts["expected"]["sabotage"], sabotage.note
    assert "seconds" not in sabotage.values, "what is wrong has no time"
    reasons = facts["reason"] if isinstance(facts["reason"], tuple) else (facts["reason"],)
    assert any(reason in sabotage.note for reason in reasons), sabotage.note
    assert lookalike.outcome == facts["expected"]["lookalike"], lookalike.note
    assert lookalike.values["seconds"]
