"""Streams: the same bytes in every stretch, bytes that are really carried, and a state that grows told from one that does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness import Unsupported, catalogue
from harness.cell import OK, Cell, Record
from harness.nn.decoder import Decoder

suite = catalogue.load(catalogue.find("suite", "long-context").path)
streaming = suite.streaming
LENGTH, N = 4, 512  # training length and bytes of a stream here
TEXT = bytes(torch.randint(32, 120, (1200,), generator=torch.Generator().manual_seed(0)).tolist())


class Knows(nn.Module):
    """A model right with probability 1/2 of the byte that it saw last; what it carries is made by `carry(ids, state)`."""

    def __init__(self, carry: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))
        self.carry = carry

    def step(self, ids: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        return torch.zeros(len(ids), 256), self.carry(self, ids, state)


def constant(model: Knows, ids: torch.Tensor, state: Any) -> Any:
    return (0, [torch.zeros(len(ids), 10)])


def growing(model: Knows, ids: torch.Tensor, state: Any) -> Any:
    return ids[:, None].float() if state is None else torch.cat([state, ids[:, None].float()], 1)


def until_full(model: Knows, ids: torch.Tensor, state: Any) -> Any:
    return growing(model, ids, state)[:, -20:].clone()


def view_of_all(model: Knows, ids: torch.Tensor, state: Any) -> Any:
    """The last token only, but as a view of all of them."""
    model.all = growing(model, ids, getattr(model, "all", None))
    return model.all[:, -1:]


def sawtooth(model: Knows, ids: torch.Tensor, state: Any) -> Any:
    """A segment's tokens, forgotten when it is full."""
    grown = growing(model, ids, state)
    return None if grown.shape[1] == 6 else grown


def of_the_model(model: Knows, ids: torch.Tensor, state: Any) -> Any:
    return model.weight.expand(len(ids), -1)


def streams() -> torch.Tensor:
    return streaming.rotations(TEXT, N, streaming.STREAMS)


