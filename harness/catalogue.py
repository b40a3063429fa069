"""The path is the registry: finds specs, implementations and suites by their files, reads literals, imports none of them.

    harness/specs/<spec>.py                      a spec; files that start with _ are parts of specs
    implementations/<spec>/<name>.py             an implementation, named <spec>/<name>
    suites/<suite>.py, suites/<suite>/           a suite; `_` in a file's name is `-` in the suite's

An implementation from elsewhere is named by its file (`./mine.py`), its module (`package.module`, `package.module:prepare`),
or by the entry-point group `harness.implementations` (name `spec/name`, value `package.module`).
"""

import ast
import difflib
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parent
# A checkout has the two folders beside the package, a wheel carries them inside it.
HOME = PACKAGE.parent if (PACKAGE.parent / "suites" / "correctness.py").exists() else PACKAGE
GROUP = "harness.implementations"
MANY, FEW = 24, 5  # names: of more than so many a message lists a few
# What may grow with length: time and memory of the whole, of one step the time, and what goes from step to step.
GROWING = ("time", "step", "memory", "state")
GROWTHS = ("1", "N", "N log N", "N^(4/3)", "N^2")  # the words of harness.growth, which a listing need not load
# What an implementation may say of itself: how to tell whether it is well said, and an example.
FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "spec": (lambda fact: isinstance(fact, str), 'spec = "attention"'),
    "devices": (lambda fact: _among(fact, ("cpu", "cuda")), 'devices = ("cpu", "cuda")'),
    "dtypes": (lambda fact: _among(fact, ("float32", "float16", "bfloat16")), 'dtypes = ("float32", "bfloat16")'),
    "gradients": (
        lambda fact: isinstance(fact, bool) or _among(fact, ("cpu", "cuda")),
        'gradients = True, or gradients = ("cuda",)',
    ),
    "variants": (
        lambda fact: (
            isinstance(fact, dict) and bool(fact) and all(isinstance(k, str) and isinstance(v, dict) for k, v in fact.items())
        ),
        'variants = {"tile_16": {"tile": 16}, "tile_64": {"tile": 64}}',
    ),
    "requires": (
        lambda fact: isinstance(fact, tuple | list) and all(isinstance(one, str) for one in fact),
        'requires = ("triton",)',
    ),
    "compiles": (
        lambda fact: isinstance(fact, dict) and all(isinstance(sizes, dict) for sizes in fact.values()),
        'compiles = {"wide": {"n": 2048, "d": 128}}',
    ),
    "weights_of": (lambda fact: isinstance(fact, str) and "/" in fact, 'weights_of = "transformer_rope/torch_sdpa"'),
    "takes_model": (lambda fact: isinstance(fact, bool), "takes_model = True"),
    "deterministic": (lambda fact: isinstance(fact, bool), "deterministic = True"),
    "grows": (
        lambda fact: isinstance(fact, dict) and set(fact) <= set(GROWING) and all(word in GROWTHS for word in fact.values()),
        f'grows = {{"time": "N log N", "memory": "N"}}, of {", ".join(GROWING)}; known: {", ".join(GROWTHS)}',
    ),
}


class WrongRequest(ValueError):
    """The request itself makes no sense; the message says what would."""


class NotFound(ValueError):
    """What was asked for is not there; the message says what is."""


