"""Calls that are timed or weighed: fresh inputs in the same memory, any sample may be judged, only the call is timed."""

import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import Unsupported, catalogue, clock, cost
from harness.contract import ContractError
from harness.cost import Question
from harness.implementation import Implementation
from harness.spec import Bunch

KIB = 1024


def contestant(run: Any, name: str = "layer_norm", gradients: bool = True) -> Implementation:
    return Implementation(catalogue.load_spec(name), lambda case: run, {}, gradients)


def question(name: str = "layer_norm", form: str = "forward", n: int = 8, **sizes: Any) -> Question:
    return Question(catalogue.load_spec(name).case("plain").resized({"n": n, **sizes}), form, n, seed=3)


def norm(x, weight, bias):
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The durations of the calls to come, in place of a clock; then a second each. The calls are made."""
    left: list[float] = []

    def seconds_and_result(call, device="cpu"):
        result = call()
        return (left.pop(0) if left else 1.0), result

    monkeypatch.setattr(clock, "seconds_and_result", seconds_and_result)
    monkeypatch.setattr(clock, "seconds", lambda call, device="cpu": seconds_and_result(call)[0])
    monkeypatch.setattr(cost.asking, "check_instruments", lambda: None)
    return left


def test_each_sample_has_inputs_of_its_own_and_the_judge_can_draw_them():
    seen: list[torch.Tensor] = []
    asked = question()
    make = cost.calls(contestant(lambda x, weight, bias: seen.append(x.clone()) or norm(x, weight, bias)), asked)
    for i in (0, 1, 2, 1):
        make(i)()
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert torch.equal(seen[1], cost.inputs(catalogue.load_spec("layer_norm"), asked, 1).x)
    other = Question(asked.case, asked.form, asked.length, seed=4)
    assert not torch.equal(seen[1], cost.inputs(catalogue.load_spec("layer_norm"), other, 1).x)


def test_all_samples_lie_in_the_same_memory():
    places: set[tuple[int, ...]] = set()
    make = cost.calls(contestant(lambda *x: places.add(tuple(t.data_ptr() for t in x)) or norm(*x)), question(form="training"))
    for i in range(5):
        make(i)()
    assert len(places) == 1


def test_who_writes_into_inputs_is_named():
    make = cost.calls(contestant(lambda x, weight, bias: norm(x.mul_(2), weight, bias)), question())
    call = make(1)
    call.check_inputs()
    call()
    with pytest.raises(ContractError, match="writes into its input x"):
        call.check_inputs()
    make(1).check_inputs()


@pytest.mark.parametrize("form", ["forward", "training"])
def test_outputs_and_gradients_are_those_of_the_reference(form: str):
    spec, asked = catalogue.load_spec("layer_norm"), question(form=form)
    got = cost.kept(contestant(norm), asked, cost.calls(contestant(norm), asked)(2)())
    x = cost.inputs(spec, asked, 2)
    leaves = [x[name].double().requires_grad_() for name in ("x", "weight", "bias")]
    out = spec.reference(Bunch(zip(("x", "weight", "bias"), leaves, strict=True)), asked.case).out
    torch.testing.assert_close(got.out.double(), out.detach(), rtol=1e-4, atol=1e-4)
    if form == "training":
        wanted = torch.autograd.grad(out, leaves, x["out.grad"].double())
        for name, gradient in zip(("x", "weight", "bias"), wanted, strict=True):
            torch.testing.assert_close(got[name + ".grad"].double(), gradient, rtol=1e-4, atol=1e-4)
    else:
        assert set(got) == {"out"}


def test_forward_is_asked_without_gradients_and_training_with_them():
    told: list[bool] = []
    run = contestant(lambda *x: told.append(torch.is_grad_enabled()) or norm(*x))
    for form in ("forward", "training"):
        cost.calls(run, question(form=form))(0)()
    assert told == [False, True]
    with pytest.raises(Unsupported, match="no output is connected"):
        cost.calls(contestant(lambda *x: norm(*x).detach()), question(form="training"))(0)()


def test_what_an_output_is_not():
    asked = question()
    for run, said in (
        (lambda *x: norm(*x).double(), "is float64"),
        (lambda *x: norm(*x)[:, :-1], "has shape"),
        (lambda *x: norm(*x).as_subclass(nn.Parameter), "not a torch.Tensor"),
        (lambda *x: (norm(*x), norm(*x)), "returned 2 outputs"),
    ):
        with pytest.raises(ContractError, match=said):
            cost.kept(contestant(run), asked, cost.calls(contestant(run), asked)(0)())


def test_a_gradient_that_is_computed_when_it_is_read_is_none():
    class Later(torch.Tensor):
        pass

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *x):
            return norm(*x)

        @staticmethod
        def backward(ctx, found):
            return found.as_subclass(Later), found.sum((0, 1)), found.sum((0, 1))

    asked = question(form="training")
    with pytest.raises(ContractError, match=r"x\.grad is a .*Later, not a torch\.Tensor"):
        cost.kept(contestant(Norm.apply), asked, cost.calls(contestant(Norm.apply), asked)(0)())


def test_samples_are_kept_all_and_in_order(planted: list[float]):
    planted += [5.0, 4.0, 4.0, *(0.01 * i for i in range(1, 30))]  # warm-up ends with what brings little more
    values, _ = cost.timed(contestant(norm), question(), 0)
    assert values["seconds"] == [pytest.approx(0.01 * i) for i in range(1, len(values["seconds"]) + 1)]
    # 0.01 + 0.02 + ... reaches ENOUGH_S after seven.
    assert len(values["seconds"]) == 7


def test_how_many_samples_there_are(planted: list[float]):
    for one, count in ((1e-6, cost.MOST), (cost.ENOUGH_S / 10, 10), (1.0, cost.LEAST), (cost.FEWEST_S, cost.LEAST_SLOW)):
        planted[:] = [one] * 200
        assert len(cost.timed(contestant(norm), question(), 0)[0]["seconds"]) == pytest.approx(count, abs=1)


def test_any_sample_may_be_the_one_that_is_judged(planted: list[float]):
    seen = Counter()
    for dice in range(60):
        planted[:] = [0.05] * 30
        values, got = cost.timed(contestant(norm), question(n=2), dice)
        seen[values["checked"]] += 1
        for i in (values["checked"] - 1, values["checked"]):
            x = cost.inputs(catalogue.load_spec("layer_norm"), question(n=2), i)
            assert torch.equal(cost.of_sample(i, got).out, norm(x.x, x.weight, x.bias)), "the answer to the sample of this number"
        assert len(got) == 2
    assert set(seen) == set(range(2, len(values["seconds"]) + 1))
    assert max(seen.values()) < 30


def test_what_is_kept_is_what_stood_there_when_the_clock_stopped(planted: list[float]):
    room = torch.empty(1, 8, 512)

    def run(x, weight, bias):
        return room.copy_(norm(x, weight, bias))

    asked = question(b=1, d=512)
    values, got = cost.timed(contestant(run), asked, 0)
    x = cost.inputs(catalogue.load_spec("layer_norm"), asked, values["checked"])
    assert torch.equal(cost.of_sample(values["checked"], got).out, norm(x.x, x.weight, x.bias)), "a later call wrote into it"


def test_who_never_becomes_steady_is_told(planted: list[float]):
    planted += [0.8**i for i in range(clock.MOST_WARMUPS)]
    assert cost.timed(contestant(norm), question(), 0)[0]["steady"] is False
    assert cost.timed(contestant(norm), question(), 0)[0]["steady"] is True


def test_what_passes_around_a_call_uncounted_is_told(monkeypatch: pytest.MonkeyPatch):
    genuine = clock.seconds_and_result
    assert abs(cost.timed(contestant(norm), question(), 0)[0]["lost_s"]) < 1e-4

    def fewer(call, device="cpu"):
        took, answer = genuine(call, device)
        return took / 20, answer

    monkeypatch.setattr(clock, "seconds_and_result", fewer)
    slow = contestant(lambda *x: time.sleep(0.002) or norm(*x))
    assert cost.timed(slow, question(), 0)[0]["lost_s"] > 0.0015


def test_on_how_many_threads_it_works_is_told_whoever_started_them(monkeypatch: pytest.MonkeyPatch):
    slow = contestant(lambda *x: time.sleep(0.002) or norm(*x))
    assert cost.timed(slow, question(), 0)[0]["at_once"] < 1, "it sleeps"
    monkeypatch.setattr(clock, "worked", lambda: 2 * clock.now())
    assert cost.timed(slow, question(), 0)[0]["at_once"] == pytest.approx(2, rel=0.1)


def test_the_first_call_is_that_of_who_was_not_called_before(planted: list[float]):
    planted += [0.5, 7.0, 1.0]
    values, _ = cost.asked(contestant(norm), question())
    assert values == {"prepare_s": 0.5, "first_s": 7.0}


def test_threads_are_those_of_the_question_and_stay_so():
    seen: list[int] = []
    asked = question()
    before = torch.get_num_threads()
    cost.costed(contestant(lambda *x: seen.append(torch.get_num_threads()) or norm(*x)), "asked", asked)
    assert set(seen) == {1}
    with pytest.raises(ContractError, match="leaves torch with a number of threads of 2 where it was given 1"):
        cost.costed(contestant(lambda *x: torch.set_num_threads(2) or norm(*x)), "asked", asked)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="nothing is 'guessed' here"):
        cost.costed(contestant(norm), "guessed", asked)


def test_who_changes_a_setting_of_torch_is_named_and_it_is_put_back():
    changes = {
        "a default dtype of torch.float64": lambda: torch.set_default_dtype(torch.float64),
        "a default device of meta": lambda: torch.set_default_device("meta"),
        "gradients enabled: False": lambda: torch._C._set_grad_enabled(False),
        "deterministic algorithms: True": lambda: torch._C._set_deterministic_algorithms(True),
    }
    for said, change in changes.items():
        with pytest.raises(ContractError, match=f"it leaves torch with {said} where it was given"):
            cost.costed(contestant(lambda *x, change=change: (norm(*x), change())[0]), "asked", question(form="training"))
        cost.costed(contestant(norm), "asked", question(form="training"))


@pytest.mark.parametrize("kind", ["asked", "timed", "weighed"])
def test_who_replaces_the_clock_is_named(kind: str, monkeypatch: pytest.MonkeyPatch):
    genuine = clock.now
    monkeypatch.setattr(clock, "now", genuine)  # puts it back

    def run(*x):
        clock.now = lambda: genuine() / 2
        return norm(*x)

    with pytest.raises(ContractError, match=r"it replaces harness\.clock\.now"):
        cost.costed(contestant(run), kind, question())


def test_peak_of_known_allocations():
    """A call that takes 3 MiB beside its output of 16 KiB and the mean and spread of 8 rows, and gives it back."""

    def run(x, weight, bias):
        room = torch.zeros(3 * KIB, KIB // 4)
        return norm(x, weight, bias) + 0 * room[0, 0]

    asked = question(b=1, d=512)
    values, _ = cost.weighed(contestant(run), asked)
    of_norm = 16 * KIB + 2 * 8 * 4
    assert 3 * KIB * KIB + of_norm <= values["peak_bytes"] <= 3 * KIB * KIB + of_norm + 16 * KIB + 64
    exact, _ = cost.weighed(contestant(norm), asked)
    assert exact["peak_bytes"] == of_norm


def test_memory_that_torch_does_not_see_is_not_told_as_none():
    def by_numpy(x, weight, bias):
        return torch.from_numpy(norm(x, weight, bias).numpy() + 0)

    def elsewhere(x, weight, bias):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(norm, x, weight, bias).result()

    for run in (by_numpy, elsewhere, lambda *x: by_numpy(*x).double().float(), lambda *x: elsewhere(*x) + 0):
        with pytest.raises(Unsupported, match="cannot be counted: it is taken past torch's allocator or in another thread"):
            cost.weighed(contestant(run), question(b=1, d=512))


def test_memory_of_a_library_within_a_call_is_not_told_as_none():
    """The answer is a tensor of torch's; 16 MiB are taken by numpy meanwhile."""

    def by_numpy(x, weight, bias):
        return norm(x, weight, bias) + 0 * float(np.ones(2 * KIB * KIB).sum())

    with pytest.raises(Unsupported, match="cannot be counted: it is taken past torch's allocator or in another thread"):
        cost.weighed(contestant(by_numpy), question(b=1, d=512))


