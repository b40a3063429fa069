"""Digests are of this project's files, the same wherever it is installed; facts are understood or refused."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness import catalogue, growth

ROOT = Path(__file__).parents[1]
FOLDERS = {"harness": "", "suites": "harness", "implementations": "harness"}  # into which of a wheel's folders each goes
TOLD = """
import ast
import json
import re
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


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# what it is\ndef f( x ):\n    return x+1  # one more\n", True),
        ("def f(x):\n    return x + 2\n", False),
        ('def f(x):\n    "one more"\n    return x + 1\n', False),
    ],
    ids=["a comment and layout", "another number", "a docstring, which a program can read"],
)
def test_a_digest_is_of_what_a_file_says_to_python(text: str, same: bool, tmp_path: Path):
    digests = []
    for said in ("def f(x):\n    return x + 1\n", text):
        (tmp_path / "mine.py").write_text(said)
        for cached in (catalogue.digest, catalogue._tree, catalogue._read, catalogue._imported):
            cached.cache_clear()
        digests.append(catalogue.digest(tmp_path / "mine.py"))
    assert (digests[0] == digests[1]) is same


def test_a_digest_covers_what_a_file_imports():
    names = {file.relative_to(ROOT).as_posix() for file in catalogue.reachable(ROOT / "suites" / "memory.py")}
    assert {"suites/memory.py", "harness/cost.py", "harness/memory.py"} <= names
    assert not any(name.startswith(("implementations", "harness/specs")) for name in names)


@pytest.mark.parametrize("suite", catalogue.suites().values(), ids=lambda item: item.name)
def test_no_record_is_stale_because_planning_or_storing_changed(suite: catalogue.Item):
    names = {file.stem for file in catalogue.reachable(suite.path) if file.parent == ROOT / "harness"}
    assert "cell" in names, "the check sees nothing"
    assert not names & {"cli", "plan", "runner", "store", "report", "progress"}


@pytest.mark.parametrize(
    ("text", "followed"),
    [
        ("if TYPE_CHECKING:\n    import near", False),
        ("if typing.TYPE_CHECKING:\n    import near", False),
        ("if TYPE_CHECKING:\n    import far\nelse:\n    import near", True),
        ("if not TYPE_CHECKING:\n    import near", True),
        ("def f():\n    import near", True),
    ],
)
def test_a_digest_follows_an_import_that_runs(text: str, followed: bool, tmp_path: Path):
    (tmp_path / "near.py").touch()
    (tmp_path / "mine.py").write_text(text)
    assert (tmp_path / "near.py" in catalogue.reachable(tmp_path / "mine.py")) == followed


SUITES = sorted({file for item in catalogue.suites().values() for file in catalogue.reachable(item.path)})
TELLING = {
    path.stem
    for folder in ("harness", "suites")
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^only_tells = True\b", path.read_text(), re.MULTILINE)
}
DECIDES = {"plan", "digests", "cost", "measure"}  # what makes a cell and its record, in a suite or a task of it


def test_no_record_hangs_on_a_file_that_only_tells():
    """No digest holds it: an old record would pass for the answer of new code."""
    users = _users({path.stem if path.name != "__init__.py" else path.parent.name: path.read_text() for path in SUITES})
    assert {"extrapolation.table", "extrapolation.pictures"} <= users, "the check sees nothing"
    assert not (found := [name for name in users if name.rpartition(".")[2] in DECIDES]), (
        f"{', '.join(found)} ask what only tells"
    )


def test_that_a_record_that_hangs_on_one_would_be_noticed():
    files = {
        "task": "from . import tables as told\nfrom .further import far\n"
        "def table(records): return told.of(records)\ndef measure(cell): return far(cell)\ndef cost(cell): return 1.0\n",
        "further": "from .tables import WIDE\ndef _wide(x): return x + WIDE\ndef far(x): return _wide(x)\n",
    }
    assert _users(files) == {"task.table", "task.measure", "further._wide", "further.far"}


def _users(files: Mapping[str, str]) -> set[str]:
    """`module.name` of all that names something from a file that only tells, or names what names it."""
    parts: dict[str, set[str]] = {}
    for own, text in files.items():
        tree = ast.parse(text)
        stands_for: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                whole = node.module in (None, "harness")  # `from . import tables`, or `from .tables import of`
                module = "" if whole else (node.module or "").rpartition(".")[2] + "."
                stands_for |= {one.asname or one.name: module + one.name for one in node.names}
        for node in tree.body:
            inside = list(ast.walk(node))
            names = [n for n in inside if isinstance(n, ast.Name)]
            local = {n.arg for n in inside if isinstance(n, ast.arg)} | {n.id for n in names if isinstance(n.ctx, ast.Store)}
            named = {stands_for.get(n.id, f"{own}.{n.id}") for n in names if n.id not in local}
            of_modules = [n for n in inside if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
            named |= {f"{stands_for[n.value.id]}.{n.attr}" for n in of_modules if n.value.id in stands_for.keys() - local}
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                parts[f"{own}.{node.name}"] = named
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                parts |= {f"{own}.{one.id}": named for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    found: set[str] = set()
    while (
        more := {name for name, named in parts.items() if any(n in found or n.partition(".")[0] in TELLING for n in named)}
        - found
    ):
        found |= more
    return found


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


def test_an_installed_package_names_implementations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (told := tmp_path / "theirs-1.0.dist-info").mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{catalogue.GROUP}]\nattention/theirs = their_module:make\n")
    (tmp_path / "their_module.py").write_text('"""Theirs."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    catalogue._points.cache_clear()
    try:
        assert catalogue.implementation("attention", "theirs").path == tmp_path / "their_module.py"
    finally:
        catalogue._points.cache_clear()


@pytest.mark.parametrize(
    "name", [".", "./", "...", "~nobody_of_this_name/mine.py", "loop.py", "no.mine", "mine.no", "..mine", "__main__.x"]
)
def test_whatever_stands_for_an_implementation_is_found_or_refused_in_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(catalogue.NotFound):
        catalogue.implementation("attention", name)


@pytest.mark.parametrize("module", ["raises.mine", "raises.inner.mine", "raises.bare.mine", "bare.inner.mine", "raises"])
def test_a_module_is_found_where_its_package_lies_and_nothing_of_it_runs(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may hang, print, or set signal handlers: that is for a worker. `bare` has no __init__.py."""
    for name in (
        "raises/__init__",
        "raises/mine",
        "raises/inner/__init__",
        "raises/inner/mine",
        "raises/bare/mine",
        "bare/inner/mine",
    ):
        (file := tmp_path / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise SystemExit('this ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    place = tmp_path / module.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    assert catalogue.implementation("attention", f"{module}:prepare").path == file


def test_a_name_that_stands_for_this_program_is_no_module_of_anybody():
    assert not catalogue.is_module("__main__")


@pytest.mark.parametrize("text", ["x = " + "-" * 100_000 + "1", "x = " + "+".join("1" * 20_000)], ids=["signs", "sums"])
def test_a_file_too_deep_to_be_read_is_refused_in_words(text: str, tmp_path: Path):
    file = tmp_path / "deep.py"
    file.write_text(text)
    with pytest.raises(catalogue.NotFound, match="nested too deeply"):
        assert catalogue.Item("implementation", "deep.py", file).facts


def test_a_file_of_this_project_claims_what_its_folder_says():
    path = str(catalogue.implementations()["rotary/pairs"].path)
    assert catalogue.implementation("", path).facts["spec"] == "rotary"
