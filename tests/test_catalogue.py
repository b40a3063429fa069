"""Digests are of this project's files, the same wherever it is installed; facts are understood or refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import catalogue, growth

ROOT = Path(__file__).parents[1]
FOLDERS = {"harness": "", "suites": "harness", "implementations": "harness"}  # into which of a wheel's folders each goes
TOLD = """
import json
from harness import catalogue
names = [("suite", "memory"), ("suite", "long-context"), ("spec", "retnet"), ("implementation", "attention/plain")]
print(json.dumps([str(catalogue.HOME), *(catalogue.digest(catalogue.find(*name).path) for name in names)]))
"""


def told_in(place: Path) -> list[str]:
    said = subprocess.run([sys.executable, "-c", TOLD], cwd=place, capture_output=True, text=True, check=True, env={}).stdout
    return json.loads(said)


def test_a_wheel_and_a_checkout_have_the_same_digests(tmp_path: Path):
    """Beside an installed package lie its libraries: they have versions of their own, and are no part of a digest."""
    for name, into in FOLDERS.items():
        (tmp_path / into / name).parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path / into / name)], check=True)
    for library in ("torch", "pandas"):
        (tmp_path / f"{library}.py").write_text("this = 'a library'\n")
    installed, checked_out = told_in(tmp_path), told_in(ROOT)
    assert (installed[0], checked_out[0]) == (str(tmp_path / "harness"), str(ROOT))
    assert installed[1:] == checked_out[1:]


def test_a_digest_covers_what_a_file_imports():
    names = {file.relative_to(ROOT).as_posix() for file in catalogue.reachable(ROOT / "suites" / "memory.py")}
    assert {"suites/memory.py", "harness/cost.py", "harness/memory.py"} <= names
    assert not any(name.startswith(("implementations", "harness/specs")) for name in names)


OPERATORS = [
    item for name, item in catalogue.implementations().items() if not catalogue.load_spec(name.partition("/")[0]).of_modules
]


@pytest.mark.parametrize("item", OPERATORS, ids=lambda item: item.name)
def test_every_implementation_of_an_operator_says_how_it_grows(item: catalogue.Item):
    grows, costs = item.facts["grows"], catalogue.load_spec(item.name.partition("/")[0]).costs
    assert set(grows) == {"time", "memory"} | ({"step", "state"} if costs.step else set())
    assert set(grows.values()) <= set(growth.GROWTHS)


@pytest.mark.parametrize("said", ['{"time": "N^3"}', '{"speed": "N"}', '"N"', '{"time": 1}', '{"time": ["N"]}', "dict(time='N')"])
def test_a_growth_that_nobody_knows_is_not_understood(said: str, tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(f'"""Mine."""\ngrows = {said}\n')
    with pytest.raises(catalogue.NotFound, match="N log N"):
        _ = catalogue.Item("implementation", "mine", path).facts
    path = tmp_path / "yours.py"
    path.write_text('"""Yours."""\ngrows = {"time": "N log N"}\n')
    assert catalogue.Item("implementation", "yours", path).facts["grows"] == {"time": "N log N"}
