"""The reference of a small pre-norm decoder around a mixing function: what the language model specs have in common.

Pre-norm (Xiong et al. 2020, arXiv:2002.04745), one more norm before the head, head not tied to the embedding.
LayerNorm has eps 1e-5 inside the root of the biased variance; GELU is exact (erf), not its tanh approximation.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from harness.spec import Bunch, Case, Spec

CONTRACT = "ids[b n]:int<v -> logits[b n v]"
SIZES = {"b": 3, "h": 4, "n": 37, "d": 32, "f": 48, "v": 29, "l": 2}
CASES = {
    "plain": {},
    "one_token": {"n": 1},
    "long": {"n": 150, "b": 1, "l": 1},
    "one_head": {"h": 1, "d": 12},
    "three_layers": {"l": 3, "n": 19, "b": 1},
    "six_layers": {"l": 6, "n": 19, "b": 1, "h": 2, "d": 8, "f": 8},  # every fourth layer, or every sixth, is of another kind
    "wide_heads": {"h": 2, "d": 96, "n": 11, "l": 1},
}
PARAMETERS = """
    embedding.weight[v d]
    blocks.*.norm1.weight[d], blocks.*.norm1.bias[d]
    blocks.*.mixer.q.weight[d d], blocks.*.mixer.k.weight[d d], blocks.*.mixer.v.weight[d d], blocks.*.mixer.o.weight[d d]
    blocks.*.norm2.weight[d], blocks.*.norm2.bias[d]
    blocks.*.up.weight[f d], blocks.*.up.bias[f], blocks.*.down.weight[d f], blocks.*.down.bias[d]
    norm.weight[d], norm.bias[d]
    head.weight[v d]
"""

# What is added up to the stream that enters the first block.
FAINT = ("embedding.weight", "positions.weight", "positions.down.weight", "positions.down.bias")

Mix = Callable[[Tensor, Callable[..., Tensor]], Tensor]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x * 0.5**0.5)) / 2


def decoder(ids: Tensor, parameters: Mapping[str, Tensor], mix: Mix, positions: Tensor | None = None, activation=gelu) -> Tensor:
    """ids[b n] -> logits[b n v]. `mix(x[b n d], project) -> y[b n d]`, where `project(x, "q")` is x times the mixer's q."""
    x = parameters["embedding.weight"][ids]
    if positions is not None:
        x = x + positions
    for i in range(layers(parameters)):
        block = f"blocks.{i}."
        x = x + mix(norm(x, parameters, block + "norm1."), partial(linear, parameters=parameters, name=block + "mixer."))
        hidden = activation(linear(norm(x, parameters, block + "norm2."), block + "up", parameters))
        x = x + linear(hidden, block + "down", parameters)
    return linear(norm(x, parameters, "norm."), "head", parameters)


def layers(parameters: Mapping[str, Tensor]) -> int:
    """How many blocks these parameters are for."""
    return sum(name.endswith(".norm1.weight") for name in parameters)


def linear(x: Tensor, which: str, parameters: Mapping[str, Tensor], name: str = "") -> Tensor:
    """x times a matrix of the parameters, plus its bias where it has one."""
    y = x @ parameters[f"{name}{which}.weight"].mT
    bias = parameters.get(f"{name}{which}.bias")
    return y if bias is None else y + bias


def norm(x: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Layer norm over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * parameters[name + "weight"] + parameters[name + "bias"]


def split(x: Tensor, h: int) -> Tensor:
    """x[b n d] -> [b h n d/h]: head i has the i-th run of d/h columns."""
    return x.unflatten(-1, (h, -1)).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """x[b h n e] -> [b n h*e]."""
    return x.transpose(1, 2).flatten(-2)


_LESS = "it moves what the activation or the norm gives by half a per cent at most: bfloat16 rounds as much away"
EQUIVALENT = {
    "join: x.transpose(1, 2).flatten(-2) -> x.transpose(1, 2).flatten(2)": "x has four axes: the last but one is axis 2",
    "gelu: 0.5 ** 0.5 -> 0.505 ** 0.5, bfloat16": _LESS,
    "gelu: 0.5 ** 0.5 -> 0.5 ** 0.505, bfloat16": _LESS,
    "norm: centred.square().mean(-1, keepdim=True) + 1e-05 -> centred.square().mean(-1, keepdim=True) + 1.0100000000000002e-05"
    ", bfloat16": _LESS,
}


def give_laws(spec: Spec) -> None:
    """Give a language model spec the laws and the input families that all have."""
    spec.law(when=lambda case: case.n > 1)(the_future_is_invisible)
    spec.law(a_batch_is_its_rows)
    spec.family(sharp)
    spec.family(large)


def give_work(spec: Spec, reach: Callable[[Case], int] = lambda case: case.n, jumps: bool = False) -> None:
    """Give the spec of a transformer what it takes: products with its matrices, and of queries with the keys within reach."""

    @spec.work(jumps=jumps)
    def _(case: Case) -> float:
        near = min(case.n, reach(case))
        pairs = near * (near + 1) / 2 + (case.n - near) * near
        return spec.products(case) + 4 * case.b * case.l * pairs * case.d


def the_future_is_invisible(run, x: Bunch, rng):
    now = rng.randrange(1, x.ids.shape[1])
    later = torch.arange(x.ids.shape[1], device=x.ids.device) >= now
    other = (x.ids * 7 + 3) % x["embedding.weight"].shape[0]
    return run(x).logits[:, :now], run(x, ids=torch.where(later, other, x.ids)).logits[:, :now]


def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.ids.shape[0])
    return run(x).logits[row : row + 1], run(x, ids=x.ids[row : row + 1]).logits


def sharp(x: Bunch, case: Case, rng: torch.Generator) -> dict[str, Tensor]:
    """Queries and keys three times as long: attention settles on few tokens; and tokens so faint that eps shows."""
    long = {name: 3 * tensor for name, tensor in x.items() if name.endswith(("mixer.q.weight", "mixer.k.weight"))}
    return long | {name: x[name] / 50 for name in FAINT if name in x}


def large(x: Bunch, case: Case, rng: torch.Generator) -> dict[str, Tensor]:
    """Scores beyond what an exponential can hold: only less their maximum are they finite."""
    return raised(x, 7 / case.d, "mixer.q.weight", "mixer.k.weight")


def raised(x: Bunch, by: float | Tensor, *weights: str) -> dict[str, Tensor]:
    """What mixers read raised by one, and their weights of these names by so much: what they make of it is large everywhere."""
    read = {name: x[name] + 1 for name in x if name.endswith("norm1.bias")}
    return read | {name: x[name] + by for name in x if name.endswith(weights)}
