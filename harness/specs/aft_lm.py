"""An attention free transformer as a language model: AFT-conv, causal (Zhai et al. 2021, arXiv:2105.14103, section 3).

Where papers and libraries disagree, this side is taken:
- The bias of a key depends on its distance alone, from 0 (the token itself) to t - 1, for a model that is trained at length t;
  each of h groups of channels has its own. Further away the bias is zero and the key is still seen, as in AFT-local and
  AFT-conv. AFT-full, a bias for each pair of places, has nothing to say beyond its table.
- The bias is the parameter itself; the paper's reparametrisation (gamma, mean and deviation of a kernel) is left out.
- The rest is `aft`: keys weigh exp(k + bias) in each channel for itself, and a sigmoid of the query gates the mean.
- The skeleton is `_decoder`: queries, keys, values and the output have a matrix each.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, raised
from harness.specs._mixer import own
from harness.specs._transformer import NO_POSITIONS
from harness.specs.aft import aft, average

BIASES = "blocks.*.mixer.bias.weight[h t]"
SMALL = {"b": 1, "h": 2, "d": 8, "f": 8, "l": 1}
WITH_KERNELS = {
    **CASES,
    "kernel_of_one": {"t": 1},
    "longer_kernel": {"t": 53},
    "whole_kernel": {"n": 4, "t": 4, **SMALL},  # as long as the text
    "two_whole_kernels": {"n": 8, "t": 4, **SMALL},  # no last block that is short
}


@spec(CONTRACT, parameters=PARAMETERS + BIASES, cases=WITH_KERNELS, **SIZES, t=16)
def aft_lm(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    return _with(ids, parameters)


def by_distance(row: Tensor, n: int) -> Tensor:
    """The bias [h n n] of each query and key, for the numbers [h t] of distances; zero from t on, and for keys ahead."""
    step = torch.arange(n, device=row.device)
    distance = step[:, None] - step
    known = (distance >= 0) & (distance < row.shape[1])
    return row[:, distance.clamp(0, row.shape[1] - 1)] * known


def causal(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return aft(q, k, v, bias, causal=True)


def _with(ids, parameters, biases=by_distance, run=causal):
    def mix(x, project):
        bias = biases(own(project, "bias.weight"), x.shape[1])
        groups = zip(*(project(x, name).chunk(len(bias), -1) for name in "qkv"), bias, strict=True)
        return project(torch.cat([run(*group) for group in groups], -1), "o")

    return decoder(ids, parameters, mix)


EQUIVALENT = NO_POSITIONS | {
    "by_distance: distance >= 0 -> distance >= -1": "a key ahead may have any bias: `causal` hides it",
    "by_distance: distance.clamp(0, row.shape[1] - 1) -> distance.clamp(-1, row.shape[1] - 1)": (
        "another number is read for keys ahead, and `known` puts it to zero"
    ),
}

give_laws(aft_lm)


@aft_lm.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Keys beyond what an exponential can hold, all of them."""
    return raised(x, 200 / case.d, "mixer.k.weight")


def _mistaken(name: str, **parts) -> None:
    aft_lm.mistake(name)(lambda ids, parameters, *, h: _with(ids, parameters, **parts))


def _hidden_when_far(row, n):
    step = torch.arange(n)
    return by_distance(row, n) - 1e4 * (step[:, None] - step >= row.shape[1])


def _clamped(row, n):
    step = torch.arange(n)
    return row[:, (step[:, None] - step).clamp(0, row.shape[1] - 1)]


def _short_where_whole(row, n):
    return by_distance(row[:, : n - 1] if n == row.shape[1] > 1 else row, n)


def _blocks_of_the_last_alone(row, n):
    """Each query sees the keys of its own block, and all of those before it only where the last block is short."""
    t = row.shape[1]
    block = torch.arange(n) // t
    whole = n % t == 0 and n > t > 1
    return by_distance(row, n) - 1e4 * (whole & (block[:, None] > block))


def _without_gate(q, k, v, bias):
    return 2 * causal(0 * q, k, v, bias)


def _attention(q, k, v, bias):
    return causal(q, k * k.shape[-1] ** -0.5, v, bias)


def _after_the_exponential(q, k, v, bias):
    seen = torch.ones(len(bias), len(bias), dtype=torch.bool).tril()
    weight = (k.exp().mT[:, None] + bias[:, None, :]).clamp(min=1e-9)
    return average(q, weight.log(), v, seen)


_mistaken("sees the future", run=lambda q, k, v, bias: aft(q, k, v, bias))
_mistaken("has no bias", biases=lambda row, n: 0 * by_distance(row, n))
_mistaken("keys beyond the kernel are hidden", biases=_hidden_when_far)
_mistaken("keys beyond the kernel have its last bias", biases=_clamped)
_mistaken("the bias counts distances from one", biases=lambda row, n: by_distance(row.roll(-1, 1), n))
_mistaken("the last bias is left out where the text is as long as the kernel", biases=_short_where_whole)
_mistaken("the first block is not seen where blocks of t are whole", biases=_blocks_of_the_last_alone)
_mistaken("the kernel is turned around", biases=lambda row, n: by_distance(row.flip(1), n))
_mistaken("all groups have the bias of the first", biases=lambda row, n: by_distance(row[:1].expand_as(row), n))
_mistaken("the bias is added after the exponential", run=_after_the_exponential)
_mistaken("keys are exponentiated as they are", run=lambda q, k, v, bias: causal(q, k.float().exp().log().double(), v, bias))
_mistaken("the query gates nothing", run=_without_gate)
_mistaken("keys are scaled by d^-1/2", run=_attention)
_mistaken("the bias learns nothing", biases=lambda row, n: by_distance(row.detach(), n))
