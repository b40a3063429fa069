"""Contracts are read, bound to sizes, and refused with a sentence where they make no sense."""

import pytest

from harness.contract import ContractError, parse, parse_tensors, per_layer


def test_a_contract_names_tensors_axes_and_kinds():
    contract = parse("ids[b n]:int<v, q[b n 2], decay[h]:float32, bias[h n]? -> out[b n v]")
    ids, q, decay, bias = contract.inputs
    assert (ids.kind, ids.below, decay.kind, bias.optional, q.axes) == ("int", "v", "float32", True, ("b", "n", "2"))
    assert contract.axes == {"b", "n", "v", "h"}
    assert [str(tensor) for tensor in contract.inputs] == ["ids[b n]:int<v", "q[b n 2]", "decay[h]:float32", "bias[h n]?"]


def test_sizes_are_bound_and_disagreement_is_named():
    contract = parse("q[b n d], k[b m d] -> out[b n]")
    assert contract.sizes({"q": (2, 3, 4), "k": (2, 5, 4)}) == {"b": 2, "n": 3, "m": 5, "d": 4}
    with pytest.raises(ContractError, match=r"axis d is 6 in k\[b m d\], but 4 in q\[b n d\]"):
        contract.sizes({"q": (2, 3, 4), "k": (2, 5, 6)})
    with pytest.raises(ContractError, match=r"q\[b n d\] has 3 axes, but a tensor of shape \[2, 3\] was given"):
        contract.sizes({"q": (2, 3)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q[b n]", "needs '->'"),
        ("q[b n] -> ", "no output"),
        ("q[b] -> q[b]", "q stands twice"),
        ("q(b) -> out[b]", r"cannot read 'q\(b\)'; a tensor is written name\[axis axis\]"),
    ],
)
def test_what_is_no_contract_is_refused(text: str, message: str):
    with pytest.raises(ContractError, match=message):
        parse(text)


def test_parameters_are_written_out_for_each_layer():
    named = per_layer(parse_tensors("embedding.weight[v d]\nblocks.*.up.bias[f]"), layers=2)
    assert [tensor.name for tensor in named] == ["embedding.weight", "blocks.0.up.bias", "blocks.1.up.bias"]
