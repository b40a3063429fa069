"""Models of one's own, which no spec defines: honest ones pass, and each law of a language model has a module that breaks it."""

import pytest
import torch
from torch import nn

from harness import catalogue, judge
from harness.contract import ContractError
from harness.implementation import Implementation
from harness.nn.decoder import Decoder

SPEC = catalogue.load_spec("language_model")
RUNNING_MEAN = catalogue.load(catalogue.implementations()["language_model/running_mean"].path).RunningMean


class Mixer(nn.Module):
    def __init__(self, mix, d):
        super().__init__()
        self.v, self.mix = nn.Linear(d, d, bias=False), mix

    def forward(self, x):
        return self.v(self.mix(x))


def of(mix) -> Implementation:
    """A model whose mixer does `mix(x[b n d])` and then one matrix."""
    prepare = lambda case: Decoder(case.v, case.d, case.l, case.f, lambda layer: Mixer(mix, case.d))  # noqa: E731
    return Implementation(SPEC, prepare, {}, gradients=False)


def outcomes(contestant: Implementation, case: str = "plain") -> dict[str, str]:
    at = SPEC.case(case)
    return {law: judge.law(contestant, at, law).outcome for law in SPEC.laws if SPEC.laws[law].when(at)}


@pytest.mark.parametrize("case", SPEC.cases)
def test_an_honest_model_keeps_every_law(case: str):
    honest = of(lambda x: x.cumsum(1))
    assert set(outcomes(honest, case).values()) == {"ok"}
    assert judge.values(honest, SPEC.case(case), "normal").outcome == "ok"


@pytest.mark.parametrize(
    ("law", "mix"),
    [
        ("the_future_is_invisible", lambda x: x.mean(1, keepdim=True).expand_as(x)),
        ("the_future_is_invisible", lambda x: x.cumsum(1) + 1e-4 * x.roll(-1, 1)),
        ("a_batch_is_its_rows", lambda x: x.cumsum(1) + x.mean(0, keepdim=True)),
        ("a_text_that_goes_on_begins_alike", lambda x: x.cumsum(1) / x.shape[1]),
    ],
)
def test_a_law_finds_who_breaks_it(law: str, mix):
    assert outcomes(of(mix))[law] == "wrong"


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """A part that computes in float32 and sums in another order for each batch, as products of matrices do."""
    width = 1 + len(x) % 3
    parts = [part.float() for part in (3 * x).split(width, -1)]
    return x.cumsum(1) + torch.stack([part.sum(-1) for part in parts], -1).sum(-1, keepdim=True).double()


def test_a_part_in_float32_breaks_no_law():
    answer = judge.law(of(in_float32), SPEC.case("plain"), "a_batch_is_its_rows")
    assert answer.outcome == "ok"
    assert answer.values["score"] > 2**-8, "it does leave something"


def test_a_leak_of_little_is_found():
    answer = judge.law(of(lambda x: x.cumsum(1) + 1e-5 * x.roll(-1, 1)), SPEC.case("plain"), "the_future_is_invisible")
    assert answer.outcome == "wrong"
    assert "allowed 1 (what parts in float32 leave of a row in float64)" in answer.note


@pytest.mark.parametrize(("case", "place"), [("plain", 9), ("plain", 35), ("long", 63), ("beyond_its_training", 40)])
def test_one_token_of_the_future_at_one_place_is_found(case: str, place: int):
    def peeks(x):
        here = (torch.arange(x.shape[1]) == place)[:, None]
        return torch.where(here, x.roll(-1, 1), x)

    answer = judge.law(of(peeks), SPEC.case(case), "the_future_is_invisible")
    assert answer.outcome == "wrong"
    assert f" at {place}, " in answer.note


@pytest.mark.parametrize("row", range(3))
def test_each_row_is_asked_alone(row: int):
    def mixed(x):
        y = x.cumsum(1)
        return torch.cat([y[:row], y[row : row + 1] + (y[:1] - y[-1:]), y[row + 1 :]])

    assert outcomes(of(mixed))["a_batch_is_its_rows"] == "wrong"


def test_pieces_that_are_whole_are_read_like_others():
    def loses_the_last_piece(x):
        return x.cumsum(1) * (1 - (x.shape[1] % 16 == 0) * (torch.arange(x.shape[1]) >= x.shape[1] - 16)[:, None].to(x.dtype))

    assert outcomes(of(loses_the_last_piece))["a_text_that_goes_on_begins_alike"] == "wrong"


def test_what_goes_wrong_once_a_cache_of_t_tokens_is_full_is_found():
    class Rolling(RUNNING_MEAN):
        def forward(self, x):
            return self.o(self.gate(x).sigmoid() * self.v(x).cumsum(1))

        def step(self, x, state):
            cache = torch.cat([*([] if state is None else [state]), self.v(x)[:, None]], 1)[:, -24:]
            return self.o(self.gate(x).sigmoid() * cache.sum(1)), cache

    contestant = Implementation(SPEC, lambda c: Decoder(c.v, c.d, c.l, c.f, lambda _: Rolling(c.d)), {}, gradients=False)
    assert SPEC.case("beyond_its_training").t == 24
    assert judge.values(contestant, SPEC.case("one_head").resized({"n": 24}), "normal", form="step").outcome == "ok"
    assert judge.values(contestant, SPEC.case("beyond_its_training"), "normal", form="step").outcome == "wrong"