def test_streams_are_rotations_of_one_ring():
    ids = streams()
    assert ids.shape == (4, N + 1)
    assert torch.equal(ids[:, 0], ids[:, -1])
    for i in range(1, 4):
        assert torch.equal(ids[i, :-1], ids[0, :-1].roll(-i * N // 4))
    assert not torch.equal(ids[0, : N // 4], ids[1, : N // 4])


def test_a_text_that_is_too_short_is_unsupported():
    with pytest.raises(Unsupported, match=r"takes 5,000 bytes of held-out text, and there are 1,200: say text=PATH"):
        streaming.rotations(TEXT, 5000, 4)


@pytest.mark.parametrize(("carry", "bytes_"), [(constant, 40), (until_full, 80), (sawtooth, 20), (of_the_model, 0)])
def test_a_bounded_state_is_read_to_the_end_and_its_bytes_are_known(carry: Any, bytes_: int):
    found = streaming.read(Knows(carry), streams(), LENGTH)
    assert (found["stopped"], found["grows_by"]) == ("", 0)
    assert len(found["bits"]) == len(found["step_s"]) == len(found["state_bytes"]) == N // (2 * LENGTH)
    assert max(found["state_bytes"][16:]) == bytes_
    assert all(row == pytest.approx([8.0] * 4) for row in found["bits"])
    assert all(took > 0 for took in found["step_s"])


@pytest.mark.parametrize("carry", [growing, view_of_all])
def test_a_growing_state_is_stopped_and_its_growth_is_known(carry: Any):
    found = streaming.read(Knows(carry), streams(), LENGTH)
    assert found["grows_by"] == 4
    assert found["stopped"] == "its state grows by 4 bytes a byte of text, 512 bytes at 128"
    assert len(found["bits"]) == 16
    assert found["state_bytes"] == [8 * 4 * (i + 1) for i in range(16)]


def test_a_state_that_begins_to_grow_late_is_found():
    def late(model: Knows, ids: torch.Tensor, state: Any) -> Any:
        count = 0 if state is None else state[0]
        return count + 1, torch.zeros(len(ids), max(1, count - 300))

    found = streaming.read(Knows(late), streams(), LENGTH)
    assert found["grows_by"] > 0
    assert "bytes at 512" in found["stopped"]


def test_a_model_that_ends_says_where():
    def ends(model: Knows, ids: torch.Tensor, state: Any) -> Any:
        state = (state or 0) + 1
        if state > 10:
            raise Unsupported("positions end at 10")
        return state

    found = streaming.read(Knows(ends), streams(), LENGTH)
    assert (found["stopped"], len(found["bits"])) == ("positions end at 10", 1)


def test_a_model_without_a_step_form_is_unsupported():
    for model, part in ((nn.Linear(2, 2), "module"), (Decoder(256, 8, 1, 8, lambda layer: nn.Identity()), "mixer")):
        with pytest.raises(Unsupported, match=f"has no step form: its {part} has no method step"):
            streaming.read(model, streams(), LENGTH)


def test_each_stretch_is_scored_on_the_same_bytes():
    """Bits that tell the byte itself: every stretch has the same list of them."""

    class Tells(Knows):
        """Probability of each byte by its value alone."""

        def step(self, ids: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            return (torch.arange(256.0) / 50).expand(len(ids), -1), None

    values = streaming.read(Tells(constant), streams(), LENGTH)
    stretches = [streaming.samples(values, stretch, LENGTH, N) for stretch in range(4)]
    for stretch in stretches[1:]:
        assert stretch == pytest.approx(stretches[0], abs=1e-3)
    assert len(stretches[0]) == 4 * 15
    assert len(set(stretches[0])) > 50
    assert streaming.change(values, LENGTH, N) == pytest.approx([0.0] * 60)


class Counts(nn.Module):
    """Foretells the byte after the one it is given, but knows nothing in its first block."""

    def step(self, ids: torch.Tensor, state: int | None = None) -> tuple[torch.Tensor, int]:
        at = state or 0
        right = 50.0 * (at >= 2 * LENGTH) * nn.functional.one_hot((ids + 1) % 256, 256)
        return right, at + 1


def test_the_next_byte_is_scored_and_the_first_block_of_a_stretch_is_not():
    values = streaming.read(Counts(), streaming.rotations(bytes(range(256)) * 8, N, streaming.STREAMS), LENGTH)
    assert values["bits"][0] == pytest.approx([8.0] * 4)
    assert values["bits"][1] == pytest.approx([0.0] * 4)
    assert streaming.samples(values, 0, LENGTH, N) == pytest.approx(streaming.samples(values, 1, LENGTH, N))


def record(subject: str, values: dict[str, Any], seed: int = 0) -> Record:
    spec, _, name = subject.partition("/")
    name, _, variant = name.partition(":")
    cell = Cell("long-context", spec, name, variant, "streaming", seed=seed, settings={"scale": "smoke", "text": ""})
    return Record(cell, OK, {"text": "a text", **values}, "", {}, "machine", {}, 1.0, "2026-01-01", "run")


def made(rise: float = 0.0, noise: float = 0.0, bytes_: Any = None, blocks: int = 32) -> dict[str, Any]:
    """Values of a smoke stream: bits that rise by so much to the last stretch, and what is carried by block."""
    late = [(i >= 24) * (rise + noise * (-1) ** i) for i in range(blocks)]
    bits = [[2.0 + (stream + i // 8) % 4 + late[i] for stream in range(4)] for i in range(blocks)]
    state = bytes_ or [100] * blocks
    by = streaming.growth(state, 64)
    return {
        "bits": bits,
        "step_s": [1e-4] * blocks,
        "state_bytes": state,
        "grows_by": by,
        "stopped": "its state grows" if by else "",
    }


def verdicts(*records: Record) -> dict[str, str]:
    return {row["claim"]: row["here"] for row in streaming.readings(records, 32, 2048)}


def test_claims_of_stability():
    claim, subject = "RetNet stays stable over the stream", "retnet/torch_parallel"
    assert verdicts(record(subject, made(0.0)))[claim] == "shows"
    assert verdicts(record(subject, made(0.3)))[claim] == "refuted"
    assert verdicts(record(subject, made(0.05, noise=1.0)))[claim] == "not resolved"
    told = streaming.readings([record(subject, made(0.0)), record(subject, made(0.0), seed=1)], 32, 2048)
    assert [row["seeds"] for row in told] == [2, 2]


def test_claims_of_bytes():
    constant_bytes, linear = "RetNet carries constant bytes", "the cache of attention grows linearly"
    line, square = [64 * (i + 1) for i in range(16)], [(i + 1) ** 2 for i in range(16)]
    assert verdicts(record("retnet/torch_parallel", made()))[constant_bytes] == "shows"
    assert verdicts(record("retnet/torch_parallel", made(bytes_=line, blocks=16)))[constant_bytes] == "refuted"
    assert verdicts(record("transformer_rope/torch_sdpa", made(bytes_=line, blocks=16)))[linear] == "shows"
    assert verdicts(record("transformer_rope/torch_sdpa", made(bytes_=square, blocks=16)))[linear] == "refuted"
    assert verdicts(record("transformer_rope/torch_sdpa", made()))[linear] == "refuted"


def test_every_claim_names_models_that_there_are():
    known = catalogue.implementations()
    for subject in (*streaming.STABLE, *streaming.CONSTANT, *streaming.LINEAR):
        name, _, variant = subject.partition(":")
        assert name in known
        assert not variant or variant in known[name].facts["variants"]


def test_tables_and_pictures_of_models_that_stream_and_of_those_that_do_not():
    line = [64 * (i + 1) for i in range(16)]
    records = [
        record("retnet/torch_parallel", made(0.1)),
        record("retnet/torch_parallel", made(0.1), seed=1),
        record("transformer_rope/torch_sdpa", made(bytes_=line, blocks=16)),
    ]
    failed = replace(record("transformer_nope/torch_sdpa", {}), outcome="crashed", note="it fell\nover")
    quality, costs, claims = suite.table([*records, failed]).values()
    assert list(quality["model"]) == ["retnet/torch_parallel", "transformer_nope/torch_sdpa", "transformer_rope/torch_sdpa"]
    assert quality["change"][0] == pytest.approx(0.1)
    assert quality["change"].isna().tolist() == [False, True, True]
    assert quality["to 1024"].isna().tolist() == [False, True, False]
    assert quality["note"].tolist() == ["", "crashed: it fell", "unsupported: its state grows"]
    assert costs["bytes at 1024"].tolist()[::2] == [100, 1024]
    assert costs["bytes a byte"].tolist()[::2] == [0, 1]
    assert costs["to 1024, µs"].tolist()[::2] == [100, 100]
    assert costs["from 1536, µs"].isna().tolist() == [False, True, True]
    assert len(claims) == 3
    assert set(suite.pictures([*records, failed])) == {"streaming smoke", "bytes carried smoke"}
