"""How a question is put: the same values in other memory, and no setting of torch's that is not put back."""

import pytest
import torch

from harness import Unsupported, asking, catalogue
from harness.contract import ContractError
from harness.implementation import Implementation
from harness.spec import DTYPES, Bunch


@pytest.mark.parametrize("layout", asking.LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_strided_inputs_hold_the_same_values_and_lie_otherwise(layout, shape: tuple[int, ...]):
    x = torch.randn(shape)
    strided = layout(x)
    assert torch.equal(strided, x)
    assert not strided.is_contiguous() or (len(shape) == 1 and strided.storage_offset())


@pytest.mark.parametrize(("claimed", "other"), [(("float32",), "float32"), (("float32", "bfloat16"), "bfloat16")], ids=str)
def test_another_case_is_asked_in_a_dtype_that_is_claimed(claimed: tuple[str, ...], other: str):
    """Code that does not claim a dtype may crash on it."""
    asked = []
    contestant = Implementation(catalogue.load_spec("rotary"), lambda case: asked.append(case) or run, {}, False, dtypes=claimed)
    run = lambda x, position: x  # noqa: E731
    asking._ask_another_case(contestant, contestant.spec.case("plain"), "normal", 0)
    assert [case.dtype for case in asked] == [DTYPES[other]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: torch.set_default_dtype(torch.float64), "it leaves torch with a default dtype of torch.float64"),
        (lambda: torch.set_grad_enabled(False), "it leaves torch with gradients enabled: False where it was given True"),
        (lambda: torch.set_num_threads(2), "it leaves torch with a number of threads of 2 where it was given 1"),
    ],
    ids=["dtype", "gradients", "threads"],
)
def test_a_setting_that_is_changed_is_told_and_put_back(change, said: str):
    before = {name: get() for name, (get, _) in asking.SETTINGS.items()}
    with pytest.raises(ContractError, match=said), asking.settings_kept():
        change()
    assert {name: get() for name, (get, _) in asking.SETTINGS.items()} == before


def test_new_memory_is_poisoned_and_the_setting_put_back():
    with asking._poisoned_memory():
        assert torch.empty(8).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_is_kept_of_a_single_channel_has_bytes_whatever_its_strides():
    kept = asking.kept(Bunch(out=torch.arange(6.0).reshape(1, 2, 3).permute(1, 2, 0)))
    assert asking._bytes(kept.out).shape == (6, 4)


class Leaky(torch.nn.Module):
    """Counts tokens: honestly in its state, or past it."""

    def __init__(self, honest: bool):
        super().__init__()
        self.honest, self.seen = honest, 0

    def step(self, tokens: torch.Tensor, state: int | None) -> tuple[torch.Tensor, int]:
        self.seen += 1
        told = (state or 0) + 1 if self.honest else self.seen
        return torch.full((len(tokens), 1), float(told)), told


def test_what_goes_from_step_to_step_past_the_state_is_of_the_wrong_text():
    ids = torch.zeros(1, 3, dtype=torch.long)
    assert asking.stepped_in_turn(Leaky(honest=True), ids, ids).flatten().tolist() == [1, 2, 3]
    assert asking.stepped_in_turn(Leaky(honest=False), ids, ids).flatten().tolist() == [1, 3, 3]
    with pytest.raises(Unsupported, match="has no step form"):
        asking.stepped_in_turn(torch.nn.Linear(1, 1), ids, ids)


def test_a_mixer_without_a_step_is_that_of_a_model_which_steps_otherwise():
    """Specs give the name `mixer`: who claims one cannot choose another."""
    model = Leaky(honest=True)
    model.mixer = torch.nn.Linear(1, 1)
    asking.check_stepwise(model)


class Handing(torch.nn.Module):
    """Counts tokens in a state of which it hands on the number alone, or all of it."""

    def __init__(self, honest: bool):
        super().__init__()
        self.honest, self.kept = honest, [0]

    def step(self, tokens: torch.Tensor, state: int | None) -> tuple[torch.Tensor, int]:
        self.kept.append((state or 0 if self.honest else self.kept[state or 0]) + 1)
        return torch.full((len(tokens), 1), float(self.kept[-1])), self.kept[-1] if self.honest else len(self.kept) - 1


def test_a_state_that_only_numbers_what_the_model_keeps_is_no_state():
    ids = torch.zeros(1, 5, dtype=torch.long)
    assert asking.stepped_in_turn(Handing(honest=True), ids, ids).flatten().tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(IndexError) as told:
        asking.stepped_in_turn(Handing(honest=False), ids, ids)
    assert told.value.__notes__ == [asking.BY_A_COPY]


def test_one_gradient_is_wanted_alone_or_all_but_one():
    names = ["q", "k", "v", "bias"]
    wanted = {tuple(asking._some_of(names, number)) for number in range(8)}
    assert wanted == {(name,) for name in names} | {tuple(other for other in names if other != name) for name in names}
    assert asking._some_of(["x"], 0) == asking._some_of(["x"], 1) == ["x"], "the only one is always wanted"
    assert asking._some_of([], 0) == []


@pytest.mark.parametrize("honest", [True, False])
def test_weights_that_a_model_keeps_of_its_last_way_back_are_those_of_another_question(honest: bool):
    def prepare(case):
        model = catalogue.load(catalogue.implementations()["transformer_nope/torch_sdpa"].path).prepare(case)
        kept = {"weight": model.head.weight}

        def head(x):
            if honest or torch.is_grad_enabled():
                kept["weight"] = model.head.weight.clone()
            return x @ kept["weight"].mT

        model.head.forward = head
        return model

    spec = catalogue.load_spec("transformer_nope")
    answers, _ = asking.ways(Implementation(spec, prepare, {}, gradients=True), spec.case("one_token"), "normal", 0, "whole")
    assert torch.equal(answers["without gradients"].logits, answers[""].logits) == honest
