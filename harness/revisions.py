"""Code as it is at a commit, copied to a temporary folder, and the harness run there; the checkout of the user is only read."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness import catalogue, machine
from harness.cell import Record
from harness.plan import WrongRequest, outside
from harness.store import Store

WORKING_TREE = "."
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: BASE or HEAD, the revision as it was asked for, its commit, and where it lies."""

    role: str
    revision: str
    commit: str
    place: Path
    top: Path  # of the checkout of the user

    def __str__(self) -> str:
        return f"{self.role} ({self.revision}{f', {self.commit[:8]}' if self.commit else ''})"

    @property
    def has_harness(self) -> bool:
        """Whether it is of a checkout of the harness; any other is asked by the installed one."""
        return (self.place / "harness" / "__init__.py").is_file()

    def settings(self, suite: str) -> dict[str, object] | None:
        """The words of its own that a suite has on this side; None where there is no such suite."""
        home = self.place if (self.place / "suites").is_dir() else catalogue.HOME
        stem = suite.replace("-", "_")
        path = next((p for p in (home / "suites" / f"{stem}.py", home / "suites" / stem / "__init__.py") if p.is_file()), None)
        return dict(catalogue.Item("suite", suite, path).facts.get("settings", {})) if path else None

    @property
    def without_tables(self) -> list[str]:
        """The words by which this side keeps records alone: tables and pictures take longer than what is timed."""
        home = self.place if self.has_harness else catalogue.PACKAGE.parent
        file = home / "harness" / "cli.py"
        known = catalogue.Item("command", "run", file).facts.get("RUN", {}) if file.is_file() else {}
        return ["tables=false"] if "tables" in known else []


@dataclass(frozen=True)
class Asked:
    """What came of `harness run` on one side: records, or in words why there are none."""

    records: Sequence[Record]
    complaint: str
    wrong_request: bool


@contextmanager
def checkouts(base: str, head: str) -> Iterator[tuple[Side, Side]]:
    """Both sides in folders of their own, which are gone afterwards."""
    top = repository()
    commits = [commit(top, revision) for revision in (base, head)]
    with tempfile.TemporaryDirectory(prefix="harness-compare-") as folder:
        sides = []
        for role, revision, digits in zip(("BASE", "HEAD"), (base, head), commits, strict=True):
            side = Side(role, revision, digits, Path(folder).resolve() / role.lower(), top)
            side.place.mkdir()
            (_copy_working_tree if revision == WORKING_TREE else _unpack)(top, side)
            _check_that_its_code_runs(side)
            sides.append(side)
        yield sides[0], sides[1]


def repository() -> Path:
    """The checkout that the current folder lies in."""
    said = _git(Path.cwd(), "rev-parse", "--show-toplevel")
    if said.returncode:
        raise WrongRequest(
            f"{Path.cwd()} is in no git checkout, so it has no revisions to compare.\n"
            "  Go into the checkout, or compare what is stored: harness compare run=ONE run=OTHER suite=NAME"
        )
    return Path(said.stdout.decode().strip())


def commit(top: Path, revision: str) -> str:
    """The digits of a revision; of the working tree none."""
    if revision == WORKING_TREE:
        return ""
    said = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if said.returncode:
        if not _git(top, "rev-list", "--max-count=1", "--all").stdout.strip():
            raise WrongRequest(
                f"there are no commits yet in {top}, so there is no {revision!r} to compare with.\n"
                "  Make one: git add . && git commit\n"
                "  Or compare what is stored: harness compare run=ONE run=OTHER suite=NAME"
            )
        shallow = _git(top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
        raise WrongRequest(
            f"git knows no revision {revision!r} in {top}.\n"
            + ("  This clone has no earlier history: git fetch --unshallow\n" if shallow else "")
            + "  A revision is a commit, a branch or a tag; . is the working tree as it is.\n"
            "  See which there are: git log --oneline"
        )
    return said.stdout.decode().strip()


def handed(words: Mapping[str, str], sides: Sequence[Side]) -> dict[str, str]:
    """The words as both sides understand them: files by their place in the checkout. What is the same for both is refused."""
    asked = words["impl"].split(",") if "impl" in words else []
    names = [_of_checkout(name, sides[0].top) if outside(name) else name for name in asked]
    for side in sides:
        if not (side.has_harness or any(map(outside, names)) or _announces_its_own(side)):
            raise WrongRequest(_nothing_of_its_own(side))
        for name in filter(outside, names):
            lies = (side.place / name).resolve() if name.endswith(".py") else _module(name.partition(":")[0], side)
            if lies and not lies.is_relative_to(side.place):
                raise WrongRequest(_the_same(name, lies, side))
    return {**words, "impl": ",".join(names)} if asked else dict(words)


def ask(side: Side, suite: str, words: Sequence[str], results: Path, watch: Callable[[float], None]) -> Asked:
    """Run a suite on one side in new processes; `watch` is told now and then how many seconds it has taken."""
    own = [f"results={results}", "rerun=true", *side.without_tables]
    command = [sys.executable, "-m", "harness", "run", f"suite={suite}", *words, *own]
    results.mkdir(parents=True)
    began = time.monotonic()
    with (results / "output").open("wb") as out, (results / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=side.place, env=_environment(side), stdout=out, stderr=errors, preexec_fn=machine.end_with_parent
        )
        try:
            while process.returncode is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_BETWEEN_LOOKS)
                watch(time.monotonic() - began)
        finally:
            _end(process)
    records = list(Store(results).read(suite))
    return Asked(records, "" if records else _last_words(results / "errors", side), process.returncode == 2)


