"""A contract is one line that names every tensor of a component and its axes; shapes, inputs and messages derive from it.

    q[b h n d], k[b g m d], past[b h d e] -> out[b h n e], state[b h d e]

An axis name has one size wherever it stands; an axis may also be a number. After a tensor may follow
`:float32` (stays in float32 whatever dtype is tested), `:int<v` (integers 0 ... v-1) and `?` (given only
in cases that ask for it). Parameters of a model use the same notation, with dotted names, and `*` stands for
each layer 0 ... l-1:  `blocks.*.norm1.weight[d]`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TENSOR = re.compile(r"(?P<name>[A-Za-z_][\w.*]*)\[(?P<axes>[\w ]*)\](?::(?P<kind>float32|int<(?P<below>\w+)))?(?P<optional>\?)?")
KEPT = "float32"


class ContractError(ValueError):
    """A contract, or something said of one, does not make sense; the message says where."""


@dataclass(frozen=True)
class Named:
    """One tensor of a contract: its name, its axes, its kind (`float`, `float32` or `int`)."""

    name: str
    axes: tuple[str, ...]
    kind: str = "float"
    below: str | None = None
    optional: bool = False

    def __str__(self) -> str:
        kind = "" if self.kind == "float" else f":int<{self.below}" if self.kind == "int" else f":{self.kind}"
        return f"{self.name}[{' '.join(self.axes)}]{kind}{'?' if self.optional else ''}"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at these sizes."""
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes)


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of a component, in order."""

    text: str
    inputs: tuple[Named, ...]
    outputs: tuple[Named, ...]

    def __str__(self) -> str:
        return self.text

    @property
    def axes(self) -> set[str]:
        """Every axis name that stands in the contract."""
        return axes_of((*self.inputs, *self.outputs))

    def sizes(self, shapes: Mapping[str, Iterable[int]]) -> dict[str, int]:
        """Bind the axis names to sizes by looking at the shapes of inputs; raise ContractError where they disagree."""
        sizes: dict[str, int] = {}
        seen_at: dict[str, str] = {}
        for tensor in self.inputs:
            if tensor.name not in shapes:
                continue
            shape = tuple(shapes[tensor.name])
            if len(shape) != len(tensor.axes):
                raise ContractError(f"{tensor} has {len(tensor.axes)} axes, but a tensor of shape {list(shape)} was given")
            for axis, size in zip(tensor.axes, shape, strict=True):
                expected = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
                if expected != size:
                    where = seen_at.get(axis, "the contract")
                    raise ContractError(f"axis {axis} is {size} in {tensor}, but {expected} in {where}")
                seen_at.setdefault(axis, str(tensor))
        return sizes


def axes_of(tensors: Iterable[Named]) -> set[str]:
    """Every axis name of these tensors."""
    return {
        axis for tensor in tensors for axis in (*tensor.axes, *([tensor.below] if tensor.below else [])) if not axis.isdigit()
    }


def parse(text: str) -> Contract:
    """Read `inputs -> outputs`."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ContractError(f"a contract needs '->' between inputs and outputs: {text!r}")
    contract = Contract(" ".join(text.split()), parse_tensors(left), parse_tensors(right))
    names = [tensor.name for tensor in (*contract.inputs, *contract.outputs)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not contract.outputs:
        raise ContractError(f"{'no output' if not twice else f'{twice[0]} stands twice'} in the contract {text!r}")
    return contract


def parse_tensors(text: str) -> tuple[Named, ...]:
    """Read a list of tensors, separated by commas or new lines."""
    tensors = []
    for part in filter(None, (part.strip() for part in re.split(r",|\n", text))):
        match = TENSOR.fullmatch(part)
        if not match:
            raise ContractError(
                f"cannot read {part!r}; a tensor is written name[axis axis], name[axis]:int<axis or name[axis]:float32"
            )
        kind = "float" if not match["kind"] else "int" if match["below"] else KEPT
        tensors.append(Named(match["name"], tuple(match["axes"].split()), kind, match["below"], bool(match["optional"])))
    return tuple(tensors)


def per_layer(tensors: Iterable[Named], layers: int) -> tuple[Named, ...]:
    """Parameters with every `*` written out for each of the layers."""
    written: list[Named] = []
    for tensor in tensors:
        numbers: Iterable[int | None] = range(layers) if "*" in tensor.name else (None,)
        written += [Named(tensor.name.replace("*", str(i)), tensor.axes, tensor.kind, tensor.below) for i in numbers]
    return tuple(written)