@dataclass(frozen=True)
class Item:
    """A spec, implementation or suite: its name, its file, and the literals and first sentence of that file."""

    kind: str
    name: str
    path: Path

    @property
    def facts(self) -> Mapping[str, Any]:
        """Literals at the top level of the file; those of an implementation are checked, and here its folder says `spec`."""
        facts = _read(self.path)[1]
        for name, (well_said, example) in FACTS.items() if self.kind == "implementation" else ():
            if name in facts and not well_said(facts[name]):
                raise NotFound(
                    f"{self.path.name} says {name} = {facts[name]!r}, which is not understood.\n  For example: {example}"
                )
        if self.kind == "implementation" and self.path.parent.parent == HOME / "implementations":
            return {"spec": self.path.parent.name, **facts}
        return facts

    @property
    def contract(self) -> str:
        """The contract of a spec, as it stands in its file; a spec of a family may take it from a neighbour by name."""
        for node in ast.walk(_tree(self.path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "spec" and node.args:
                return _literal(self.path, node.args[0])
        return ""

    @property
    def doc(self) -> str:
        """The first line of the file's docstring; read without parsing the file, which a list of all would notice."""
        with self.path.open(encoding="utf-8") as file:
            first = file.readline().strip()
        return first.strip('"') if first.startswith('"""') else _read(self.path)[0]


def specs() -> dict[str, Item]:
    """Every spec by name."""
    files = sorted((PACKAGE / "specs").glob("[!_]*.py"))
    return {path.stem: Item("spec", path.stem, path) for path in files}


def implementations(spec: str | None = None) -> dict[str, Item]:
    """Every implementation by `spec/name`: those of this project and those of installed packages."""
    files = sorted((HOME / "implementations").glob("*/[!_]*.py"))
    found = {f"{path.parent.name}/{path.stem}": path for path in files}
    for point in _points():
        found.setdefault(point.name, _module_file(point.value.partition(":")[0]))
    return {name: Item("implementation", name, path) for name, path in found.items() if spec in (None, name.partition("/")[0])}


@cache
def _points() -> importlib.metadata.EntryPoints:
    """What installed packages name as implementations; read once, for all that is installed is searched for it."""
    return importlib.metadata.entry_points(group=GROUP)


def suites() -> dict[str, Item]:
    """Every suite by name."""
    folder = HOME / "suites"
    files = sorted([*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__init__.py")])
    named = {(path.parent.name if path.stem == "__init__" else path.stem).replace("_", "-"): path for path in files}
    return {name: Item("suite", name, path) for name, path in sorted(named.items())}


def find(kind: str, name: str) -> Item:
    """The spec, suite or implementation of this name; NotFound, with a suggestion, where there is none."""
    known = {"spec": specs, "suite": suites, "implementation": implementations}[kind]()
    if name in known:
        return known[name]
    raise NotFound(f"no {kind} named {name!r}.{suggestion(name, known, f'harness list {kind}s')}")


def implementation(spec: str, name: str) -> Item:
    """The implementation `name` of a spec: a name of this project, a file, or a module."""
    full = f"{spec}/{name}"
    own = HOME / "implementations" / spec / f"{name}.py"
    if name.isidentifier() and not name.startswith("_") and own.is_file():
        return Item("implementation", full, own)
    known = implementations()
    if full in known:
        return known[full]
    if name.endswith(".py"):
        path = Path(os.path.realpath(os.path.expanduser(name)))
        if not path.is_file():
            raise NotFound(
                f"no file {name!r} to take an implementation from.\n"
                f"  Make one: harness new implementation {path.stem} spec={spec or 'NAME'}"
            )
        return Item("implementation", name, path)
    if "." in name or ":" in name:
        return Item("implementation", name, _module_file(name.partition(":")[0]))
    ours = [key.partition("/")[2] for key in known if key.startswith(f"{spec}/")]
    raise NotFound(f"no implementation of {spec} named {name!r}.{suggestion(name, ours)}")


def suggestion(word: str, known: Iterable[str], listing: str = "harness list") -> str:
    """The nearest known word, and all of them: the second half of an error message. Of many, a few and the command for all."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    said = f" Did you mean {near[0]!r}?" if near else ""
    if len(known) <= MANY:
        return f"{said}\n  known: {', '.join(known)}"
    few = ", ".join(difflib.get_close_matches(word, known, n=FEW, cutoff=0.3))
    return f"{said}\n  " + (f"near: {few}; " if few else "") + f"all {len(known)}: {listing}"


def load(path: Path) -> ModuleType:
    """Import a file by its path, once; a package (`__init__.py`) may import its own parts relatively."""
    inside = any(path.resolve().is_relative_to(HOME / part) for part in ("implementations", "suites"))
    name = _module_name(path) if inside else f"harness_at_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not inside and (path.parent / "__init__.py").exists():
        return _load_from_package(path)
    if not inside and str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # a file of one's own finds its neighbours, as a script does
    locations = [str(path.parent)] if path.name == "__init__.py" else None
    found = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    if found is None or found.loader is None:
        raise NotFound(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_from_package(path: Path) -> ModuleType:
    """A module of somebody's package, by its full name, so that its relative imports work."""
    names, folder = [path.stem] if path.stem != "__init__" else [], path.resolve().parent
    while (folder / "__init__.py").exists():
        names, folder = [folder.name, *names], folder.parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(".".join(names))


def load_spec(name: str) -> Any:
    """The `Spec` of this name, imported."""
    find("spec", name)
    return getattr(importlib.import_module(f"harness.specs.{name}"), name)


@cache
def digest(path: Path) -> str:
    """sha256 of a file and of all files of this project, or beside it, that it imports, directly or not: of what they say to
    Python, so that comments and layout make no record stale."""
    total = hashlib.sha256()
    for file in sorted(reachable(path.resolve()), key=_place):
        total.update(file.name.encode() + b"\0" + ast.dump(_tree(file)).encode())
    return total.hexdigest()[:16]


@cache
def commit() -> str:
    """The commit of the checkout that this harness is run from, with a + where files differ from it; none where there is none."""
    git = ["git", "-C", str(HOME)]
    words = [*git, "rev-parse", "--show-toplevel", "HEAD"]
    changes = [*git, "status", "--porcelain", "--untracked-files=no", "--", "harness", "implementations", "suites"]
    try:
        said, changed = (subprocess.run(one, capture_output=True, text=True, check=False) for one in (words, changes))
    except OSError:
        return ""
    top, _, digits = said.stdout.strip().partition("\n")
    if said.returncode or Path(top).resolve() != HOME.resolve():
        return ""  # not of a checkout that a virtual environment with an installed harness happens to lie in
    return digits[:12] + ("+" if changed.stdout else "")


def reachable(path: Path) -> set[Path]:
    """The files that `digest` is of: those of this project, or beside `path`, and no library, wherever this is installed.

    A file that says `only_tells = True` turns records into tables or pictures: what it says decides none, and is no part of it.
    """
    seen: set[Path] = set()
    waiting = [path, *(path.parent.glob("*.py") if path.name == "__init__.py" else [])]
    while waiting:
        file = waiting.pop()
        if file not in seen and not _read(file)[1].get("only_tells"):
            seen.add(file)
            waiting += _imported(file)
    return seen


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Files of this project, or in the folder of `path`, that it imports when it runs."""
    files = []
    for node in _executed(_tree(path)):
        if isinstance(node, ast.Import):
            modules = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            modules = [(node.level, base), *((node.level, f"{base}.{alias.name}".lstrip(".")) for alias in node.names)]
        else:
            continue
        for level, module in modules:
            roots = [path.parents[level - 1]] if level else [*_homes(module), path.parent]
            for root in roots:
                stem = root.joinpath(*module.split("."))
                files += [file for file in (stem.with_suffix(".py"), stem / "__init__.py") if module and file.is_file()]
    return tuple(files)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which never run."""
    waiting = deque([tree])
    while waiting:
        yield (node := waiting.popleft())
        if isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, "id", ""), getattr(node.test, "attr", "")):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _place(file: Path) -> str:
    """Where a file lies in a checkout, wherever this is installed; of a file from elsewhere its whole path."""
    inside = [root for root in (HOME / "implementations", HOME / "suites", PACKAGE) if file.is_relative_to(root)]
    return f"{inside[0].name}/{file.relative_to(inside[0]).as_posix()}" if inside else str(file)


def _homes(module: str) -> list[Path]:
    """The folder under which a module of this project lies; of a library none, though in a wheel it lies beside the package."""
    top = module.partition(".")[0]
    return [PACKAGE.parent] if top == PACKAGE.name else [HOME] if top in ("implementations", "suites") else []


def _among(fact: Any, known: Sequence[str]) -> bool:
    return isinstance(fact, tuple | list) and bool(fact) and all(one in known for one in fact)


def _module_name(path: Path) -> str:
    parts = path.resolve().relative_to(HOME).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_module(name: str) -> bool:
    """Whether a top-level name is that of an installed module already, elsewhere than in the current folder."""
    found = _located(name) if name.isidentifier() else None
    return found is not None and found.origin is not None and Path(found.origin).parent != Path.cwd()


def _module_file(module: str) -> Path:
    """The file of a module, without importing it or its packages: what is under test runs in workers alone."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    found = _located(module)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise NotFound(
            f"no module {module!r} can be imported from here.\n  Install its package, or give its file: impl=./FILE.py"
        )
    return Path(found.origin)


def _located(module: str) -> ModuleSpec | None:
    """Where an import would find a module; unlike importlib.util.find_spec it runs no package on the way there."""
    top, *parts = module.split(".")
    if not all([top, *parts]):
        return None
    found = next(filter(None, (finder.find_spec(top, None) for finder in sys.meta_path)), None)
    for part in parts:
        found = PathFinder.find_spec(part, list(found.submodule_search_locations or ())) if found else None
    return found


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise NotFound(f"{path} is not Python: {error.msg} (line {error.lineno})") from None
    except (RecursionError, MemoryError):
        raise NotFound(f"{path} cannot be read as Python: an expression in it is nested too deeply") from None


def _literal(path: Path, node: ast.expr) -> str:
    """The text that an expression stands for: itself, or a name that a file imported by this one gives to it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    names = [_read(file)[1].get(node.id) for file in (path, *_imported(path)) if isinstance(node, ast.Name)]
    return next((str(name) for name in names if name), "")


@cache
def _read(path: Path) -> tuple[str, dict[str, Any]]:
    tree = _tree(path)
    facts = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if len(targets) == 1 and isinstance(targets[0], ast.Name):
            try:
                facts[targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                if targets[0].id in FACTS:
                    raise NotFound(
                        f"{path.name}:{node.lineno} {targets[0].id} must be a literal.\n  For example: {FACTS[targets[0].id][1]}"
                    ) from None
    return (ast.get_docstring(tree) or "").partition("\n")[0], facts
