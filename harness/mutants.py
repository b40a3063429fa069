"""Automatic mutants of a reference: its source with one small change, each a wrong function of the same signature.

Changed are the reference, the functions and tables of its module that it uses, directly or not, and those of the parts of
specs (`_decoder`); not signatures, laws, families or mistakes. A mutant is named by its function and the text before and
after, without a line number, so that what is said of it (`EQUIVALENT` in the module it is in) outlives edits elsewhere.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from harness.spec import Mistake, Spec

DROPPED = "(dropped)"
# Parents whose text is the name of a change in a leaf, if they are not longer than this.
LONGEST = 100

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.MatMult: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
# Functions and methods that are mistaken for one another, of one signature.
FUNCTIONS = {
    "exp": ("exp2", "expm1"),
    "log": ("log2", "log1p"),
    "sum": ("mean", "amax"),
    "mean": ("sum",),
    "amax": ("amin",),
    "amin": ("amax",),
    "max": ("min",),
    "min": ("max",),
    "maximum": ("minimum",),
    "minimum": ("maximum",),
    "argmax": ("argmin",),
    "argmin": ("argmax",),
    "any": ("all",),
    "all": ("any",),
    "sigmoid": ("tanh",),
    "tanh": ("sigmoid",),
    "erf": ("tanh",),
    "cos": ("sin",),
    "sin": ("cos",),
    "sqrt": ("square",),
    "square": ("abs",),
    "round": ("floor", "ceil"),
    "floor": ("ceil", "round"),
    "ones": ("zeros",),
    "zeros": ("ones",),
    "ones_like": ("zeros_like",),
    "zeros_like": ("ones_like",),
}
# Functions and methods of one operand that may be forgotten.
FORGOTTEN = (
    *("abs", "sqrt", "square", "exp", "log", "sigmoid", "tanh", "erf", "round", "floor", "clamp"),
    *("detach", "reversed", "sorted"),
)


@dataclass(frozen=True)
class Mutant(Mistake):
    """A reference with one change: where it is, and the statement before and after."""

    file: str
    line: int
    before: str
    after: str


def mutants(spec: Spec) -> list[Mutant]:
    """Every mutant of the reference of a spec, in the order of the source."""
    parts = _parts(spec)
    found: dict[str, Mutant] = {}
    for part in parts:
        for defined, definition in part.definitions.items():
            seen = {ast.unparse(definition)}
            for change in _changes(definition):
                with change:
                    if (text := ast.unparse(definition)) in seen:
                        continue
                    seen.add(text)
                    after = change.statement_text()
                    name = f"{defined}: {change.before} -> {change.text()}"
                    function = _built(parts, {definition: _compiled(part.module, definition)})[spec.function.__name__]
                number = 1 + sum(other == name or other.startswith(f"{name} (") for other in found)
                name = name if number == 1 else f"{name} ({number})"
                found[name] = Mutant(name, function, _place(part.module), change.line, change.statement_before, after)
    return list(found.values())


def equivalent(spec: Spec) -> dict[str, str]:
    """The mutants that are said to be no mistakes, with the argument why: by the spec, and by its parts of what it uses."""
    found: dict[str, str] = {}
    for part in _parts(spec):
        own = part.module.__name__ == spec.function.__module__
        arguments = getattr(part.module, "EQUIVALENT", {})
        found |= {name: why for name, why in arguments.items() if own or name.partition(":")[0] in part.definitions}
    return found


@dataclass(frozen=True)
class _Part:
    """A module, and the definitions in it that a reference uses: as trees, and compiled as they are."""

    module: ModuleType
    definitions: dict[str, ast.stmt]
    code: dict[str, CodeType]


def _parts(spec: Spec) -> list[_Part]:
    """What a reference is made of; a part stands before what imports it."""
    home = sys.modules[spec.function.__module__]
    trees: dict[str, dict[str, ast.stmt]] = {}
    used: dict[str, set[str]] = {}
    imported: dict[str, dict[str, None]] = {home.__name__: {}}
    waiting: list[tuple[ModuleType, str]] = [(home, spec.function.__name__)]
    while waiting:
        module, name = waiting.pop()
        if module.__name__ not in trees:
            trees[module.__name__], used[module.__name__] = _definitions(module, spec.function.__name__), set()
        definitions, names = trees[module.__name__], used[module.__name__]
        if name in definitions and name not in names:
            names.add(name)
            waiting += [(module, node.id) for node in ast.walk(definitions[name]) if isinstance(node, ast.Name)]
        elif name not in definitions:
            other = getattr(vars(module).get(name), "__module__", None) or ""
            if other != module.__name__ and other.startswith("harness.specs._"):
                imported.setdefault(module.__name__, {})[other] = None
                waiting.append((sys.modules[other], name))
    parts = []
    for module in (sys.modules[name] for name in TopologicalSorter(imported).static_order()):
        needed = {name: node for name, node in trees[module.__name__].items() if name in used[module.__name__]}
        parts.append(_Part(module, needed, {name: _compiled(module, node) for name, node in needed.items()}))
    return parts


def _place(module: ModuleType) -> str:
    """The file of a module, as seen from the folder that this project lies in."""
    path = Path(str(module.__file__)).resolve()
    home = Path(__file__).resolve().parents[1]
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name


def _definitions(module: ModuleType, reference: str) -> dict[str, ast.stmt]:
    """Functions without decorators and tables of numbers, by name; and the reference, without its decorator."""
    found: dict[str, ast.stmt] = {}
    with open(str(module.__file__), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (node.name == reference or not node.decorator_list):
            node.decorator_list = []
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id != "EQUIVALENT":
            found[node.targets[0].id] = node
    return found


def _built(parts: list[_Part], changed: dict[ast.stmt, CodeType]) -> dict[str, Any]:
    """The names of the last part, with all that is defined in these parts made anew, one definition as it is changed."""
    made: dict[int, Any] = {}
    names: dict[str, Any] = {}
    for part in parts:
        names = {name: made.get(id(value), value) for name, value in vars(part.module).items()}
        for name, node in part.definitions.items():
            exec(changed.get(node, part.code[name]), names)
        made |= {id(getattr(part.module, name)): names[name] for name in part.definitions}
    return names


def _compiled(module: ModuleType, definition: ast.stmt) -> CodeType:
    return compile(ast.fix_missing_locations(ast.Module([definition], [])), str(module.__file__), "exec")


class _Change:
    """One change of a tree: made while it is entered, undone when it is left."""

    def __init__(self, path: tuple[ast.AST, ...], field: str, index: int | None, new: ast.AST):
        self.owner, self.field, self.index, self.new = path[-2], field, index, new
        self.old = path[-1]
        statement = max(i for i, node in enumerate(path) if isinstance(node, ast.stmt))
        # A statement that goes is shown by itself: its owner is the block.
        self.statement = path[statement]
        self.shown = self._shown(path[statement + 1 :])
        self.line = getattr(self.old, "lineno", getattr(self.statement, "lineno", 0))
        self.before, self.statement_before = self.text(), self.statement_text()

    def _shown(self, path: tuple[ast.AST, ...]) -> ast.AST:
        """The expression that makes the change understood: a leaf's parent, unless that is long."""
        leaf = (ast.Constant, ast.Name, ast.Slice, ast.operator, ast.cmpop, ast.boolop, ast.UnaryOp, ast.Attribute, ast.Call)
        if not path or not isinstance(self.old, leaf):
            return self.old
        for above, node in reversed(list(pairwise((self.statement, *path[:-1])))):
            called = isinstance(above, ast.Call) and above.func is node
            if isinstance(node, ast.expr) and not called and not isinstance(node, ast.Tuple | ast.Starred | ast.Slice):
                return node if len(ast.unparse(node)) <= LONGEST else self.old
        return self.old

    def text(self) -> str:
        shown = self.shown if self.shown is not self.old else self._now()
        return DROPPED if isinstance(shown, ast.Pass) else ast.unparse(shown).partition("\n")[0]

    def statement_text(self) -> str:
        statement = self.statement if self.statement is not self.old else self._now()
        return DROPPED if isinstance(statement, ast.Pass) else ast.unparse(statement).partition("\n")[0]

    def _now(self) -> ast.AST:
        value = getattr(self.owner, self.field)
        return value if self.index is None else value[self.index]

    def __enter__(self) -> None:
        self._put(self.new)

    def __exit__(self, *_: object) -> None:
        self._put(self.old)

    def _put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.owner, self.field, node)
        else:
            getattr(self.owner, self.field)[self.index] = node


