"""Who may import whom. A failure names the file, the line and the rule."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pandas", "numpy", "triton", "rich.progress")
# What files may import of this project (by prefix), and why. The first row that fits a file counts.
RULES: list[tuple[str, tuple[str, ...], str]] = [
    (
        "harness/specs/",
        ("harness.spec", "harness.specs", "harness.contract"),
        "a spec imports torch and references of other specs only",
    ),
    ("harness/nn/", ("harness", "harness.nn"), "the trainable skeleton knows no instrument"),
    (
        "implementations/",
        ("harness", "harness.nn", "harness.connect.checkpoint"),
        "an implementation imports its own library and the face of the harness",
    ),
    ("suites/", ("harness", "suites"), "a suite imports the instruments"),
    ("harness/", ("harness",), "the instrument imports neither suites, implementations, tests nor results"),
]
# Finer rules: files that may not import these, and why.
FORBIDDEN: list[tuple[str, tuple[str, ...], str]] = [
    ("implementations/", ("harness.specs", "harness.spec", "implementations"), "no peeking at the answer, nor at a neighbour"),
    ("suites/", ("harness.specs", "implementations"), "a suite names no spec and no implementation"),
    (
        "harness/runner.py",
        ("harness.implementation", "torch", "harness.specs"),
        "the runner loads no code under test",
    ),
    (
        "harness/report.py",
        ("harness.implementation", "harness.worker", "torch", "harness.specs"),
        "the report loads no code under test",
    ),
    ("harness/store.py", ("torch", "pandas"), "the store is plain data"),
    ("harness/plan.py", ("torch", "pandas"), "planning imports nothing heavy itself"),
    ("harness/", ("tests", "results"), "nothing imports tests or results"),
]


def files() -> list[Path]:
    return [path for folder in ("harness", "implementations", "suites") for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names if node.module == "harness")


def ours(module: str) -> bool:
    return module.partition(".")[0] in ("harness", "implementations", "suites", "tests", "results")


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def broken(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    allowed, why = next((allowed, why) for prefix, allowed, why in RULES if name.startswith(prefix))
    exact = name.startswith(("implementations/", "harness/nn/"))
    for line, module in imports(path):
        if ours(module) and not any(module == a or (under(module, a) and not (exact and a == "harness")) for a in allowed):
            parent, _, attribute = module.rpartition(".")
            if not (exact and parent == "harness" and attribute == "Unsupported"):
                yield f"{name}:{line} imports {module}: {why}"
        for prefix, forbidden, reason in FORBIDDEN:
            if name.startswith(prefix) and any(under(module, f) for f in forbidden):
                yield f"{name}:{line} imports {module}: {reason}"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_follow_the_rules(path: Path):
    assert not list(broken(path))


def test_the_rules_can_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = {
        "implementations/attention/peeks.py": "from harness.specs.attention import attention",
        "implementations/attention/copies.py": "import implementations.attention.plain",
        "suites/favours.py": "from harness.specs import attention",
        "harness/runner.py": "import torch",
        "harness/report.py": "import torch",
        "harness/specs/leans.py": "from harness import runner",
        "harness/cell.py": "import tests",
    }
    for name, text in bad.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        assert list(broken(tmp_path / name)), f"{name} breaks a rule and nobody says so"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_begins_with_a_sentence(path: Path):
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    assert len(first.split()) > 3, f"{path.relative_to(ROOT)} does not say in its first line what it is"
    assert first[-1] in ".?!", f"{path.relative_to(ROOT)} breaks off in its first line, and lists show no more: {first}"


def test_the_readme_names_every_file_of_the_instrument():
    table = (ROOT / "README.md").read_text().partition("| files | are for |\n|---|---|\n")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in row.split("|")[1].strip().split(", ")]
    assert sorted(named) == sorted(path.stem for path in (ROOT / "harness").glob("[!_]*.py"))


def test_tests_mirror_the_instrument():
    absent = {f"test_{path.name}" for path in (ROOT / "harness").glob("[!_]*.py")} - {
        path.name for path in (ROOT / "tests").iterdir()
    }
    assert not absent, f"tests/ has no {', '.join(sorted(absent))}"


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(said.split("\n")[-2].split())


@pytest.mark.parametrize(
    "module", ["harness.cli", "harness.plan", "harness.runner", "harness.report", "harness.store", "harness.machine"]
)
def test_start_up_imports_nothing_heavy(module: str):
    assert not loaded_by(f"import {module}").intersection(HEAVY), f"import {module} loads something heavy"


def test_listing_imports_nothing_heavy():
    code = "from typer.testing import CliRunner; from harness import cli; print(CliRunner().invoke(cli.app, ['list']).output[:0])"
    assert not loaded_by(code).intersection(HEAVY), "`harness list` loads something heavy"


def test_that_something_heavy_would_be_noticed():
    assert "torch" in loaded_by("import harness.spec")
