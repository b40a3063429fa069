"""Verdicts on implementations made here: right ones accepted, wrong ones named, nothing compared is wrong."""

import pytest
import torch

from harness import catalogue, judge, verdict
from harness.contract import ContractError
from harness.implementation import Implementation
from harness.spec import Spec, spec

ROTARY: Spec = catalogue.load_spec("rotary")
RETENTION: Spec = catalogue.load_spec("retention")


def of(it: Spec, function, gradients: bool = False) -> Implementation:
    """An implementation that computes the reference in float64, changed by `function(outputs, x, case)`."""

    def prepare(case):
        names = [tensor.name for tensor in it.contract.inputs]

        def run(*args):
            x = dict(zip(names, args, strict=True))
            doubled = {name: t.double() if t.is_floating_point() else t for name, t in x.items()}
            outputs = {name: out.to(case.dtype) for name, out in it.reference(doubled, case).items()}
            return function(outputs, x, case)

        return run

    return Implementation(it, prepare, {}, gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_right_answer_is_grade_a(dtype: torch.dtype):
    answer = judge.values(of(RETENTION, lambda o, x, c: o, gradients=True), RETENTION.case("plain", dtype), "normal")
    assert (answer.outcome, answer.values["grade"]) == ("ok", "A"), answer.note
    assert set(answer.values["scores"]) == {"out", "state", "q.grad", "k.grad", "v.grad", "past.grad"}


def test_one_wrong_element_is_placed():
    def off(outputs, x, case):
        out = outputs["out"].clone()
        out[1, 2, 30, 3] += 1
        return {"out": out}

    answer = judge.values(of(ROTARY, off), ROTARY.case("plain"), "normal")
    assert answer.outcome == "wrong"
    assert answer.note.splitlines()[0].startswith("  out[b=1 h=2 n=30 d=3] is ")
    assert answer.note.splitlines()[2] == "  1 of 1776 elements wrong, all at n = 30"


def test_a_gradient_that_never_arrives_is_wrong():
    def detached(outputs, x, case):
        return outputs | {"state": outputs["state"].detach()}

    answer = judge.values(of(RETENTION, detached, gradients=True), RETENTION.case("plain"), "normal")
    assert answer.outcome == "wrong"
    assert ".grad[" in answer.note


def test_gradients_claimed_of_what_is_detached_are_refused():
    lone = of(ROTARY, lambda o, x, c: {"out": o["out"].detach()}, gradients=True)
    with pytest.raises(ContractError, match="claims gradients, but no output is connected to its inputs"):
        judge.values(lone, ROTARY.case("plain"), "normal")


def test_low_precision_inside_is_grade_b_and_not_wrong():
    def run(case):
        def attend(q, k, v, bias=None):
            score = ((q @ k.repeat_interleave(2, 1).mT) * case.d**-0.5).softmax(-1)
            return score @ v.repeat_interleave(2, 1)

        return attend

    it = catalogue.load_spec("attention")
    case = it.case("plain", torch.bfloat16).resized({"b": 1, "h": 2, "g": 1, "d": 128, "m": 300})
    answers = [judge.values(Implementation(it, run, {}, False), case, family) for family in it.families]
    assert {answer.outcome for answer in answers} == {"ok"}
    assert "B" in {answer.values["grade"] for answer in answers}


def test_laws_hold_for_the_right_and_not_for_the_wrong():
    case = RETENTION.case("plain")
    assert judge.law(of(RETENTION, lambda o, x, c: o), case, "two_halves_make_a_whole").outcome == "ok"

    def forgets(outputs, x, case):
        return outputs | {"state": 0.9 * outputs["state"]}

    broken = judge.law(of(RETENTION, forgets), case, "two_halves_make_a_whole")
    assert broken.outcome == "wrong"
    assert "left - right" in broken.note


def test_a_law_that_compares_nothing_is_wrong():
    @spec("x[n] -> out[n]", cases={"plain": {}}, n=3)
    def same(x):
        return x * 1

    @same.law
    def nothing_is_nothing(run, x, rng):
        return run(x).out[:0], x.x[:0]

    answer = judge.law(
        Implementation(same, lambda case: lambda x: x.clone(), {}, False), same.case("plain"), "nothing_is_nothing"
    )
    assert (answer.outcome, answer.note) == ("wrong", "the law nothing_is_nothing compared nothing")


def test_a_verdict_on_nothing_is_wrong():
    assert verdict.judge(lambda x: x, {}, {"": {}}, torch.float32, {}).answer.outcome == "wrong"


def test_the_step_form_is_judged_too():
    it = catalogue.load_spec("retnet")
    module = catalogue.load(catalogue.implementations()["retnet/torch_parallel"].path)
    case = it.case("plain")
    assert judge.values(Implementation(it, module.prepare, {}, False), case, "normal", form="step").outcome == "ok"

    def late(case):
        model = module.prepare(case)
        step = type(model).step
        model.step = lambda ids, state=None: step(model, ids, state if state is None else (state[0] + 1, state[1]))
        for block in model.blocks:
            block.mixer.step = _one_behind(type(block.mixer).step, block.mixer)
        return model

    assert judge.values(Implementation(it, late, {}, False), case, "normal", form="step").outcome == "wrong"


def _one_behind(step, mixer):
    def run(x, state):
        return step(mixer, x, None if state is None else (state[0] + 1, state[1]))

    return run
