"""What asv is told to follow is what the suites would ask, read from files alone."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import plan

ROOT = Path(__file__).parents[1]
CI = ROOT / "ci"


@pytest.fixture(scope="module")
def registry():
    sys.path.insert(0, str(CI))
    yield importlib.import_module("benchmarks_asv._registry")
    sys.path.remove(str(CI))


def planned(**words: str) -> list:
    return plan.cells(*plan.selection(words))


def elsewhere(folder: Path) -> SimpleNamespace:
    """The code of this checkout in a folder of its own, as the catalogue of a commit that is asked tells of it."""
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in ("harness", "suites")), str(folder)], check=True)
    return SimpleNamespace(PACKAGE=folder / "harness", HOME=folder)


def test_names_are_those_of_the_cells_that_are_planned(registry):
    found = [name for spec in registry.specs() for name in registry.cells(spec)]
    cells = planned(suite="memory", scale="smoke", length=str(registry.LONGEST), dtype="float32")
    assert sorted(found) == sorted(f"{c.subject} {c.case} {c.settings['form']} {c.settings['length']}" for c in cells)


def test_names_of_kernels_are_those_that_are_planned(registry):
    found = [name for spec in registry.specs() for name in registry.shapes(spec)]
    assert sorted(found) == sorted(f"{c.subject} {c.case} {c.dtype} {c.settings['target']}" for c in planned(suite="kernels"))


def test_everybody_is_judged(registry):
    found = {name for spec in registry.specs() for name in registry.judged(spec)}
    assert found == {f"{c.subject} {c.dtype}" for c in planned(suite="correctness", family="normal")}


def test_listing_loads_nothing_heavy_and_gives_each_spec_a_class():
    script = (
        "import sys, json; from benchmarks_asv import correctness, kernels, memory, speed; "
        "told = speed.rotary; print(json.dumps([told.__name__, told.version, [*told.time_forward.params[0]], "
        "[name for name in ('torch', 'pandas', 'harness') if name in sys.modules]]))"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=CI, capture_output=True, text=True, check=True).stdout
    name, version, cells, heavy = json.loads(said)
    assert (name, len(version.split()), heavy) == ("rotary", 2, [])
    assert "rotary/pairs plain forward 64" in cells


def test_a_commit_that_measures_otherwise_is_told_by_the_file(registry, tmp_path: Path):
    here = SimpleNamespace(PACKAGE=ROOT / "harness", HOME=ROOT)
    assert registry.unlike("memory", "rotary", here) == ""
    there = elsewhere(tmp_path)
    (tmp_path / "harness" / "cost.py").write_text("# counts otherwise\n")
    assert registry.unlike("memory", "rotary", there) == "harness/cost.py"


def test_a_commit_with_other_comments_and_layout_measures_as_this_one(registry, tmp_path: Path):
    """Its digests are the same, so its results are comparable."""
    there = elsewhere(tmp_path)
    cost = tmp_path / "harness" / "cost.py"
    cost.write_text(cost.read_text() + "\n\n# says nothing to Python\n")
    assert registry.unlike("memory", "rotary", there) == ""


def test_the_version_follows_definition_and_instrument_not_the_code_measured(registry):
    measuring = {file for path in registry._measuring("memory", "rotary").values() for file in registry.catalogue.reachable(path)}
    assert {ROOT / "harness" / "specs" / "rotary.py", ROOT / "suites" / "memory.py"} <= measuring
    assert not [file for file in measuring if "implementations" in file.parts]


def test_time_is_that_of_the_samples_of_the_worker(registry, monkeypatch: pytest.MonkeyPatch):
    """As asv does it: the timer before and after each call, setup before each."""
    speed = importlib.import_module("benchmarks_asv.speed")
    asked = []
    monkeypatch.setattr(
        speed._asking, "timed", lambda name: asked.append(name) or SimpleNamespace(values={"seconds": [0.5, 0.25]})
    )
    one, found = speed.rotary(), []
    for _ in range(2):
        one.setup("rotary/pairs plain forward 64")
        began = one.timer()
        one.time_forward("rotary/pairs plain forward 64")
        found.append(one.timer() - began)
    assert (found, one.repeat, len(asked)) == ([0.5, 0.25], 2, 1)


@pytest.mark.parametrize(("outcome", "raised"), [("unsupported", NotImplementedError), ("wrong", AssertionError)])
def test_what_is_unsupported_is_skipped_and_what_is_wrong_fails(registry, outcome: str, raised: type[Exception]):
    from harness.cell import Cell, Record

    asking = importlib.import_module("benchmarks_asv._asking")
    cell = Cell("speed", "rotary", "pairs", case="plain", dtype="float32")
    record = Record(cell, outcome, {}, "the reason", {}, "here", {}, 0.1, "2026", "r")
    with pytest.raises(raised, match="the reason"):
        asking.one([record])
