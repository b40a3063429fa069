"""Words become a selection, a selection becomes cells, and cells that the store already answers drop out."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import catalogue, machine
from harness.catalogue import WrongRequest
from harness.cell import CRASHED, OUT_OF_MEMORY, TIMED_OUT, UNSUPPORTED, Cell, Record, identity

# What every run understands, with its default; a suite adds the entries of its own `settings`.
WORDS: dict[str, Any] = {
    "suite": "",
    "spec": "*",
    "impl": "*",
    "variant": "*",
    "case": "*",
    "dtype": "*",
    "device": "auto",
    "seed": "0",
    "workers": 0,
    "timeout": 0.0,
    "memory": 0.0,
    "results": "results",
    "rerun": False,
}
MEANING = {
    "suite": "the question to ask: a name from `harness list suites`",
    "spec": "which components; names, patterns with * and lists with commas",
    "impl": "which implementations; names, patterns, a file (./mine.py) or a module (package.module)",
    "variant": "which named settings of an implementation",
    "case": "which cases of a spec",
    "dtype": "float32, float16, bfloat16",
    "device": "cpu, cuda, or auto: cuda where there is a GPU",
    "seed": "seeds of inputs or of training, a list with commas",
    "workers": "processes at a time; 0: one for each core",
    "timeout": "seconds that one cell may take; 0: what the suite says",
    "memory": "GiB that one cell may take; 0: what the suite says",
    "results": "the folder of records and tables",
    "rerun": "ask again what the store already answers",
}
DEVICES = ("cpu", "cuda")
# Outcomes that may be of the moment: asked again by the next run, as the code may be innocent.
TRANSIENT = (CRASHED, TIMED_OUT, OUT_OF_MEMORY)
LEAST_S = 1e-3  # what a cell takes at least


@dataclass(frozen=True)
class Selection:
    """What was asked for: patterns by word, and the settings of the suite."""

    words: Mapping[str, Any]
    settings: Mapping[str, Any]
    seen: dict[str, dict[str, None]] = field(default_factory=dict)  # by word, all names among which was chosen

    @property
    def device(self) -> str:
        wanted = self.words["device"]
        return ("cuda" if machine.gpus() else "cpu") if wanted == "auto" else wanted

    @property
    def seeds(self) -> list[int]:
        try:
            seeds = [int(seed) for seed in str(self.words["seed"]).split(",")]
            if all(0 <= seed < 2**31 for seed in seeds):
                return seeds
            raise ValueError
        except ValueError:
            raise WrongRequest(
                f"seed={self.words['seed']} is no list of whole numbers from 0 to 2147483647, such as seed=0,1,2"
            ) from None

    def chosen(self, word: str, known: Iterable[str]) -> list[str]:
        """Those of the known names that the patterns of a word match."""
        known = list(known)
        self.seen.setdefault(word, {}).update(dict.fromkeys(known))
        patterns = self.patterns(word).split(",")
        return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]

    def patterns(self, word: str) -> str:
        return str(self.words.get(word, self.settings.get(word, "*")))

    def specs(self) -> list[catalogue.Item]:
        known = catalogue.specs()
        names = self.chosen("spec", known)
        _check_patterns("spec", str(self.words["spec"]), known)
        return [known[name] for name in names]

    def contestants(self, spec: str) -> list[tuple[str, str]]:
        """Each implementation of a spec with each of its variants: those that take a checkpoint where `model=FOLDER` is given."""
        found, folder = [], bool(self.settings.get("model"))
        for item, name in _implementations(spec, str(self.words["impl"])):
            if bool(item.facts.get("takes_model")) != folder:
                continue
            variants = self.chosen("variant", item.facts.get("variants", {"": {}}))
            found += [(name, variant) for variant in variants]
        return found


def selection(words: Mapping[str, Any]) -> tuple[Selection, ModuleType]:
    """Check words (`key: value`) against what is known, and load the suite that they name."""
    chosen = checked(words)
    return chosen, catalogue.load(catalogue.find("suite", str(chosen.words["suite"])).path)


def checked(words: Mapping[str, Any]) -> Selection:
    """Words (`key: value`) as far as they can be checked without loading anything."""
    name = words.get("suite", "")
    if not name:
        raise WrongRequest(f"which suite? Say suite=NAME.\n  known: {', '.join(catalogue.suites())}")
    item = catalogue.find("suite", str(name))
    own: dict[str, Any] = dict(item.facts.get("settings", {}))
    known = WORDS | own
    for key in words:
        if key not in known:
            raise WrongRequest(f"no setting named {key!r}.{catalogue.suggestion(key, known)}")
    typed = {key: typed_as(key, words[key], known[key]) if key in words else known[key] for key in known}
    for key, allowed in dict(item.facts.get("choices", {})).items():
        if typed[key] not in allowed:
            raise WrongRequest(f"no {key} named {typed[key]!r}.{catalogue.suggestion(str(typed[key]), allowed)}")
    if typed["device"] not in (*DEVICES, "auto"):
        raise WrongRequest(
            f"no device named {typed['device']!r}.{catalogue.suggestion(str(typed['device']), (*DEVICES, 'auto'))}"
        )
    if typed["device"] == "cuda" and not machine.gpus():
        raise WrongRequest("device=cuda, but no GPU is seen here.\n  What this machine can do: harness doctor")
    chosen = Selection({key: typed[key] for key in WORDS}, {key: typed[key] for key in own})
    _check_implementations(chosen)
    return chosen


def cells(chosen: Selection, suite: ModuleType) -> list[Cell]:
    """Every cell of a selection; a selection of nothing is a wrong request."""
    found = list(dict.fromkeys(suite.plan(chosen)))
    for word, known in chosen.seen.items():
        _check_patterns(word, chosen.patterns(word), known)
    if not found:
        raise WrongRequest(_nothing_fits(chosen))
    _check_that_names_differ(found)
    return found


def _nothing_fits(chosen: Selection) -> str:
    """What was asked in vain, and what else the words of the suite could have said."""
    asked = ", ".join(f"{key}={value}" for key, value in chosen.words.items() if value != WORDS[key])
    lines = [f"nothing to do: no cell of the suite fits {asked}."]
    for word, known in chosen.seen.items():
        if word in chosen.settings:
            lines.append(f"  {word}={chosen.patterns(word)} was asked; there are: {', '.join(known)}")
    return "\n".join([*lines, "  See: harness list implementations"])


def digests(cell: Cell, suite: ModuleType) -> dict[str, str]:
    """Digests of the code, and of the data of the suite, that decide the answer to a cell."""
    found = _of_code(cell.suite, cell.spec, cell.implementation, Path.cwd())
    return found | (suite.digests(cell) if hasattr(suite, "digests") else {})


@cache
def _of_code(suite: str, spec: str, implementation: str, here: Path) -> dict[str, str]:
    """The same for thousands of cells, so looked up once; files are named from the folder `here`."""
    return {
        "suite": catalogue.digest(catalogue.find("suite", suite).path),
        "spec": catalogue.digest(catalogue.find("spec", spec).path),
        "implementation": catalogue.digest(catalogue.implementation(spec, implementation).path),
    }


def unanswered(
    asked: Sequence[Cell], suite: ModuleType, stored: Iterable[Record]
) -> tuple[list[tuple[Cell, dict[str, str]]], list[Record]]:
    """The cells still to be answered, with digests, and the records of those that are answered by what is stored."""
    newest = {record.identity: record for record in stored}
    todo, answered = [], []
    for cell in asked:
        code = digests(cell, suite)
        record = newest.get(identity(cell, code, machine.name(), machine.versions()))
        if record is None or record.outcome in TRANSIENT:
            todo.append((cell, code))
        else:
            answered.append(record)
    return todo, answered


def seconds(asked: Sequence[Cell], suite: ModuleType, stored: Iterable[Record]) -> dict[Cell, float]:
    """About how long each cell takes: what it last took here, with whatever seed, or what the suite expects where that is more.

    As long as the others on average where neither is known; nothing is told where nothing is known of any.
    """
    expected = {cell: float(suite.cost(cell)) for cell in asked} if hasattr(suite, "cost") else {}
    last = {of_any_seed(record.cell): record for record in stored}
    known = dict(expected)
    for cell in asked:
        if record := last.get(of_any_seed(cell)):
            known[cell] = max(record.time_s, LEAST_S, 0.0 if record.outcome == UNSUPPORTED else expected.get(cell, 0.0))
    usual = sum(known.values()) / max(len(known), 1)
    return {cell: known.get(cell, usual) for cell in asked} if known else {}


def of_any_seed(cell: Cell) -> str:
    """The key of a cell, whatever its seed and its round."""
    return replace(cell, seed=0, settings={key: value for key, value in cell.settings.items() if key != "round"}).key


def _implementations(spec: str, patterns: str) -> list[tuple[catalogue.Item, str]]:
    """Each implementation of a spec that the patterns name, with the name by which a cell knows it."""
    known = {full.partition("/")[2]: item for full, item in catalogue.implementations(spec).items()}
    found = {}
    for pattern in patterns.split(","):
        if outside(pattern):
            item = catalogue.implementation(spec, pattern)
            if item.facts.get("spec", spec) == spec:
                found[pattern] = item
        else:
            own = pattern.removeprefix(f"{spec}/")
            found |= {name: item for name, item in known.items() if fnmatch.fnmatchcase(name, own)}
    return [(item, name) for name, item in found.items()]


def outside(pattern: str) -> bool:
    """Whether a name is that of a file or module, not of an implementation of this project."""
    return pattern.endswith(".py") or ("." in pattern and "*" not in pattern) or ":" in pattern


def _check_implementations(chosen: Selection) -> None:
    """Each pattern names an implementation; one that asks a model of yours has it, one from elsewhere says its spec."""
    patterns, known = str(chosen.words["impl"]).split(","), catalogue.implementations()
    inside = [pattern for pattern in patterns if not outside(pattern)]
    names = {full: full.partition("/")[2] for full in known}
    _check_patterns("implementation", ",".join(inside), dict.fromkeys([*names, *names.values()]))
    for full, item in known.items():
        if names[full] in inside and item.facts.get("takes_model") and not chosen.settings.get("model"):
            takers = [f"suite={name}" for name, suite in catalogue.suites().items() if "model" in suite.facts.get("settings", {})]
            raise WrongRequest(f"impl={names[full]} asks a model of yours: say model=FOLDER, which {' and '.join(takers)} take")
    for pattern in set(patterns) - set(inside) if chosen.words["spec"] == "*" else ():
        if "spec" not in catalogue.implementation("", pattern).facts:
            raise WrongRequest(f"which spec does {pattern} claim to compute? Say spec=NAME.\n  All of them: harness list specs")


def _check_that_names_differ(found: Sequence[Cell]) -> None:
    """Tables and rankings know an implementation by its name: two of one name would be one."""
    of: dict[str, str] = {}
    for cell in found:
        other = of.setdefault(cell.subject, cell.implementation)
        if other != cell.implementation:
            raise WrongRequest(
                f"{other} and {cell.implementation} are both called {cell.subject} in tables.\n"
                "  Ask one at a time, or give one of the files another name"
            )


def _check_patterns(kind: str, patterns: str, known: Iterable[str]) -> None:
    """Each pattern matches a known name; * may match none."""
    known = [name for name in known if name]  # what has no variants has one without a name
    for pattern in filter(None, patterns.split(",")):
        if pattern != "*" and not known:
            raise WrongRequest(f"no {kind} named {pattern!r}: there is none here.\n  Leave {kind}= out")
        if pattern != "*" and not fnmatch.filter(known, pattern):
            listing = f"harness list {kind}s" if kind in ("spec", "implementation") else "harness show SPEC"
            raise WrongRequest(f"no {kind} named {pattern!r}.{catalogue.suggestion(pattern, known, listing)}")


def typed_as(key: str, value: Any, default: Any) -> Any:
    """The text of a value as the type of the default; numbers are finite and not negative."""
    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false"):
            raise WrongRequest(f"{key}={value} should be true or false")
        return str(value).lower() == "true"
    try:
        typed = type(default)(value)
    except (TypeError, ValueError):
        typed = None
    number = isinstance(default, int | float)
    if typed is None or (number and not 0 <= typed < 1e12):
        raise WrongRequest(f"{key}={value} should be {'a whole number' if isinstance(default, int) else 'a number'}, 0 or more")
    return typed
