"""The trainable skeleton and the four models in it: steps agree with the whole, and no model sees ahead."""

from types import SimpleNamespace

import pytest
import torch

from harness import Unsupported, catalogue

MODELS = [
    "transformer_rope/torch_sdpa",
    "transformer_alibi/torch_sdpa",
    "transformer_learned/torch_sdpa",
    "retnet/torch_parallel",
]
CASE = SimpleNamespace(v=17, d=24, h=3, l=2, f=40, t=12)


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    module = catalogue.load(catalogue.implementations()[request.param].path).prepare(CASE).double()
    with torch.no_grad():  # away from the gentle start, so that every part says something
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return module.requires_grad_(False)


def test_steps_say_what_the_whole_says(model):
    ids = torch.randint(CASE.v, (2, 11))
    state, logits = None, []
    for token in ids.unbind(1):
        one, state = model.step(token, state)
        logits.append(one)
    torch.testing.assert_close(torch.stack(logits, 1), model(ids), rtol=1e-9, atol=1e-9)


def test_a_step_leaves_the_state_before_it_as_it_was(model):
    _, state = model.step(torch.tensor([3]))
    first, _ = model.step(torch.tensor([5]), state)
    again, _ = model.step(torch.tensor([5]), state)
    assert torch.equal(first, again)


def test_the_future_is_invisible_and_the_past_is_not(model):
    ids = torch.randint(CASE.v, (1, 11))
    for now in range(11):
        other = ids.clone()
        other[0, now] = (ids[0, now] + 1 + torch.randint(CASE.v - 1, ())) % CASE.v
        differs = (model(ids) - model(other)).abs().amax((0, 2)) > 1e-12
        assert not differs[:now].any()
        assert differs[now:].all()


def test_learned_positions_end_where_their_table_does():
    model = catalogue.load(catalogue.implementations()["transformer_learned/torch_sdpa"].path).prepare(CASE)
    model(torch.zeros(1, 12, dtype=torch.long))
    with pytest.raises(Unsupported, match="learned positions end at 12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    state = None
    for _ in range(12):
        _, state = model.step(torch.tensor([0]), state)
    with pytest.raises(Unsupported, match="learned positions end at 12"):
        model.step(torch.tensor([0]), state)


def test_the_step_of_a_retnet_costs_the_same_state_wherever_it_stands():
    model = catalogue.load(catalogue.implementations()["retnet/torch_parallel"].path).prepare(CASE)
    state, sizes = None, []
    for _ in range(3):
        _, state = model.step(torch.tensor([0]), state)
        sizes.append([past.numel() for _, past in state[1]])
    assert sizes[0] == sizes[-1] == [24 * 8] * 2


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_named_and_shaped_as_in_the_spec(name):
    spec = catalogue.load_spec(name.partition("/")[0])
    case = spec.case("plain").resized({"l": 3})
    model = catalogue.load(catalogue.implementations()[name].path).prepare(case)
    named = {tensor.name: tensor.shape(case.values) for tensor in spec.given(case) if "." in tensor.name}
    assert {key: tuple(weight.shape) for key, weight in model.named_parameters()} == named


@pytest.mark.parametrize("name", MODELS)
def test_double_precision_is_the_reference_to_the_last_digits(name):
    spec = catalogue.load_spec(name.partition("/")[0])
    for case in (spec.case("plain", torch.float64), spec.case("one_head", torch.float64)):
        x = spec.inputs(case)
        model = catalogue.load(catalogue.implementations()[name].path).prepare(case).double()
        model.load_state_dict({key: tensor for key, tensor in x.items() if key != "ids"})
        torch.testing.assert_close(model(x.ids), spec.reference(x, case).logits, rtol=1e-9, atol=1e-9)
