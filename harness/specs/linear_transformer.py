"""A transformer language model with linear attention (Katharopoulos et al. 2020, arXiv:2006.16236): it is an RNN.

Each layer has the attention of `linear_attention`, from an empty past: features elu(x) + 1, no scale, nothing added to the
denominator. No positions are added, as in `transformer_nope` (the paper's image models have learned ones): one layer sees
the past as a set, and there is no longest input. The skeleton is `_decoder`, with GELU and norms where the paper has its own.
"""

from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs import _decoder
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, join, split
from harness.specs._transformer import NO_POSITIONS, give_set_law, transformer
from harness.specs.linear_attention import feature, linear_attention
from harness.specs.rotary import rotary

# Sums that are replaced, not carried, at the second of two chunks of 128, or are those of another row, head or layer.
FAR = {**CASES, "beyond_two_chunks": {"n": 270, "b": 2, "l": 2, "h": 2, "d": 8, "f": 8, "v": 5}}


@spec(CONTRACT, parameters=PARAMETERS, cases=FAR, **SIZES)
def linear_transformer(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        nothing = torch.zeros_like(k[:, :, 0])
        out, _, _ = linear_attention(q, k, v, nothing[..., None] * v[:, :, :1], nothing)
        return project(join(out), "o")

    return decoder(ids, parameters, mix)


EQUIVALENT = NO_POSITIONS | {
    "linear_transformer: k[:, :, 0] -> k[:, :, -1]": "only its shape is read, and every token has the same",
}

give_laws(linear_transformer)
give_set_law(linear_transformer)


@linear_transformer.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """As in the other models, and one feature of the values is zero."""
    used = (torch.arange(case.d) > 0)[:, None]
    return _decoder.sharp(x, case, rng) | {name: t * used for name, t in x.items() if name.endswith("mixer.v.weight")}


@linear_transformer.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Features of the first half of q and k are large, the others next to nothing: what is added to a denominator shows."""
    sign = torch.where(torch.arange(case.d) < case.d / 2, 1.0, -1.0)[:, None]
    return _decoder.raised(x, 7 / case.d * sign, "mixer.q.weight", "mixer.k.weight")


def _mistaken(name: str, weights, normalise=lambda weight: weight.sum(-1, keepdim=True)) -> None:
    """A mistake of attention: `weights(q, k)` [b h n n] of the keys, before those ahead are hidden."""

    def wrong(ids, parameters, *, h):
        def mix(x, project):
            q, k, v = (split(project(x, name), h) for name in "qkv")
            weight = weights(q, k)
            return project(join(weight @ v / normalise(weight)), "o")

        return decoder(ids, parameters, mix)

    linear_transformer.mistake(name)(wrong)


def _of_features(of_query, of_key=None):
    return lambda q, k: (of_query(q) @ (of_key or of_query)(k).mT).tril()


def _turned(x):
    return rotary(x, torch.arange(x.shape[2]))


def _one_is_enough(weight):
    return weight.sum(-1, keepdim=True).clamp(min=1)


_mistaken("sees the future", lambda q, k: feature(q) @ feature(k).mT)
_mistaken("a token does not see itself", lambda q, k: (feature(q) @ feature(k).mT + 1e-9).tril(-1) + 1e-9 * torch.eye(q.shape[2]))
_mistaken("the outputs are not normalised", _of_features(feature), lambda weight: 1.0)
_mistaken(
    "the outputs are divided by the number of keys", _of_features(feature), lambda weight: (weight > 0).sum(-1, keepdim=True)
)
_mistaken("1e-6 is added to the denominator", _of_features(feature), lambda weight: weight.sum(-1, keepdim=True) + 1e-6)
_mistaken("the feature map is relu(x) + 1", _of_features(lambda x: F.relu(x) + 1))
_mistaken("the feature map is the exponential", _of_features(torch.exp))
_mistaken("keys go in without the feature map", _of_features(feature, lambda k: k))
_mistaken(
    "queries are scaled by d^-1/2 before the feature map", _of_features(lambda q: feature(q * q.shape[-1] ** -0.5), feature)
)
_mistaken("rotary positions turn features", _of_features(lambda x: _turned(feature(x))), lambda weight: 10.0)


@linear_transformer.mistake("layers after the first forget what is before 128 tokens")
def _(ids, parameters, *, h):
    layer = count()

    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        chunk = torch.arange(x.shape[1]) // (128 if next(layer) else x.shape[1])
        weight = (feature(q) @ feature(k).mT).tril() * (chunk[:, None] == chunk)
        return project(join(weight @ v / weight.sum(-1, keepdim=True)), "o")

    return decoder(ids, parameters, mix)


@linear_transformer.mistake("attention is that of softmax")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h)