def _changes(definition: ast.stmt) -> list[_Change]:
    return [_Change(path, field, index, new) for path, field, index in _places((definition,)) for new in _replacements(path[-1])]


def _places(path: tuple[ast.AST, ...]) -> Iterator[tuple[tuple[ast.AST, ...], str, int | None]]:
    """Every node below the last of `path` that may change: its path, and where it hangs on its parent."""
    parent = path[-1]
    if isinstance(parent, ast.Raise | ast.arguments | ast.JoinedStr) or (isinstance(parent, ast.UnaryOp) and _number(parent)):
        return
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "targets", "target", "ctx"):
            continue
        if isinstance(parent, ast.keyword) and parent.arg in ("strict", "device", "dtype"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield (*path, child), field, index
                yield from _places((*path, child))


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    for new in OPERATORS.get(type(node), ()):
        yield new()
    if (number := _number(node)) is not None:
        yield from map(_constant, _others(number))
    match node:
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Slice():
            yield from _bounds(node)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.If():
            yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.AugAssign():
            yield ast.Pass()
        case ast.Assign():
            named = {one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            if named & {one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)}:
                yield ast.Pass()
        case ast.Attribute(attr="mT"):
            yield node.value
        case ast.Call():
            yield from _calls(node)


def _number(node: ast.AST) -> int | float | None:
    """The number that a node writes down, if it is one; a minus belongs to it."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _number(node.operand)
        return None if number is None else -number
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _others(number: int | float) -> list[int | float]:
    if isinstance(number, int):
        return [number + 1, number - 1]
    return [number * 1.01, -number] if number else [1.0]


def _constant(number: int | float) -> ast.expr:
    return ast.Constant(number) if number >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-number))


def _bounds(node: ast.Slice) -> Iterator[ast.Slice]:
    """The slice one element more or less at either end; numbers change by themselves."""
    if node.lower is None and node.upper is None:
        return
    for end, where in (("lower", node.lower), ("upper", node.upper)):
        others: list[ast.expr] = []
        if where is None:
            others = [_constant(1 if end == "lower" else -1)]
        elif _number(where) is None:
            others = [ast.BinOp(where, ast.Add(), ast.Constant(1)), ast.BinOp(where, ast.Sub(), ast.Constant(1))]
        for other in others:
            ends: dict[str, Any] = {"lower": node.lower, "upper": node.upper, end: other}
            yield ast.Slice(**ends, step=node.step)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    """Another function, two values exchanged, a function forgotten."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    for other in FUNCTIONS.get(called, ()):
        if isinstance(node.func, ast.Attribute):
            yield ast.Call(ast.Attribute(node.func.value, other, ast.Load()), node.args, node.keywords)
    if called == "where" and len(node.args) == 3:
        yield ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], node.keywords)
    if called in FORGOTTEN:
        library = isinstance(node.func, ast.Name) or (isinstance(node.func, ast.Attribute) and _is_library(node.func.value))
        if library and len(node.args) == 1:
            yield node.args[0]
        elif isinstance(node.func, ast.Attribute) and not library and not node.args:
            yield node.func.value


def _is_library(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("torch", "F", "math")
