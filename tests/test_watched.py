"""A trained model is judged as it is measured: what it says, what that hangs on, and against its reference."""

import pytest
import torch
from torch import nn

from harness import terms
from harness.cell import Cell
from harness.contract import ContractError
from harness.implementation import Implementation
from harness.watched import Reference, Watched, check_steps

torch.manual_seed(0)
EMBEDDING = nn.Embedding(7, 5)
IDS = torch.arange(48).reshape(3, 16) % 7


class Saying(nn.Module):
    """A model that says of ids what it is told to say of their embeddings."""

    def __init__(self, say):
        super().__init__()
        self.say = say

    def forward(self, ids):
        return self.say(EMBEDDING(ids).detach())


def watched(say) -> Watched:
    return Watched(Saying(say), "cpu")


def test_an_honest_model_says_what_it_says():
    assert torch.equal(watched(lambda x: x.cumsum(1))(IDS), EMBEDDING(IDS).detach().cumsum(1))
    ask = Watched(Saying(lambda x: x.cumsum(1)), "cpu", last=True)
    assert torch.equal(ask(IDS), EMBEDDING(IDS).detach().cumsum(1)[:, -1]), "at the end of each row alone"
    assert watched(lambda x: x.mean(1))(IDS).shape == (3, 5), "an encoder has no later"


@pytest.mark.parametrize(
    ("say", "told"),
    [
        (lambda x: x + x.roll(-1, 1), r"hangs on the tokens from \d+ on"),
        (lambda x: x + x.unflatten(1, (2, 8)).flip(2).flatten(1, 2), r"hangs on the tokens from \d+ on"),
        (lambda x: x + x.cumsum(0), "hangs on the other rows of its batch"),
        (lambda x: x.mean((0, 1)).expand(3, 5)[: len(x)], "hangs on the other rows of its batch"),
        (lambda x: x.where(x != x[0, 3, 2], torch.nan), "are not all finite"),
        (lambda x: x[:, :-1], r"of ids\[3, 16\] it returned logits of shape \[3, 15, 5\]"),
        (lambda x: (x,), "it returned tuple in place of logits"),
        (lambda x: x.long(), "it returned torch.int64 in place of logits"),
    ],
)
def test_what_hangs_on_what_it_must_not_is_refused(say, told: str):
    with pytest.raises(ContractError, match=told):
        watched(say)(IDS)


def test_each_length_is_looked_at_as_it_comes():
    ask = watched(lambda x: x if x.shape[1] < 12 else x.flip(1))
    ask(IDS[:, :8])
    ask(IDS[:, :8])
    with pytest.raises(ContractError, match="a row of 16 tokens hangs on the tokens"):
        ask(IDS)


@pytest.mark.parametrize("pieces", [4, 8, 32])
def test_the_end_of_a_piece_of_a_power_of_two_is_looked_at(pieces: int):
    def peeks_over_the_end(x):
        last = (torch.arange(1, x.shape[1] + 1) % pieces == 0)[:, None]
        return torch.where(last, x.roll(-1, 1), x)

    with pytest.raises(ContractError, match="hangs on the tokens from 32 on"):
        watched(peeks_over_the_end)(torch.randint(0, 7, (3, 64)))


def test_the_last_places_are_looked_at_too():
    def peeks_at_the_end(x):
        return torch.cat([x[:, :-2], x[:, -1:], x[:, -1:]], 1)

    with pytest.raises(ContractError, match="hangs on the tokens from"):
        watched(peeks_at_the_end)(IDS)


def test_a_row_of_one_token_hangs_on_others_that_might_be_there():
    with pytest.raises(ContractError, match="hangs on the tokens from"):
        watched(lambda x: x + x.roll(-1, 1))(torch.zeros(2, 16, dtype=torch.long))


@pytest.mark.parametrize("honest", [1, 5])
def test_what_begins_to_peek_after_some_calls_is_found_among_many(honest: int):
    calls = []

    def later(x):
        calls.append(x)
        return x + x.roll(-1, 1) if len(x) > 1 and len(calls) > 5 * honest else x

    ask = watched(later)
    with pytest.raises(ContractError, match="hangs on"):
        [ask(torch.randint(0, 7, (3, 64))) for _ in range(40)]


