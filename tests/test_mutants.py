"""Mutants of a reference: which there are, how they are called, that none comes twice, and that all are of the same signature."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import catalogue, mutants
from harness.spec import spec

FACTORS = (2.0, 3.0)


@spec("x[n d] -> out[n d], last[n]", n=3, d=4, cases={"plain": {}, "shifted": {"shift": 2}})
def tiny(x, *, shift: int = 1):
    y = doubled(x)
    if shift > 1:
        y = y + shift
    return torch.exp(y), first(y.detach())


def doubled(x):
    """Two times 7 is in a docstring, and stays."""
    x = x * FACTORS[0]
    return x  # noqa: RET504


def first(x, dim=-1):
    return x[:, 1:].amax(dim)


def unused(x):
    """No part of the reference, as mistakes and the defaults of signatures are none."""
    return x + 1


@tiny.mistake("everything is nothing")
def _(x, *, shift):
    return 0 * x, 0 * x[:, 0]


EXPECTED = """
    doubled: x = x * FACTORS[0] -> (dropped)
    doubled: x * FACTORS[0] -> x / FACTORS[0]
    doubled: x * FACTORS[0] -> x + FACTORS[0]
    doubled: FACTORS[0] -> FACTORS[1]
    doubled: FACTORS[0] -> FACTORS[-1]
    first: x[:, 1:].amax(dim) -> x[:, 1:].amin(dim)
    first: x[:, 1:] -> x[:, 1:-1]
    first: x[:, 1:] -> x[:, 2:]
    first: x[:, 1:] -> x[:, 0:]
    tiny: if shift > 1: -> if not shift > 1:
    tiny: shift > 1 -> shift >= 1
    tiny: shift > 1 -> shift <= 1
    tiny: shift > 1 -> shift > 2
    tiny: shift > 1 -> shift > 0
    tiny: y = y + shift -> (dropped)
    tiny: y + shift -> y - shift
    tiny: torch.exp(y) -> torch.exp2(y)
    tiny: torch.exp(y) -> torch.expm1(y)
    tiny: torch.exp(y) -> y
    tiny: first(y.detach()) -> first(y)
    FACTORS: 2.0 -> 2.02
    FACTORS: 2.0 -> -2.0
    FACTORS: 3.0 -> 3.0300000000000002
    FACTORS: 3.0 -> -3.0
"""


@pytest.fixture(scope="module")
def found() -> dict[str, mutants.Mutant]:
    return {mutant.name: mutant for mutant in mutants.mutants(tiny)}


def test_these_are_the_mutants(found: dict[str, mutants.Mutant]):
    assert set(found) == {line.strip() for line in EXPECTED.strip().splitlines()}


def test_a_mutant_says_where_it_is(found: dict[str, mutants.Mutant]):
    mutant = found["tiny: shift > 1 -> shift >= 1"]
    assert mutant.file == "tests/test_mutants.py"
    assert "if shift > 1" in Path(__file__).read_text().splitlines()[mutant.line - 1]
    assert (mutant.before, mutant.after) == ("if shift > 1:", "if shift >= 1:")


def test_a_mutant_differs_and_the_reference_stays_as_it_was(found: dict[str, mutants.Mutant]):
    x = torch.randn(3, 4, dtype=torch.float64)
    before = tiny(x)
    dropped: Callable = found["doubled: x = x * FACTORS[0] -> (dropped)"].function
    assert torch.equal(dropped(x)[0], x.exp())
    assert torch.equal(tiny(x)[0], before[0])
    assert torch.equal(found["FACTORS: 2.0 -> -2.0"].function(x)[0], (-2 * x).exp())


@pytest.mark.parametrize("name", ["rms_norm", "attention", "wkv", "transformer_rope"])
def test_no_mutant_comes_twice_and_the_order_is_fixed(name: str):
    spec = catalogue.load_spec(name)
    one, two = ([(m.name, m.line, m.before, m.after) for m in mutants.mutants(spec)] for _ in range(2))
    assert one == two
    assert len({m[0] for m in one}) == len(one) > 10


def test_the_skeleton_of_language_models_is_mutated_with_them():
    files = {mutant.file for mutant in mutants.mutants(catalogue.load_spec("transformer_rope"))}
    assert files == {"harness/specs/transformer_rope.py", "harness/specs/_decoder.py"}


@pytest.mark.parametrize("name", [name for name in catalogue.specs() if catalogue.load_spec(name).defined])
def test_an_argument_is_about_a_wrong_function_that_there_is(name: str):
    spec = catalogue.load_spec(name)
    names = {mutant.name for mutant in mutants.mutants(spec)} | set(spec.mistakes)
    argued = {key.removesuffix(", bfloat16").removesuffix(", float32") for key in mutants.equivalent(spec)}
    assert not argued - names, f"EQUIVALENT of {name} argues about mutants and mistakes that there are not"
