"""The cells of the suites that say what a component costs: which there are, what case each asks, what its formula expects.

Operators are asked at the sizes that their specs give to `work`, with the axes of length as long as the cell says; language
models at the sizes below, each with about as many parameters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from harness import catalogue, terms
from harness.catalogue import WrongRequest
from harness.cell import Cell
from harness.cost import FORMS, Question, steps_of_a_model
from harness.spec import DTYPES, LOOKED_UP, Case, Spec

if TYPE_CHECKING:
    from harness.plan import Selection

# lengths; sizes and parameters of every language model; by which factors the sizes of operators grow.
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"lengths": (16, 32, 64), "model": {"d": 32, "h": 2, "l": 2}, "parameters": 41_600, "grown": {}},
    "default": {"lengths": (128, 512, 1024), "model": {"d": 96, "h": 4, "l": 3}, "parameters": 383_712, "grown": {}},
    "full": {
        "lengths": (1024, 4096, 16_384),
        "model": {"d": 512, "h": 8, "l": 8},
        "parameters": 25_000_000,
        "grown": {"h": 4, "g": 4, "d": 2, "e": 2},
    },
}
SYMBOLS, TRAINED = 256, 128  # of language models: symbols, and the length that they are made for


def cells(selection: "Selection", suite: str, rounds: int = 1) -> Iterator[Cell]:
    """Cells in an order in which all implementations answer a question, each in a fresh process, before the next is asked."""
    told = {key: selection.settings[key] for key in ("scale", "threads")}
    lengths = _lengths(selection, SCALES[told["scale"]]["lengths"])
    for spec, case, dtype, form, batch in _questions(selection):
        asked = {"form": form, "batch": int(batch)}
        for seed, number in product(selection.seeds, range(rounds)):
            round_ = {"round": number} if rounds > 1 else {}
            for (name, variant), length in product(selection.contestants(spec), lengths):
                settings = {**told, **asked, "length": length, **round_}
                yield Cell(suite, spec, name, variant, case, dtype, selection.device, seed, settings)


def _questions(selection: "Selection") -> Iterator[tuple[str, str, str, str, str]]:
    """Spec, case, dtype, form and batch of what is asked at each length."""
    for item in selection.specs():
        spec = catalogue.load_spec(item.name)
        yield from product(
            [item.name],
            selection.chosen("case", cases(spec)),
            selection.chosen("dtype", _dtypes(selection)),
            selection.chosen("form", forms(spec)),
            selection.chosen("batch", _batches(spec, selection)),
        )


def cost(cell: Cell) -> float:
    """About how many seconds a cell takes."""
    return 0.5 + (cell.settings["length"] / 1024) ** 2 * (1.5 if cell.settings["form"] == "training" else 0.5)


def cases(spec: Spec) -> list[str]:
    """Names of the cases that are timed."""
    return list(spec.costs.cases) if spec.costs and not spec.of_modules else ["plain"]


def forms(spec: Spec) -> list[str]:
    """The forms in which a spec can be asked."""
    if spec.of_modules:
        stepwise = all("n" in tensor.axes for tensor in spec.contract.outputs)  # encoders answer once, not token by token
        return [form for form in FORMS if form != "step" or stepwise]
    case = spec.case(next(iter(spec.cases)))
    without = {"training"} if not spec.differentiable(case) else set()
    return [form for form in FORMS if form not in without | (set() if spec.costs and spec.costs.step else {"step"})]


def question(cell: Cell, spec: Spec) -> Question:
    """What a cell asks."""
    asked, scale = cell.settings, SCALES[cell.settings["scale"]]
    case = spec.case(cell.case, DTYPES[cell.dtype], cell.device)
    seed = cell.seed * 1000 + asked.get("round", 0)
    if spec.of_modules:
        sizes = {**scale["model"], "v": SYMBOLS, "t": TRAINED, "b": asked["batch"], "n": asked["length"]}
        case = case.resized({**sizes, **terms.options_of(cell)})
        case = case.resized({axis: size(case) for axis, size in (spec.costs.sizes if spec.costs else {}).items()})
        case = case.resized({"f": _width(spec, case, scale["parameters"])})
    elif spec.costs:
        grown = {axis: size * scale["grown"].get(axis, 1) for axis, size in spec.costs.sizes.items()}
        grown |= {"b": asked["batch"] * grown["b"]} if "b" in grown else {}
        along = dict.fromkeys(spec.costs.along, asked["length"])
        step = spec.costs.step if asked["form"] == "step" and spec.costs.step else {}
        case = case.resized({**grown, **along, **spec.costs.cases[cell.case], **step})
    return Question(case, asked["form"], asked["length"], seed, asked["threads"])


def small(spec: Spec, question: Question) -> Case:
    """The case in which the rounding budget is found: the named one at its own length, an operator's widths being those timed."""
    place = (question.case.dtype, question.case.device)
    if not spec.of_modules:
        return spec.case(question.case.name, *place).resized(spec.costs.sizes if spec.costs else {})
    options = {key: value for key, value in question.case.values.items() if key in spec.options and isinstance(value, str | bool)}
    named = [name for name in spec.cases if options.items() <= spec.case(name).values.items()]
    return spec.case(named[0] if named else question.case.name, *place)