def test_what_peeks_in_all_rows_but_one_is_found_among_many():
    def all_but_the_last(x):
        return torch.cat([x[:-1].roll(-1, 1), x[-1:]])

    ask = watched(all_but_the_last)
    with pytest.raises(ContractError, match="hangs on"):
        [ask(torch.randint(0, 7, (8, 64))) for _ in range(10)]


def trained(spec: str, name: str, **options):
    cell = Cell("long-context", spec, name, "", "extrapolation", "float32", "cpu", 0, {})
    own = Implementation.of(cell)
    case = own.spec.case("plain").resized({"t": 16, **options})
    return terms.fresh(cell, case, 0).eval(), own.spec, case


def test_a_model_is_held_against_its_reference_with_its_weights():
    model, spec, case = trained("transformer_rope", "torch_sdpa")
    ids = torch.randint(0, case.v, (2, 40))
    Watched(model, "cpu", Reference(spec, case, model.state_dict()))(ids)
    others = {name: tensor + 0.01 for name, tensor in model.state_dict().items()}
    with pytest.raises(ContractError, match="does not compute what its spec says of 40 tokens"):
        Watched(model, "cpu", Reference(spec, case, others))(ids)


@pytest.mark.parametrize("scheme", ["llm_int8", "llm_int8_codes"])
def test_rows_that_hang_on_one_another_by_definition_are_held_against_the_reference_of_all(scheme: str):
    """LLM.int8() finds outliers over all rows of a call: those of one row change how another is rounded."""
    torch.manual_seed(0)
    model, spec, case = trained("transformer_quantized", "torch_plain", scheme=scheme, threshold=2.0)
    weights = trained("transformer_rope", "torch_sdpa")[0].state_dict()
    model.load_state_dict(weights)
    ids = torch.randint(0, case.v, (16, 40))
    Watched(model, "cpu", Reference(spec, case, weights))(ids)
    others = {name: tensor + 0.01 for name, tensor in weights.items()}
    with pytest.raises(ContractError, match="does not compute what its spec says of 40 tokens"):
        Watched(model, "cpu", Reference(spec, case, others))(ids)


def test_who_goes_on_where_its_spec_ends_is_told_to_raise_unsupported():
    """Learned positions that are clamped: the reference has no row to add."""
    model, spec, case = trained("transformer_learned", "torch_sdpa")
    ids, weights = torch.randint(0, case.v, (1, case.t + 1)), model.state_dict()
    model.positions.forward = lambda start, stop: weights["positions.weight"][torch.arange(start, stop).clamp(max=case.t - 1)]
    with pytest.raises(ContractError, match=f"ends at t = {case.t}\n.* raises harness.Unsupported"):
        Watched(model, "cpu", Reference(spec, case, weights))(ids)


def test_what_no_spec_defines_has_no_reference():
    model, spec, case = trained("language_model", "running_mean")
    Watched(model, "cpu", Reference(spec, case, {}))(torch.randint(0, case.v, (2, 40)))


def test_steps_are_held_against_the_whole():
    model, _, case = trained("retnet", "torch_parallel")
    ids = torch.randint(0, case.v, (2, 40))
    check_steps(model, ids)
    step = model.step
    model.step = lambda token, state: step(token if state is None else token.flip(0) * 0, state)
    with pytest.raises(ContractError, match="it does not say what it says of the whole, from token 1 on"):
        check_steps(model, ids)


def test_what_goes_past_the_state_is_of_the_other_text():
    model, _, case = trained("retnet", "torch_parallel")
    step, kept = model.step, {}

    def hoarding(token, state):
        logits, kept["state"] = step(token, kept.get("state") if state else None)
        return logits, 1

    model.step = hoarding
    with pytest.raises(ContractError, match="with two texts read in turn"):
        check_steps(model, torch.randint(0, case.v, (2, 40)))