def test_who_fails_beyond_its_training_length_is_told_what_to_raise():
    class Table(nn.Module):
        def __init__(self, v, t):
            super().__init__()
            self.said, self.place = nn.Embedding(v, v), nn.Embedding(t, v)

        def forward(self, ids):
            return self.said(ids) + self.place(torch.arange(ids.shape[1]))

    contestant = Implementation(SPEC, lambda case: Table(case.v, case.t), {}, gradients=False)
    assert judge.values(contestant, SPEC.case("plain"), "normal").outcome == "ok"
    with pytest.raises(IndexError) as raised:
        judge.values(contestant, SPEC.case("beyond_its_training"), "normal")
    assert raised.value.__notes__ == ["with more than t = 24 tokens: a model that cannot read so many raises harness.Unsupported"]


def test_its_first_values_are_the_same_at_every_length_batch_and_dtype():
    found = of(lambda x: x.cumsum(1))
    at = SPEC.case("plain")
    first = found.model({}, at).embedding.weight.clone()
    assert torch.equal(found.model({}, at.resized({"n": 5, "b": 1})).embedding.weight, first)
    assert torch.equal(found.model({}, at.resized({}, dtype=torch.float64)).embedding.weight, first.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_table_of_complex_numbers_keeps_its_imaginary_part(dtype: torch.dtype):
    turns = torch.polar(torch.ones(100), torch.arange(100.0))
    mixer = Mixer(lambda x: x, 8)
    mixer.register_buffer("turns", turns.clone(), persistent=False)
    found = Implementation(SPEC, lambda c: Decoder(c.v, 8, 1, 8, lambda layer: mixer), {}, gradients=False)
    assert torch.equal(found.model({}, SPEC.case("plain", dtype)).blocks[0].mixer.turns, turns)


def test_low_precision_inside_is_not_float32():
    coarse = of(lambda x: x.cumsum(1) if x.dtype == torch.float64 else x.cumsum(1).bfloat16().float())
    answer = judge.values(coarse, SPEC.case("plain"), "normal")
    assert answer.outcome == "wrong"
    assert "allowed 1 (half the digits of float32)" in answer.note


def test_a_step_that_says_something_else_is_wrong():
    class Late(RUNNING_MEAN):
        def step(self, x, state):
            y, after = super().step(x, state)
            return y, (after[0], after[1] + 1)

    def contestant(mixer):
        return Implementation(SPEC, lambda c: Decoder(c.v, c.d, c.l, c.f, lambda _: mixer(c.d)), {}, gradients=False)

    case = SPEC.case("plain")
    assert judge.values(contestant(RUNNING_MEAN), case, "normal", form="step").outcome == "ok"
    assert judge.values(contestant(Late), case, "normal", form="step").outcome == "wrong"


def test_zeros_at_the_start_hide_nothing():
    class Hidden(Mixer):
        def start(self):
            nn.init.zeros_(self.v.weight)

    def prepare(case):
        return Decoder(case.v, case.d, case.l, case.f, lambda layer: Hidden(lambda x: x.flip(1), case.d))

    assert outcomes(Implementation(SPEC, prepare, {}, gradients=False))["the_future_is_invisible"] == "wrong"


def test_a_gate_of_zero_hides_nothing():
    class Gated(Mixer):
        def start(self):
            self.gate = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.gate * x.flip(1)

    def prepare(case):
        return Decoder(case.v, case.d, case.l, case.f, lambda layer: Gated(lambda x: x, case.d))

    assert outcomes(Implementation(SPEC, prepare, {}, gradients=False))["the_future_is_invisible"] == "wrong"


def test_dropout_is_off_where_a_model_is_judged():
    def prepare(case):
        return nn.Sequential(nn.Embedding(case.v, case.d), nn.Dropout(0.5), nn.Linear(case.d, case.v))

    assert judge.values(Implementation(SPEC, prepare, {}, gradients=True), SPEC.case("plain"), "normal").outcome == "ok"


def test_a_state_outside_the_state_is_of_the_other_text():
    class Hoarding(RUNNING_MEAN):
        def step(self, x, state):
            if state is None:
                self.hoard = None
            y, self.hoard = super().step(x, self.hoard)
            return y, 0

    contestant = Implementation(SPEC, lambda c: Decoder(c.v, c.d, c.l, c.f, lambda _: Hoarding(c.d)), {}, gradients=False)
    answer = judge.values(contestant, SPEC.case("plain"), "normal", form="step")
    assert answer.outcome == "wrong"
    assert "all that one step hands on must be in its state" in answer.note


def test_what_is_no_module_is_refused():
    with pytest.raises(
        ContractError, match=r"language_model is a model, so prepare\(case\) must return an nn.Module; got function"
    ):
        judge.values(Implementation(SPEC, lambda case: lambda ids: ids, {}, gradients=False), SPEC.case("plain"), "normal")


def test_parameters_that_come_with_the_first_batch_are_refused():
    with pytest.raises(ContractError, match="its parameters must be there when prepare returns"):
        Implementation(SPEC, lambda case: nn.LazyLinear(7), {}, gradients=False).model({}, SPEC.case("plain"))


def answers_in(dtype: torch.dtype) -> Implementation:
    class Answers(nn.Module):
        def forward(self, ids):
            return ids.to(dtype)[..., None].expand(*ids.shape, SPEC.sizes["v"])

    return Implementation(SPEC, lambda case: Answers(), {}, gradients=False)


def test_logits_may_be_told_in_float32():
    assert judge.law(answers_in(torch.float32), SPEC.case("plain"), "a_batch_is_its_rows").outcome == "ok"


def test_logits_in_less_are_told_that_laws_are_judged_in_float64():
    with pytest.raises(ContractError, match=r"is bfloat16, but should be float64\n  laws are judged in float64"):
        judge.law(answers_in(torch.bfloat16), SPEC.case("plain"), "a_batch_is_its_rows")
