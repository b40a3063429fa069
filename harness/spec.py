"""A spec is a float64 torch function that *is* the definition of a component, with its contract, cases, laws and mistakes.

    @spec("x[b n d] -> out[b n d]", b=2, n=7, d=8, cases={"plain": {}, "one": {"n": 1}})
    def double(x):
        return 2 * x

    @double.law
    def halves_are_doubled_apart(run, x, rng): ...     # -> (left, right), to be equal within the rounding budget

    @double.mistake("doubles twice")
    def _(x): ...                                      # a wrong reference that some case must catch

    @double.family
    def sharp(x, case, rng): ...                       # -> the inputs to change, from those of the family `normal`

A case is a named dict of sizes and of options (the keyword-only arguments of the function).
"""

import inspect
import math
import random
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from harness.contract import KEPT, Contract, ContractError, Named, axes_of, parse, parse_tensors, per_layer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GRADIENT = ".grad"
# Parameters of models of which a token reads a row, or none.
LOOKED_UP = r"embedding\.|^positions\.|^memory\.|^segments\.|bias"


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, as cells and messages name it."""
    return str(dtype).removeprefix("torch.")


class Bunch(dict[str, Any]):
    """A dict whose entries can also be read as attributes: `x.q` is `x["q"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} here, only {', '.join(self)}") from None


@dataclass(frozen=True)
class Case:
    """Named sizes and options, read as attributes (`case.n`, `case.window`), with the dtype and device to serve."""

    name: str
    values: Mapping[str, Any]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.values:
            raise AttributeError(f"case {self.name!r} has no {name!r}, only {', '.join(self.values)}")
        return self.values[name]

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.values.items()), self.dtype, self.device))

    def resized(self, sizes: Mapping[str, Any], **place: Any) -> "Case":
        """The same case at other sizes, options, dtype or device."""
        return Case(
            self.name, MappingProxyType({**self.values, **sizes}), **{"dtype": self.dtype, "device": self.device, **place}
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (Case, (self.name, dict(self.values), self.dtype, self.device))


@dataclass(frozen=True)
class Law:
    """A sentence that is true of every implementation: `check(run, x, rng) -> (left, right)`."""

    name: str
    check: Callable[..., tuple[Any, Any]]
    when: Callable[[Case], bool]


@dataclass(frozen=True)
class Mistake:
    """A known way to get the component wrong, as a wrong reference."""

    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Work:
    """What a spec takes: the sizes at which it is timed, the axes that are its length, the operations that nobody can spare."""

    operations: Callable[[Case], float]  # floating-point operations of a forward pass, at least
    cases: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"plain": {}})
    along: tuple[str, ...] = ("n",)
    step: Mapping[str, Any] | None = None  # sizes at which it is one step of decoding, the other axes of length being the past
    carried: tuple[str, ...] = ()  # inputs or outputs that go from step to step
    near: Callable[[Case], Mapping[str, int]] = lambda case: {}  # sizes of what must be read, where that is not all that is given
    jumps: bool = False  # whether it rounds to codes on the way, so that a hair may become a step
    sizes: Mapping[str, Any] = field(default_factory=dict)  # of a model: functions of the case, of what follows from its width


@dataclass
class Spec:
    """The definition of a component; calling it calls the reference function itself."""

    function: Callable[..., Any]
    contract: Contract
    parameters: tuple[Named, ...]
    sizes: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    # Whether the function defines it; otherwise each implementation is its own definition, and has laws only.
    defined: bool = True
    laws: dict[str, Law] = field(default_factory=dict)
    mistakes: dict[str, Mistake] = field(default_factory=dict)
    families: dict[str, Callable[..., Mapping[str, Tensor]]] = field(default_factory=dict)
    costs: Work | None = None
    # Of a language model that fades by a formula: `decay(k, case, parameters)`, see `fades`.
    decay: Callable[[Tensor, Case, Mapping[str, Tensor]], Tensor] | None = None

    def __post_init__(self) -> None:
        self.families = {"normal": _normal, "large": _large, **self.families}
        known = self.contract.axes | axes_of(self.parameters) | set(self.options) | {t.name for t in self.optional} | {"l"}
        for name, case in {"the sizes": self.sizes, **self.cases}.items():
            for key in case:
                if key not in known:
                    raise ContractError(
                        f"{self.name}: {name} sets {key!r}, which is no axis and no option; known: {', '.join(sorted(known))}"
                    )
        needed = self.contract.axes | axes_of(self.parameters) - set(self.options)
        if missing := sorted(needed - set(self.sizes)):
            raise ContractError(f"{self.name}: no size is given for axis {', '.join(missing)}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def doc(self) -> str:
        return inspect.getdoc(inspect.getmodule(self.function)) or ""

    @cached_property
    def options(self) -> dict[str, Any]:
        """Keyword-only arguments of the reference with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def of_modules(self) -> bool:
        """Whether its implementations are modules with parameters."""
        return bool(self.parameters) or not self.defined

    @property
    def optional(self) -> list[Named]:
        """Inputs that only some cases give."""
        return [tensor for tensor in self.contract.inputs if tensor.optional]

    def case(self, name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Case:
        """The case of this name at its own sizes."""
        absent = {tensor.name: False for tensor in self.optional}
        values = {**absent, **self.options, **self.sizes, **self.cases[name]}
        return Case(name, MappingProxyType(values), dtype, device)

    def given(self, case: Case) -> list[Named]:
        """The inputs and parameters of a case, in order."""
        inputs = [t for t in self.contract.inputs if not t.optional or case.values.get(t.name)]
        return [*inputs, *per_layer(self.parameters, case.values.get("l", 0))]

    def differentiable(self, case: Case) -> list[str]:
        """Names of the inputs and parameters that have a gradient in the tested dtype."""
        return [tensor.name for tensor in self.given(case) if tensor.kind == "float"]

    def operations(self, case: Case) -> float:
        """Floating-point operations of a forward pass that nobody can spare: what `work` says, of other models `products`."""
        return self.costs.operations(case) if self.costs else self.products(case)

    def products(self, case: Case, tokens: Callable[[str], int] | None = None) -> float:
        """Operations of the products of a model's matrices with its tokens; `tokens(name)` says with how many, by default all."""
        matrices = [t for t in self.given(case) if len(t.axes) > 1 and "." in t.name and not re.search(LOOKED_UP, t.name)]
        return sum(2.0 * case.b * (tokens(t.name) if tokens else case.n) * math.prod(t.shape(case.values)) for t in matrices)

    def inputs(self, case: Case, family: str = "normal", seed: int = 0, cotangents: bool = False) -> Bunch:
        """Seeded inputs of one family, rounded to the dtype of the case; with `out.grad` for each output if asked.

        Without a family they are numbers as they are drawn."""
        rng = torch.Generator().manual_seed(zlib.crc32(f"{self.name} {case.name} {family} {seed}".encode()))
        given = self.given(case)
        x = Bunch({tensor.name: _draw(tensor, case, rng) for tensor in given})
        for change in dict.fromkeys(("normal", family)) if family else ():
            x.update(self.families[change](x, case, rng))
        kept = {tensor.name: torch.float32 for tensor in given if tensor.kind == KEPT}
        if cotangents:
            shapes = {tensor.name: tensor.shape(case.values) for tensor in self.contract.outputs}
            drawn = {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
            number = 0 if family in ("", "normal") else zlib.crc32(f"{self.name} {case.name} {family}".encode())
            x.update({name + GRADIENT: tensor for name, tensor in _read(drawn, number).items()})
        return Bunch({n: t.to(kept.get(n, case.dtype)) if t.is_floating_point() else t for n, t in x.items()})

    def reference(self, x: Mapping[str, Tensor], case: Case, function: Callable[..., Any] | None = None) -> Bunch:
        """Outputs by name of the reference (or of another function of the same signature) for named inputs."""
        names = [tensor.name for tensor in self.contract.inputs]
        inputs: dict[str, Any] = {name: x[name] for name in names if name in x}
        if self.parameters:
            inputs["parameters"] = {name: tensor for name, tensor in x.items() if name not in names}
        answer = (function or self.function)(**inputs, **{name: case.values[name] for name in self.options})
        answers = answer if isinstance(answer, tuple) else (answer,)
        return Bunch(zip((tensor.name for tensor in self.contract.outputs), answers, strict=True))

    def law(self, check: Callable[..., Any] | None = None, *, when: Callable[[Case], bool] = lambda case: True) -> Any:
        """Register a law; `when` says for which cases it holds."""

        def register(check: Callable[..., Any]) -> Callable[..., Any]:
            self.laws[check.__name__] = Law(check.__name__, check, when)
            return check

        return register(check) if check else register

    def mistake(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a wrong reference under the sentence that says what is wrong with it."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.mistakes[name] = Mistake(name, function)
            return function

        return register

    def family(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """Register an input family: `change(x, case, rng)` returns the float64 inputs to replace in those of `normal`."""
        self.families[change.__name__] = change
        return change

    def fades(self, decay: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Register a language model's analytic decay: `decay(k, case, parameters)`, of distances k[n] in tokens, is the share [n]
        of what a token gave to a layer that is left k tokens on, in its slowest head or channel; 0 is out of reach."""
        self.decay = decay
        return decay

    def work(self, **told: Any) -> Callable[[Callable[[Case], float]], Callable[[Case], float]]:
        """Register the operations of a forward pass as a function of the case, with what else `Work` says; the rest are sizes."""

        def register(operations: Callable[[Case], float]) -> Callable[[Case], float]:
            own = {each.name: told.pop(each.name) for each in fields(Work) if each.name in told}
            self.costs = Work(operations, **own, sizes=told)
            return operations

        return register


def spec(
    contract: str, *, cases: dict[str, dict[str, Any]], parameters: str = "", **sizes: Any
) -> Callable[[Callable[..., Any]], Spec]:
    """Make a spec of a reference function; the sizes are those of every case that does not say otherwise."""
    return lambda function: Spec(function, parse(contract), parse_tensors(parameters), sizes, cases)


def backward_of(right: Tensor, wrong: Tensor) -> Tensor:
    """The right value with the gradient of the wrong one, for mistakes of a backward pass."""
    return right.detach() + wrong - wrong.detach()


def dice(*words: object) -> random.Random:
    """Random numbers for a law, the same for the same words in every process."""
    return random.Random(" ".join(map(str, words)))


def _draw(tensor: Named, case: Case, rng: torch.Generator) -> Tensor:
    shape = tensor.shape(case.values)
    if tensor.kind == "int":
        below = str(tensor.below)
        return torch.randint(int(below) if below.isdigit() else case.values[below], shape, generator=rng)
    noise = torch.randn(shape, generator=rng, dtype=torch.float64)
    if "." not in tensor.name:
        return noise
    if len(shape) > 1:
        return noise / shape[-1] ** 0.5
    return noise / 4 + (1 if tensor.name.endswith("weight") else 0)


def _read(cotangents: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Cotangents as readers leave them: of all there is, of all but every third row, as of padding, or of one output alone."""
    if number % 3 == 1:
        return {name: t * (torch.arange(t.shape[-2]) % 3 != 1)[:, None] if t.dim() > 1 else t for name, t in cotangents.items()}
    if number % 3 == 2:
        alone = list(cotangents)[number // 3 % len(cotangents)]
        return {name: tensor if name == alone else torch.zeros_like(tensor) for name, tensor in cotangents.items()}
    return cotangents


def _normal(x: Bunch, case: Case, rng: torch.Generator) -> Mapping[str, Tensor]:
    return {}


def _large(x: Bunch, case: Case, rng: torch.Generator) -> Mapping[str, Tensor]:
    """Big magnitudes and an offset; the parameters of a model stay."""
    return {name: 4 * tensor + 3 for name, tensor in x.items() if tensor.is_floating_point() and "." not in name}