def _of_checkout(name: str, top: Path) -> str:
    """A file by its place in the checkout, named from the current folder, wholly, or as it is told; a module is left as it is."""
    if not name.endswith(".py"):
        return name
    file = Path(name).expanduser()
    if not file.exists() and (top / file).exists():
        return file.as_posix()
    file = file.parent.resolve() / file.name
    if not file.is_relative_to(top):
        raise WrongRequest(
            f"impl={name} lies outside of {top}, so it is the same for both revisions.\n"
            "  Give a file of the checkout, or compare what is stored: harness compare run=ONE run=OTHER suite=NAME"
        )
    return file.relative_to(top).as_posix()


def _module(name: str, side: Side) -> Path | None:
    """Where a side finds a module, its parent packages imported; None where it finds none, as it will say itself."""
    code = "import importlib.util, os, sys; print(os.path.realpath(importlib.util.find_spec(sys.argv[1]).origin))"
    said = _python(side, code, name)
    return None if said.returncode else Path(said.stdout.splitlines()[-1])


def _announces_its_own(side: Side) -> bool:
    """Whether a package that lies in a side names implementations to the harness."""
    files = [_module(point.module, side) for point in importlib.metadata.entry_points(group=catalogue.GROUP)]
    return any(file and file.is_relative_to(side.place) for file in files)


def _nothing_of_its_own(side: Side) -> str:
    return (
        f"nothing of {side} would be asked: it has no harness, and what the installed one brings is the same for both.\n"
        "  Name a file of the checkout: impl=./FILE.py, or its module: impl=PACKAGE.MODULE"
    )


def _the_same(name: str, lies: Path, side: Side) -> str:
    return (
        f"impl={name} is not that of {side}: this Python takes it from {lies}, so it is the same for both revisions.\n"
        "  Where its package lies in a folder of the checkout, name that: PYTHONPATH=FOLDER harness compare ..."
    )


def _unpack(top: Path, side: Side) -> None:
    """A commit, by `git archive`: unlike a worktree it leaves nothing in the repository, not even when it is killed."""
    archive = side.place.with_suffix(".tar")
    said = _git(top, "archive", "--format=tar", f"--output={archive}", side.commit)
    if said.returncode:
        raise WrongRequest(f"git cannot give out {side}: {said.stderr.decode().strip()}")
    with tarfile.open(archive) as tar:
        # Of Python 3.11 only the later ones know filters; what git packed is trusted.
        tar.extractall(side.place, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))  # type: ignore[arg-type]
    archive.unlink()


def _copy_working_tree(top: Path, side: Side) -> None:
    """The files as they are now, new ones included, ignored ones not: what is edited meanwhile does not count."""
    said = _git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, said.stdout.split(b"\0")):
        source, target = top / os.fsdecode(name), side.place / os.fsdecode(name)
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _check_that_its_code_runs(side: Side) -> None:
    """An installed harness must not win over that of the checkout; a checkout without one is run by the installed one."""
    if not side.has_harness:
        return
    said = _python(side, "import harness; print(harness.__file__)")
    if not Path(said.stdout.strip()).resolve().is_relative_to(side.place):
        raise WrongRequest(
            f"the harness of {side} cannot be run: "
            + (f"this Python imports {said.stdout.strip()} instead" if said.stdout.strip() else _words(said.stderr))
            + ".\n  Install it as a path, not as a hook: pip install --config-settings editable_mode=compat -e ."
        )


def _python(side: Side, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Some lines of Python, run as a side runs."""
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=side.place, env=_environment(side), capture_output=True, text=True, check=False)


def _environment(side: Side) -> dict[str, str]:
    """PYTHONPATH comes before all that is installed: the copy, its folders that the user has on it, and what else is on it."""
    own, others = [side.place], []
    for folder in map(Path.resolve, map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))):
        copy = side.place / folder.relative_to(side.top) if folder.is_relative_to(side.top) else folder
        if copy != folder and copy.is_dir():
            own.append(copy)
        else:
            others.append(folder)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*own, *others])), "PYTHONSAFEPATH": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run that is still going on as an interruption would, and wait for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _git(place: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(place), *words], capture_output=True, check=False)
    except FileNotFoundError:
        raise WrongRequest("to compare revisions takes git, which is not installed here") from None


def _last_words(file: Path, side: Side) -> str:
    """What a side said at last, of its files as they are called in the checkout."""
    return _words(file.read_text(errors="replace").replace(f"{side.place}/", ""))


def _words(text: str) -> str:
    """What a program said at last: the message of the harness, with its indented lines, or the last line and whence."""
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("harness: ")), len(lines) - 1)
    if lines and first == len(lines) - 1 and (places := [line for line in lines if line.startswith('  File "')]):
        return f"{lines[first]}\n{places[-1]}"
    return "\n".join(lines[first:]).removeprefix("harness: ") or "it said nothing"