def test_a_process_that_grows_too_much_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch):
    """Where memory was short, 177 MB were seen once of honest attention that takes 58."""
    seen = [2**30, 0]
    monkeypatch.setattr(cost.memory, "resident", lambda call: (call(), seen.pop(0))[1])
    cost.weighed(contestant(norm), question())
    assert not seen
    seen += [2**30, 2**30]
    with pytest.raises(Unsupported, match="cannot be counted"):
        cost.weighed(contestant(norm), question())


def test_what_works_in_another_process_is_neither_timed_nor_weighed():
    """A child that was forked before and waits for work, or one for each call, is seen; one that sleeps all the time is not."""
    waiting, idle = (subprocess.Popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2))

    def by_one_that_waits(x, weight, bias):
        waiting.stdin.write(b"\n")
        waiting.stdin.flush()
        waiting.stdout.readline()
        return norm(x, weight, bias)

    def by_one_of_its_own(x, weight, bias):
        subprocess.run("true", check=True)
        return norm(x, weight, bias)

    try:
        for run in (by_one_that_waits, by_one_of_its_own):
            with pytest.raises(Unsupported, match="works in other processes"):
                cost.timed(contestant(run), question(), 0)
            with pytest.raises(Unsupported, match="works in other processes"):
                cost.weighed(contestant(run), question())
        cost.timed(contestant(norm), question(), 0)
        cost.weighed(contestant(norm), question())
    finally:
        for one in (waiting, idle):
            one.communicate()