def operations(spec: Spec, question: Question) -> float:
    """Floating-point operations that nobody can spare: backward takes twice those of forward; a step of a model, its share."""
    if steps_of_a_model(spec, question):
        further = question.case.resized({"n": question.case.n + 1})
        return spec.operations(further) - spec.operations(question.case)
    return spec.operations(question.case) * (3 if question.form == "training" else 1)


def moved(spec: Spec, question: Question) -> int:
    """Bytes that must be read and written at least: inputs, parameters and outputs once; in training their gradients too."""
    case = question.case.resized({"n": 1}) if steps_of_a_model(spec, question) else question.case
    near = case.resized(spec.costs.near(case)) if spec.costs else case
    given, read = ({t.name: _bytes(t, at) for t in spec.given(case)} for at in (case, near))
    made = {t.name: _bytes(t, case) for t in spec.contract.outputs}
    if spec.of_modules:
        given, read = ({name: of[name] for name in of if not re.search(LOOKED_UP, name)} for of in (given, read))
    gradients = sum(given.get(name, 0) for name in spec.differentiable(case)) + sum(made.values())
    return sum(read.values()) + sum(made.values()) + (gradients if question.form == "training" else 0)


def _bytes(tensor: Any, case: Case) -> int:
    size = {"float": case.dtype.itemsize, "int": torch.int64.itemsize}.get(tensor.kind, torch.float32.itemsize)
    return int(torch.Size(tensor.shape(case.values)).numel()) * size


def _width(spec: Spec, case: Case, wanted: int) -> int:
    """The width f of the feed-forward part, a multiple of 8, that brings the parameters of a spec nearest to those wanted."""

    def parameters(f: int) -> int:
        wide = case.resized({"f": f})
        return sum(torch.Size(t.shape(wide.values)).numel() for t in spec.given(wide) if "." in t.name)

    return terms.width(parameters, wanted) or 4 * int(case.d)


def _dtypes(selection: "Selection") -> Mapping[str, Any]:
    """On the CPU float32, unless another is named: 16 bits are emulated on many."""
    if selection.words["dtype"] == "*" and selection.device == "cpu":
        return {"float32": DTYPES["float32"]}
    return DTYPES


def _lengths(selection: "Selection", usual: Sequence[int]) -> Sequence[int]:
    """Those of the scale, unless others are asked."""
    return usual if selection.settings["length"] == "*" else sorted(_whole_numbers(selection, "length"))


def _batches(spec: Spec, selection: "Selection") -> list[str]:
    return [str(batch) for batch in _whole_numbers(selection, "batch") if batch == 1 or "b" in spec.contract.axes]


def _whole_numbers(selection: "Selection", word: str) -> list[int]:
    said = str(selection.settings[word])
    if not all(number.isdecimal() and int(number) for number in said.split(",")):
        raise WrongRequest(f"{word}={said} is no list of whole numbers, 1 or more, such as {word}=1,8")
    return list(dict.fromkeys(map(int, said.split(","))))
