"""Every known mistake of every spec is caught by some case and input family, in float32 and in bfloat16, without a GPU."""

from functools import cache

import pytest
import torch

from harness import catalogue, trial
from harness.spec import Mistake

SPECS = {name: spec for name in catalogue.specs() if (spec := catalogue.load_spec(name)).defined}
# One process has the trials of a spec: they are dear, and its tests share them.
GROUPED = {spec: pytest.mark.xdist_group(spec) for spec in SPECS}
# Language models are trained, and judged, in float32; their operators are judged in every dtype.
DTYPES = {
    name: (torch.float32,) if spec.parameters else (torch.float32, torch.bfloat16, torch.float16) for name, spec in SPECS.items()
}
MISTAKES = [
    pytest.param(name, mistake, dtype, marks=GROUPED[name])
    for name, spec in SPECS.items()
    for mistake in spec.mistakes
    for dtype in DTYPES[name][:2]
]


@cache
def trials(spec: str, dtype: torch.dtype) -> list[trial.Trial]:
    return trial.trials(SPECS[spec], dtype)


@pytest.mark.parametrize(("spec", "mistake", "dtype"), MISTAKES, ids=lambda word: str(word).replace(" ", "_"))
def test_a_mistake_is_caught(spec: str, mistake: str, dtype: torch.dtype):
    found = trial.caught(SPECS[spec].mistakes[mistake], trials(spec, dtype))
    assert next(found, None), f"{spec}: no case catches that {mistake!r} in {dtype}"


@pytest.mark.parametrize("spec", [pytest.param(spec, marks=mark) for spec, mark in GROUPED.items()])
def test_the_reference_itself_is_no_mistake(spec: str):
    """A sixth of the trials, another one in each dtype: all of them are `harness audit`'s, which takes minutes a spec."""
    right = Mistake("none", SPECS[spec].function)
    for i, dtype in enumerate(DTYPES[spec]):
        for asked in trials(spec, dtype)[i::6]:
            score = asked.score(asked.answer(right))
            assert score <= 1, f"{spec} rejects itself in case {asked.case.name}, {dtype}, inputs {asked.family}: {score:.2g}"