@pytest.mark.parametrize("form", ["forward", "training"])
def test_what_is_kept_between_calls_counts_however_warm_it_is(form: str):
    """A workspace of 64 KiB, made at the first call of the process; the inputs and what a call gives back are not kept."""
    kept: list[torch.Tensor] = []

    def run(x, weight, bias):
        if not kept:
            kept.append(torch.zeros(16 * KIB))
        return norm(x, weight, bias) + 0 * kept[0][0]

    asked = question(form=form)
    plain, _ = cost.weighed(contestant(lambda *x: norm(*x) + 0 * torch.zeros(())), asked)
    assert plain["held_bytes"] == 0
    for _ in range(2):
        values, _ = cost.weighed(contestant(run), asked)
        assert values["held_bytes"] == 64 * KIB
        assert values["peak_bytes"] == pytest.approx(plain["peak_bytes"] + 64 * KIB, abs=64)


def test_an_answer_that_lies_in_what_is_kept_is_counted_once():
    room = torch.zeros(1, 8, 512)
    values, _ = cost.weighed(contestant(lambda *x: room.copy_(norm(*x))), question(b=1, d=512))
    assert (values["held_bytes"], values["peak_bytes"]) == (16 * KIB, 16 * KIB + 16 * KIB + 2 * 8 * 4)


