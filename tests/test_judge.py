"""Verdicts on implementations made here: right ones accepted, wrong ones named, nothing compared is wrong."""

import itertools
import re

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


def test_a_sparse_gradient_is_read_as_the_numbers_it_stands_for():
    it = catalogue.load_spec("linear_transformer")
    module = catalogue.load(catalogue.implementations()["linear_transformer/torch_chunks"].path)

    def prepare(case):
        model = module.prepare(case)
        model.embedding.sparse = True
        return model

    case, name = it.case("one_token"), "embedding.weight"
    x = it.inputs(case, cotangents=True)
    told, right = (
        Implementation(it, each, {}, True).outputs_and_gradients(x, case, [name]) for each in (prepare, module.prepare)
    )
    assert torch.equal(told[f"{name}.grad"], right[f"{name}.grad"])


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
    for gradients in (False, True):
        right = judge.law(of(RETENTION, lambda o, x, c: o, gradients), case, "any_split_makes_a_whole")
        assert right.outcome == "ok", right.note
        claimed = {"q.grad", "k.grad", "v.grad", "past.grad"} if gradients else set()
        assert set(right.values["scores"]) == {"out", "state"} | claimed

    def forgets(outputs, x, case):
        return outputs | {"state": 0.9 * outputs["state"]}

    broken = judge.law(of(RETENTION, forgets), case, "any_split_makes_a_whole")
    assert broken.outcome == "wrong"
    first, _, share, others = broken.note.splitlines()
    assert first.startswith("  out after a split at 1: the sides of the law differ by ")
    assert share.endswith("all at n = 1 ... 36")
    assert others.endswith("comparisons fail; the others are of state, out")


def test_a_law_names_the_first_place_and_the_quantity_that_differ():
    def at_an_edge(outputs, x, case):
        after = torch.arange(case.n) < 16
        return outputs | {"out": torch.where(after[:, None], outputs["out"], 0 * outputs["out"])}

    case = RETENTION.case("plain")
    broken = judge.law(of(RETENTION, at_an_edge), case, "chunks_of_any_size_make_a_whole")
    assert broken.outcome == "wrong"
    assert re.match(r"  out in chunks of \d+: the sides of the law differ by ", broken.note)
    assert broken.note.splitlines()[2].endswith("all at n = 16 ... 36")


def test_a_law_sees_the_gradient_of_the_state_that_is_carried():
    def ignored(case):
        def run(q, k, v, past, decay):
            out, state = RETENTION(*(t.double() for t in (q, k, v, past.detach(), decay)))
            return out.to(case.dtype), state.to(case.dtype)

        return run

    def law(gradients: bool):
        return judge.law(Implementation(RETENTION, ignored, {}, gradients), RETENTION.case("plain"), "any_split_makes_a_whole")

    assert law(gradients=False).outcome == "ok"
    assert law(gradients=True).outcome == "wrong"
    assert ".grad after a split at 1: the sides of the law differ by " in law(gradients=True).note


@pytest.mark.parametrize("declared", [True, False])
def test_what_is_declared_deterministic_gives_the_same_bits_again(declared: bool):
    calls = itertools.count()

    def races(outputs, x, case):
        # As sums in any order: every second answer is off by the last bit.
        return outputs if next(calls) % 2 else outputs | {"out": torch.nextafter(outputs["out"], torch.zeros(()))}

    contestant = of(RETENTION, races)
    contestant.deterministic = declared
    if declared:
        with pytest.raises(ContractError, match="declares deterministic = True, but out is not the same when it is asked again"):
            judge.values(contestant, RETENTION.case("plain"), "normal")
    else:
        assert judge.values(contestant, RETENTION.case("plain"), "normal").outcome == "ok"


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
    assert verdict.judge(lambda low: ({}, {}), {"": {}}, {}, "nothing").answer.outcome == "wrong"


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


def test_steps_with_weights_of_before_are_wrong():
    it = catalogue.load_spec("retnet")
    module = catalogue.load(catalogue.implementations()["retnet/torch_parallel"].path)

    def remembering(refresh: bool):
        def prepare(case):
            model = module.prepare(case)
            step, heads = model.step, {}

            def with_head(ids, state=None):
                if refresh or not heads:
                    heads["kept"] = torch.nn.Linear(case.d, case.v, bias=False)
                    heads["kept"].weight.data = model.head.weight.detach().clone()
                model.head.forward = heads["kept"].forward
                return step(ids, state)

            model.step = with_head
            return model

        return judge.values(Implementation(it, prepare, {}, False), it.case("one_token"), "normal", form="step")

    assert remembering(refresh=True).outcome == "ok"
    assert remembering(refresh=False).outcome == "wrong"


def told_of_hooked(make_hook, case: str, gradients: bool = True):
    """What is said of the transformer without positions, each of whose models has a forward hook of its own."""
    it = catalogue.load_spec("transformer_nope")
    module = catalogue.load(catalogue.implementations()["transformer_nope/torch_sdpa"].path)

    def prepare(case):
        model = module.prepare(case)
        model.register_forward_hook(make_hook())
        return model

    return judge.values(Implementation(it, prepare, {}, gradients), it.case(case), "normal")


@pytest.mark.parametrize("of", [lambda x: x.shape[1], len], ids=["the first length", "the first number of rows"])
def test_what_a_model_keeps_of_its_first_text_is_wrong(of):
    def outcome(guilty: bool):
        def make_hook():
            sizes = []

            def first_is_kept(module, given, said):
                sizes.append(of(given[0]))
                return 1.01 * said if guilty and sizes[0] != sizes[-1] else said

            return first_is_kept

        return told_of_hooked(make_hook, "one_head", gradients=False).outcome

    assert outcome(guilty=False) == "ok"
    assert outcome(guilty=True) == "wrong"


@pytest.mark.parametrize(
    ("in_training", "outcome"),
    [
        (lambda said: said, "ok"),
        (lambda said: torch.nn.functional.dropout(said, 0.1), "ok"),
        (lambda said: (said + said.detach()) / 2, "wrong"),
        (lambda said: 1.01 * said, "wrong"),
    ],
    ids=["as it is measured", "with dropout", "half of the gradient", "other logits"],
)
def test_a_model_is_judged_as_it_learns(in_training, outcome: str):
    """What it learns by is asked in training mode alone, where dropout cannot be judged."""
    answer = told_of_hooked(lambda: lambda module, given, said: in_training(said) if module.training else said, "one_token")
    assert answer.outcome == outcome
    assert ("only while training" in answer.note) is (outcome == "wrong")


def test_a_model_that_writes_into_its_weights_is_told():
    with pytest.raises(ContractError, match=r"it writes into its input head.weight"):
        told_of_hooked(lambda: lambda module, given, said: said + 0 * len(module.head.weight.data.mul_(0.9)), "one_token")


def _one_behind(step, mixer):
    def run(x, state):
        return step(mixer, x, None if state is None else (state[0] + 1, state[1]))

    return run
