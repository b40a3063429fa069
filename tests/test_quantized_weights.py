"""Quantized weights take the bytes that their scheme says and no others; codes come through copies and state dicts to the bit."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import catalogue, cost, memory
from harness.cell import Cell
from harness.implementation import Implementation

SPEC = catalogue.load_spec("transformer_quantized")
KEEPING = ("nf4", "nf4_double", "absmax_int4", "llm_int8_codes")


def model_of(scheme: str, seed: int = 0, **sizes: int) -> Any:
    torch.manual_seed(seed)
    made = Implementation.of(Cell("", SPEC.name, "torch_plain", dtype="float32"))
    return made.prepare(SPEC.case("plain", torch.float32).resized({"scheme": scheme, **sizes})).eval()


def floats(seed: int, **sizes: int) -> dict[str, Tensor]:
    """The weights of a transformer that is not quantized."""
    torch.manual_seed(seed)
    module = catalogue.load(catalogue.implementations()["transformer_rope/torch_sdpa"].path)
    return dict(module.prepare(SPEC.case("plain", torch.float32).resized(sizes)).state_dict())


def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(11)[None] % 29
    with torch.no_grad():
        return model(ids)


def expected(scheme: str, e: int, d: int) -> int:
    numbers, blocks = e * d, math.ceil(e * d / 64)
    return {
        "nf4": math.ceil(numbers / 2) + 4 * blocks,
        "nf4_double": math.ceil(numbers / 2) + blocks + 4 * math.ceil(blocks / 256) + 4,
        "absmax_int4": math.ceil(numbers / 2) + 4 * e,
        "llm_int8_codes": numbers + 4 * e,
        "llm_int8": 4 * numbers,
    }[scheme]


@pytest.mark.parametrize("scheme", [*KEEPING, "llm_int8"])
@pytest.mark.parametrize("f", [48, 13, 700])  # whole blocks; a last block of 32; over 256 blocks
def test_a_matrix_takes_the_bytes_that_its_scheme_says(scheme: str, f: int):
    model = model_of(scheme, f=f, d=32)
    layers = {"q": model.blocks[0].mixer.q, "up": model.blocks[0].up, "down": model.blocks[0].down}
    for name, layer in layers.items():
        e, d = layer.weight.shape
        bias = 4 * e if name != "q" else 0
        assert memory.kept_alive(memory.of_module(layer)) == expected(scheme, e, d) + bias, name
    assert (e, d) == (32, f)
    bits = 8 * sum(4 * expected(scheme, 32, 32) + expected(scheme, f, 32) + expected(scheme, 32, f) for _ in model.blocks)
    assert cost.bits_per_weight(model) == bits / (len(model.blocks) * (4 * 32 * 32 + 2 * 32 * f))


@pytest.mark.parametrize("scheme", KEEPING)
def test_an_odd_number_of_codes_of_4_bits_fills_its_last_byte_alone(scheme: str):
    layer = type(model_of(scheme).blocks[0].up)(3, 5)
    layer.start()
    assert memory.kept_alive([layer.weight, *layer.buffers()]) == expected(scheme, 5, 3)


@pytest.mark.parametrize("scheme", KEEPING)
def test_it_has_the_names_shapes_and_number_of_the_parameters(scheme: str):
    given = floats(0)
    model = model_of(scheme)
    assert {name: p.shape for name, p in model.named_parameters()} == {name: t.shape for name, t in given.items()}
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in given.values())


@pytest.mark.parametrize("scheme", KEEPING)
def test_loaded_twice_it_answers_with_the_weights_that_came_last(scheme: str):
    model, first, second = model_of(scheme), floats(1), floats(2)
    answers = []
    for given in (first, second, first):
        assert not any(model.load_state_dict(given))
        answers.append(logits(model))
    assert not torch.allclose(answers[0], answers[1], atol=1e-2)
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("scheme", KEEPING)
def test_codes_come_through_a_state_dict_to_the_bit(scheme: str):
    model, other = model_of(scheme, seed=1), model_of(scheme, seed=2)
    kept = model.state_dict()
    assert not any(name.endswith(("up.weight", "mixer.q.weight")) for name in kept)
    assert not torch.equal(logits(model), logits(other))
    other.load_state_dict(kept)
    assert torch.equal(logits(model), logits(other))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


@pytest.mark.parametrize("scheme", KEEPING)
def test_copies_keep_the_codes_and_make_no_matrix(scheme: str):
    model = model_of(scheme)
    size, answer = memory.kept_alive(memory.of_module(model)), logits(model)
    for again in (copy.deepcopy(model), model.to("cpu"), model.to(torch.float64).to(torch.float32)):
        assert memory.kept_alive(memory.of_module(again)) == size
        assert torch.equal(logits(again), answer)
    twin = copy.deepcopy(model)
    twin.load_state_dict(floats(5))
    assert torch.equal(logits(model), answer), "a copy writes into the model it was made of"


@pytest.mark.parametrize("scheme", KEEPING)
def test_what_is_absent_unknown_or_of_another_shape_is_said(scheme: str):
    given = floats(0)
    name = "blocks.0.up.weight"
    without = {key: tensor for key, tensor in given.items() if key != name}
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.0\.up\.codes"):
        model_of(scheme).load_state_dict(without)
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.0\.up\.weight: \[32, 48\] is given"):
        model_of(scheme).load_state_dict(given | {name: given[name].mT})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks\.0\.up\.other"):
        model_of(scheme).load_state_dict(given | {"blocks.0.up.other": given[name]})


def test_what_lies_beside_a_matrix_is_counted_with_it():
    model = model_of("nf4")
    bits = cost.bits_per_weight(model)
    assert bits == 4.5
    for block in model.blocks:
        block.up.as_it_was = torch.zeros(48, 32)  # as a plain attribute, which no state dict and no list of buffers shows
        block.down.register_buffer("as_it_was", torch.zeros(32, 48), persistent=False)
    matrices, given = 4 * 32 * 32 + 2 * 32 * 48, 2 * 32 * 48
    assert cost.bits_per_weight(model) == pytest.approx(4.5 + 32 * given / matrices)


def test_nothing_without_blocks_has_bits_per_weight():
    assert cost.bits_per_weight(nn.Sequential(nn.Linear(3, 4))) is None
