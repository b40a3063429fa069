"""References obey their own laws in float64, have right gradients, keep their contracts, and every case is a case of its own."""

import pytest
import torch

from harness import catalogue, rounding
from harness.judge import Run, paired
from harness.spec import GRADIENT, Bunch, Case, Law, Spec, dice

SPECS = {name: spec for name in catalogue.specs() if (spec := catalogue.load_spec(name)).defined}
CASES = [(spec, case) for spec in SPECS for case in SPECS[spec].cases]
LAWS = [(spec, law) for spec in SPECS for law in SPECS[spec].laws]


def doubled(spec: Spec, case: str, family: str) -> dict[str, torch.Tensor]:
    x = spec.inputs(spec.case(case), family)
    return {name: t.double() if t.is_floating_point() else t for name, t in x.items()}


def breaks(spec: Spec, law: Law, case: Case) -> float:
    """By how much the reference itself, in float64, fails a law, relative to what it compares."""

    def ask(inputs: Bunch, resized: Case, wrt: list[str]) -> Bunch:
        plain: rounding.Function = lambda y: dict(spec.reference(y, resized))  # noqa: E731
        return Bunch((rounding.with_gradients(plain, wrt) if wrt else plain)(inputs))

    drawn = spec.inputs(case, cotangents=True)
    x = Bunch({name: t.double() if t.is_floating_point() else t for name, t in drawn.items()})
    sides = paired(law.check(Run(spec, case, ask), x, dice(spec.name, case.name, law.name))).values()
    if not sides or not all(one.numel() for one, _ in sides):
        return float("inf")
    return max(float((one - other).abs().max() / (1 + other.abs().max())) for one, other in sides)


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_outputs_keep_the_contract_and_are_finite(spec: str, case: str):
    it = SPECS[spec]
    for family in it.families:
        outputs = it.reference(doubled(it, case, family), it.case(case))
        for tensor in it.contract.outputs:
            got = outputs[tensor.name]
            assert tuple(got.shape) == tensor.shape(it.case(case).values), f"{tensor} of {spec}, case {case}"
            assert got.dtype == torch.float64, f"{tensor} of {spec} is computed in {got.dtype}"
            assert got.isfinite().all(), f"{tensor} of {spec} is not finite in case {case}, inputs {family}"


@pytest.mark.parametrize(("spec", "law"), LAWS)
def test_a_law_holds_for_the_reference(spec: str, law: str):
    it = SPECS[spec]
    cases = [case for case in map(it.case, it.cases) if it.laws[law].when(case)]
    assert cases, f"the law {law} of {spec} holds in no case"
    for case in cases:
        assert breaks(it, it.laws[law], case) < 1e-12, f"{spec} breaks its own law {law} in case {case.name}"


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_agree_with_finite_differences(spec: str):
    it = SPECS[spec]
    case = it.case(next(iter(it.cases)))
    small = it.case("plain").resized({axis: min(size, 5) for axis, size in case.values.items() if axis in ("n", "m")})
    wanted = it.differentiable(small)
    if not wanted:
        pytest.skip("no input of this spec has a gradient")
    x = {name: t.double() if t.is_floating_point() else t for name, t in it.inputs(small).items()}
    leaves = [x[name].requires_grad_() for name in wanted]
    run = lambda *values: tuple(it.reference({**x, **dict(zip(wanted, values, strict=True))}, small).values())  # noqa: E731
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("spec", SPECS)
def test_inputs_are_the_same_for_the_same_seed_and_others_for_another(spec: str):
    it = SPECS[spec]
    case = it.case(next(iter(it.cases)), torch.bfloat16)
    one, same, other = (it.inputs(case, seed=seed, cotangents=True) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert {name for name in one if name.endswith(GRADIENT)} == {t.name + GRADIENT for t in it.contract.outputs}
