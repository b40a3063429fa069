"""Growth of language models: a step whose cost is planted to grow is refuted, lengths end where the budget does."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness import Unsupported, catalogue
from harness.cell import OK, Cell, Record
from harness.growth import CLAIMED, GROWTHS, fit, verdict
from harness.nn.decoder import Decoder

suite = catalogue.load(catalogue.find("suite", "long-context").path)
growth = suite.growth
LENGTHS = [128, 256, 512, 1024, 2048]


class Planted(nn.Module):
    """A model whose step takes 2 milliseconds, and for each token before it `slower` seconds more."""

    def __init__(self, slower: float = 0.0, ends: int = 10**9):
        super().__init__()
        self.slower, self.ends = slower, ends

    def step(self, ids: torch.Tensor, state: Any = None) -> Any:
        n = 1 if state is None else state.shape[1] + 1
        if n > self.ends:
            raise Unsupported(f"positions end at {self.ends}")
        time.sleep(2e-3 + self.slower * n)
        return torch.zeros(len(ids), 256), torch.zeros(len(ids), n)


def ids(rows: int, n: int) -> torch.Tensor:
    return torch.zeros(rows, n, dtype=torch.int64)


def test_a_step_that_is_planted_to_grow_is_refuted_and_a_constant_one_confirmed():
    verdicts = []
    for slower in (0.0, 1e-3):
        seconds, bytes_, ended = growth.generation(Planted(slower), ids, [8, 16, 32], 60.0, 6, 2, "cpu")
        assert ended == ""
        assert bytes_ == {"8": [32], "16": [64], "32": [128]}
        verdicts.append(verdict(fit(seconds), "1"))
    assert verdicts[1] == "refuted: it grows faster"
    assert not verdicts[0].startswith("refuted"), "on a busy machine it may not tell, but never accuse"


def test_generation_ends_where_the_model_or_the_budget_does():
    seconds, bytes_, ended = growth.generation(Planted(ends=20), ids, [4, 8, 16, 32], 60.0, 1, 2, "cpu")
    assert (list(seconds), list(bytes_), ended) == (["4", "8", "16"], ["4", "8", "16"], "unsupported: positions end at 20")
    *_, ended = growth.generation(Planted(), ids, [4, 8, 16, 32, 64], 0.08, 1, 2, "cpu")
    assert ended.endswith("would take over 0.08 s")


def test_who_has_no_step_form_is_unsupported_and_says_which_part_lacks_it():
    without = Decoder(256, 8, 1, 8, lambda layer: nn.Identity())
    for model, part in ((nn.Linear(1, 1), "module"), (without, "mixer")):
        seconds, bytes_, ended = growth.generation(model, ids, [4], 1.0, 1, 2, "cpu")
        assert (seconds, bytes_) == ({}, {})
        assert ended.startswith(f"unsupported: has no step form: its {part} has no method step(")


def test_over_lengths_peaks_are_those_known_and_the_budget_ends_it():
    def make(n: int) -> Any:
        return lambda: torch.ones(n, 256).exp()  # two of n KiB

    seconds, bytes_, ended = growth.over_lengths(make, [16, 32, 64], 60.0, 6)
    assert ended == ""
    assert bytes_ == {str(n): [2 * n * 1024] for n in (16, 32, 64)}
    assert {len(of) for of in seconds.values()} == {6}
    assert verdict(fit(bytes_), "N") == "confirmed"

    def sleeps(n: int) -> Any:
        return lambda: time.sleep(n * 4e-3)

    seconds, _, ended = growth.over_lengths(sleeps, [4, 8, 16, 32, 64], 0.6, 3)
    assert list(seconds) == ["4", "8", "16"]
    assert ended == "32 would take over 0.6 s"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unsupported("positions end at 16"), "unsupported: positions end at 16"),
        (MemoryError(), "32 takes more memory than a cell may"),
    ],
)
def test_a_length_that_cannot_be_asked_ends_it_with_its_reason(error: Exception, said: str):
    def make(n: int) -> Any:
        def call() -> None:
            if n > 16:
                raise error

        return call

    seconds, bytes_, ended = growth.over_lengths(make, [16, 32], 60.0, 2)
    assert (list(seconds), list(bytes_), ended) == (["16"], ["16"], said)


def test_memory_that_only_the_counting_takes_is_told_as_such(monkeypatch: pytest.MonkeyPatch):
    def peak(call: Any, device: str) -> int:
        raise MemoryError

    monkeypatch.setattr(growth.memory, "peak", peak)
    ended = growth.over_lengths(lambda n: lambda: None, [16], 60.0, 2)[2]
    assert ended == "to count the allocations of 16 takes more memory than a cell may"


def test_a_training_step_leaves_fresh_gradients_each_time():
    model = nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 256))
    text = torch.randint(0, 256, (1, 9))
    growth.training(model, text)()
    first = model[1].weight.grad.clone()
    growth.training(model, text)()
    assert torch.equal(model[1].weight.grad, first)
    assert growth.prefill(model, text)().shape == (1, 8, 256)


def test_every_claim_is_of_a_spec_that_there_is_and_of_a_known_growth():
    specs = {name.partition("/")[0] for name in catalogue.implementations()}
    for spec, claimed in CLAIMED.items():
        assert spec in specs
        assert {key: claimed[key] for key in growth.QUANTITIES if key in claimed}.items() <= claimed.items()
        assert all(claimed[key] in GROWTHS for key in growth.QUANTITIES if key in claimed)
        assert set(claimed) <= {*growth.QUANTITIES, "source", "note"}


def record(spec: str, power: float, seed: int = 0, unsupported: str = "") -> Record:
    cell = Cell("long-context", spec, "x", case="growth", seed=seed, settings={"scale": "smoke", "text": ""})
    timed = {str(32 * 2**i): [1e-5 * (2**i) ** power * (1 + j / 100) for j in range(6)] for i in range(5)}
    counted = {n: [int(of[0] * 1e8)] for n, of in timed.items()}
    values = {key: timed if key.endswith("_s") else counted for key in growth.QUANTITIES}
    return Record(cell, OK, {**values, "ended": dict.fromkeys(values, unsupported)}, "", {}, "m", {}, 1.0, "2026-01-01", "run")


def test_far_contexts_are_asked_of_what_does_not_grow_with_their_square():
    assert all(map(growth.allows_far, ("retnet", "lstm_lm", "transformer_window", "hyena_lm", "megabyte")))
    assert not any(map(growth.allows_far, ("transformer_rope", "transformer_t5", "language_model")))


def test_tables_and_pictures():
    failed = replace(record("rmt", 1.0), outcome="out_of_memory", note="too much")
    records = [record("retnet", 1.0), record("retnet", 1.0, seed=1), record("transformer_rope", 2.0), failed, record("mine", 1.0)]
    frames = suite.table(records)
    assert len(frames) == len(growth.QUANTITIES)
    for title, told in zip(frames, growth.QUANTITIES.values(), strict=True):
        assert title == f"{told}, scale smoke"
    prefill = next(iter(frames.values())).set_index("model")
    assert prefill.exponent.dropna().to_dict() == {"mine/x": 1.0, "retnet/x": 1.0, "transformer_rope/x": 2.0}
    assert prefill.verdict["retnet/x"] == prefill.verdict["transformer_rope/x"] == "confirmed"
    assert prefill.verdict.isna()["mine/x"]
    assert prefill.note["rmt/x"] == "out of memory: too much"
    steps = list(frames.values())[2].set_index("model")
    assert steps.verdict["retnet/x"] == "refuted: it grows faster"
    assert len(suite.pictures(records)) == len(growth.QUANTITIES)
