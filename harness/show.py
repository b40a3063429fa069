"""Pages about one item for a person to read, and the beginning of an implementation of one's own."""

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from harness import catalogue, plan

if TYPE_CHECKING:
    from harness.spec import Spec

# Facts of an implementation that stand for what this project plans to measure of it: a copy has none of them.
OF_THE_PROJECT = ("weights_of", "variants", "compiles")


def page(name: str) -> str:
    """What there is to know of a spec, an implementation (`spec/name`) or a suite."""
    if name in catalogue.specs():
        return _spec(name)
    if name in catalogue.suites():
        return _suite(catalogue.find("suite", name))
    if name in catalogue.implementations():
        return _implementation(catalogue.find("implementation", name))
    known = [*catalogue.specs(), *catalogue.suites(), *catalogue.implementations()]
    raise catalogue.NotFound(f"nothing is named {name!r}.{catalogue.suggestion(name, known)}")


def beginning(spec: str) -> str:
    """The text of a file that computes a spec at once: the simplest implementation there is, under a docstring of its own.

    It requires nothing but torch, and has no variants, where there is such a one; of these it is the shortest."""
    files = list(catalogue.implementations(spec).values())
    if not files:
        raise catalogue.NotFound(f"{spec} has no implementation to begin from.\n  Its contract: harness show {spec}")
    simplest = min(files, key=lambda item: ("requires" in item.facts, "variants" in item.facts, len(item.path.read_text())))
    body = _without(OF_THE_PROJECT, simplest.path.read_text()).split('"""', 2)[2].strip()
    contract = catalogue.load_spec(spec).contract
    return f'"""My implementation of {spec}: {contract}."""\n\nspec = "{spec}"\n\n{body}\n'


def _without(facts: Collection[str], text: str) -> str:
    """The text of a file without the lines that state these facts."""
    lines = text.splitlines(keepends=True)
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id in facts for target in node.targets):
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines)


def _spec(name: str) -> str:
    spec = catalogue.load_spec(name)
    item = catalogue.find("spec", name)
    sizes = ", ".join(f"{key}={value}" for key, value in spec.sizes.items())
    options = ", ".join(_option(spec, key, value) for key, value in spec.options.items() if key not in spec.sizes)
    parts = [
        f"{name}  ({item.path})",
        spec.doc,
        f"contract\n  {spec.contract}",
        *([_block("parameters", map(str, spec.parameters))] if spec.parameters else []),
        *_skeleton(spec),
        f"sizes, unless a case says otherwise\n  {sizes}",
        *([f"options, unless a case says otherwise\n  {options}"] if options else []),
        _block(
            "cases",
            (f"{case}: {', '.join(f'{k}={v}' for k, v in values.items()) or 'as above'}" for case, values in spec.cases.items()),
        ),
        _block("input families", spec.families),
        _block("laws", (law.replace("_", " ") for law in spec.laws)),
        _block("known mistakes, each caught by some case", spec.mistakes),
        _block("implementations", (f"{item.name}  {item.doc}" for item in catalogue.implementations(name).values())),
    ]
    return "\n\n".join(parts)


def _skeleton(spec: "Spec") -> list[str]:
    """What `_decoder` says of itself, for a spec that has its function or its parameters."""
    from harness.specs import _decoder

    module = inspect.getmodule(spec.function)
    stands = any(getattr(module, name, None) is getattr(_decoder, name) for name in ("decoder", "PARAMETERS"))
    return [_block("the skeleton, `_decoder`", (inspect.getdoc(_decoder) or "").splitlines())] if stands else []


def _option(spec: "Spec", name: str, default: Any) -> str:
    """The default of an option; of one that is a word also the words that cases have."""
    words = [case[name] for case in spec.cases.values() if name in case] if isinstance(default, str) else []
    others = [word for word in dict.fromkeys(words) if word != default]
    return f"{name}={default}" + (f" (or {', '.join(others)})" if others else "")


def _implementation(item: catalogue.Item) -> str:
    facts = (f"{name} = {value}" for name, value in item.facts.items() if not name.startswith("_"))
    spec = item.name.partition("/")[0]
    return "\n\n".join(
        [
            f"{item.name}  ({item.path})",
            item.doc,
            _block("facts", facts),
            f"judge it\n  harness run suite=correctness spec={spec} impl={item.name.partition('/')[2]}",
        ]
    )


def _suite(item: catalogue.Item) -> str:
    settings = (f"{name}={value}" for name, value in item.facts.get("settings", {}).items())
    limits = ", ".join(f"{name} {value}" for name, value in item.facts.get("limits", {}).items())
    return "\n\n".join(
        [
            f"{item.name}  ({item.path})",
            item.doc,
            _block("settings", settings),
            _block("settings of every run", (f"{word}={plan.WORDS[word]}  {meaning}" for word, meaning in plan.MEANING.items())),
            f"limits of a cell (seconds, GiB)\n  {limits}",
            f"run it\n  harness run suite={item.name}",
        ]
    )


def _block(title: str, lines: Iterable[str]) -> str:
    return title + "\n" + textwrap.indent("\n".join(lines) or "none", "  ")