def test_what_a_model_keeps_beside_its_state_is_told():
    class Hides(nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 5)

        def step(self, ids, state):
            if state is None:
                self.cache = torch.zeros(KIB)
            return torch.zeros(len(ids), 5) + self.cache[0], torch.zeros(2)

    spec = catalogue.load_spec("language_model")
    case = spec.case("plain").resized({"b": 1, "n": 4, "v": 5})
    values, _ = cost.weighed(Implementation(spec, lambda case: Hides(), {}, False), Question(case, "step", 4, 0))
    assert (values["state_bytes"], values["held_bytes"]) == (8, 4 * KIB)


def test_what_is_kept_of_each_text_past_its_state_is_carried():
    kept, table = list[torch.Tensor](), torch.ones(KIB)

    class ByNumber(nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 5)

        def step(self, ids, state):
            before = torch.zeros(0) if state is None else kept[state]
            kept.append(torch.cat([before, ids]))
            return torch.zeros(len(ids), 5) + 0 * before.sum() + table[0], len(kept) - 1

    spec = catalogue.load_spec("language_model")
    case = spec.case("plain").resized({"b": 1, "n": 24, "v": 5})
    asked = Question(case, "step", 24, 0)
    values, _ = cost.weighed(Implementation(spec, lambda case: ByNumber(), {}, False), asked)
    assert values["state_bytes"] == 24 * 4, "tokens of the text, without the table"


def test_a_step_of_attention_carries_its_keys_and_values_and_retention_its_state():
    def attend(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    sizes = {"b": 2, "h": 3, "g": 3, "d": 8, "e": 8}
    asked = question("attention", "step", n=1, m=50, **sizes)
    values, _ = cost.weighed(contestant(attend, "attention"), asked)
    assert values["state_bytes"] == 2 * (2 * 3 * 50 * 8) * 4

    def retain(q, k, v, past, decay):
        state = decay[:, None, None] * past + k.mT @ v
        return q @ state, state

    asked = question("retention", "step", n=1, b=2, h=3, d=8, e=5)
    values, _ = cost.weighed(contestant(retain, "retention"), asked)
    assert values["state_bytes"] == 2 * 3 * 8 * 5 * 4


def of_model(name: str, form: str, n: int = 24, **sizes: Any) -> tuple[Implementation, Question]:
    full = next(full for full in catalogue.implementations(name) if not full.endswith("triton_flash"))
    module = catalogue.load(catalogue.implementations()[full].path)
    case = catalogue.load_spec(name).case("plain").resized({"b": 2, "n": n, "d": 16, "h": 2, "l": 3, "f": 8, **sizes})
    return Implementation(catalogue.load_spec(name), module.prepare, {}, True), Question(case, form, n, 0)


def test_what_models_carry_from_token_to_token_and_keep():
    rope, asked = of_model("transformer_rope", "step")
    values, _ = cost.weighed(rope, asked)
    assert values["state_bytes"] == 3 * 2 * (2 * 24 * 16) * 4, "keys and values of three layers, two rows, 24 tokens"
    spec, case = rope.spec, asked.case
    numbers = sum(torch.Size(t.shape(case.values)).numel() for t in spec.given(case) if "." in t.name)
    assert (values["parameters"], values["weights_bytes"]) == (numbers, 4 * numbers)
    for n in (24, 48):
        retnet, asked = of_model("retnet", "step", n)
        assert cost.weighed(retnet, asked)[0]["state_bytes"] == 3 * (2 * 2 * 8 * 8) * 4, "heads of 8 by 8, whatever the length"


def test_steps_of_a_model_go_on_after_the_text():
    rope, asked = of_model("transformer_rope", "step")
    make = cost.calls(rope, asked)
    x = cost.inputs(rope.spec, asked, 2)
    assert x.ids.shape == (2, 24 + cost.STEPS)
    assert torch.equal(x.ids[:, :24], cost.inputs(rope.spec, asked, 1).ids[:, :24]), "the same text for all samples"
    with torch.no_grad():
        whole = rope.model(x, asked.case.resized({"n": 24 + cost.STEPS}))(x.ids)
    for _ in range(2):  # from a copy of the state, each time
        torch.testing.assert_close(cost.kept(rope, asked, make(2)()).logits, whole[:, -cost.STEPS :], rtol=1e-4, atol=1e-4)


def test_seconds_of_a_step_are_those_of_all_by_their_number(planted: list[float]):
    rope, asked = of_model("transformer_rope", "step")
    planted += [16.0] * 30
    values, _ = cost.timed(rope, asked, 0)
    assert set(values["seconds"]) == {16.0 / cost.STEPS}


def test_who_has_no_step_form_and_whose_steps_are_no_logits():
    hat, asked = of_model("rmt_encoder", "step")
    with pytest.raises(Unsupported, match="has no step form"):
        cost.calls(hat, asked)

    class Odd(nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 5)

        def step(self, ids, state):
            return torch.zeros(len(ids), 4), state

    case = catalogue.load_spec("language_model").case("plain").resized({"b": 1, "n": 4, "v": 5})
    odd = Implementation(catalogue.load_spec("language_model"), lambda case: Odd(), {}, False)
    with pytest.raises(ContractError, match="should give logits"):
        cost.calls(odd, Question(case, "step", 4, 0))(0)()
