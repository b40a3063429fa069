"""MEGABYTE, a language model of patches of bytes, and of the bytes within each (Yu et al. 2023, arXiv:2305.07185, section 2).

A global model reads patches of p bytes, each the embeddings of its bytes side by side; what it says of all patches before is
split into a part for each byte of the next. To its part each byte adds the embedding of the byte before it within the patch,
and a local model reads these sums, in each patch anew.

Where the paper leaves it open, or lucidrains/MEGABYTE-pytorch (the code in use; the authors' is not public) differs:
- The global input is one patch late, the local one a byte: learned vectors stand before the first patch, and before the first
  byte of each patch, in place of the byte before. In lucidrains' each level has a start token, and an embedding of its own.
- The contract wants at i what is foretold after byte i. The paper's model foretells byte i of the bytes before: its answer to
  i + 1 stands here at i, and what it says of the first byte, of no input at all, is left out. Patches start with the input.
- A last patch that is not whole is never read by the global model: no padding enters anything.
- Positions are rotary in both models, of patches and of bytes within a patch, as `transformer_rope` has them; nothing is added
  to embeddings. The paper adds a learned row for each byte of the input, and such a table would end.
- Both models are as wide: a patch has d = p e numbers. The last `local` of all l layers are the local model's, the others the
  global one's, all alike; the paper's two models have sizes of their own.
- Each model ends with a norm. The local table is the head too (eq. of 2.2), and has no scale.
- The paper's convolution before patching, attention across patches and strided inference are options that are not taken.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CONTRACT, SIZES, give_laws, join, layers, linear, norm, split
from harness.specs._mixer import AROUND
from harness.specs._segments import blocks, causal_rotary
from harness.specs.attention import attention
from harness.specs.rotary import rotary

PARAMETERS = (
    "patches.embedding.weight[v e], patches.pad[d], patches.norm.weight[d], patches.norm.bias[d]"
    ", patches.to_bytes.weight[d e], bytes.pad[d]\n"
    + AROUND.replace("head.weight[v d]", "")
    + "blocks.*.mixer.q.weight[d d], blocks.*.mixer.k.weight[d d], blocks.*.mixer.v.weight[d d], blocks.*.mixer.o.weight[d d]"
)
CASES = {
    "plain": {},
    "one_byte": {"n": 1},
    "one_byte_less_than_a_patch": {"n": 3},
    "one_patch": {"n": 4},
    "one_byte_more": {"n": 5},
    "whole_patches": {"n": 16, "b": 1},
    "patches_of_one": {"n": 7, "p": 1, "e": 32},
    "wide_patches": {"n": 21, "p": 8, "e": 4},
    "odd_patches": {"n": 17, "p": 3, "e": 8, "d": 24, "h": 2},
    "one_head": {"n": 11, "h": 1, "d": 12, "e": 3},
    "long": {"n": 70, "b": 1},
    "wide_heads": {"n": 10, "h": 2, "d": 96, "e": 24},
    "two_local_layers": {"n": 14, "l": 3, "local": 2},
    "two_global_layers": {"n": 14, "l": 3, "b": 1},
    "no_global_layer": {"n": 14, "l": 1},
}


@spec(CONTRACT, parameters=PARAMETERS, cases=CASES, **SIZES, e=8)
def megabyte(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, p: int = 4, local: int = 1) -> Tensor:
    return _with(ids, parameters, p, local, causal_rotary(h), causal_rotary(h))


def _with(ids, parameters, p, local, mix_patches, mix_bytes, *, hear=None, rows=None):
    heard = (hear or of_patches)(ids, parameters, p, local, mix_patches)
    foretold = []
    for k in range(ids.shape[1] // p + 1):
        x = (rows or one_byte_late)(ids, k * p, p, parameters)
        foretold.append(of_bytes(x, heard[:, k], parameters, local, mix_bytes))
    return torch.cat(foretold, 1)[:, 1:]


def of_patches(ids: Tensor, parameters, p: int, local: int, mix) -> Tensor:
    """ids[b n] -> what the global model says for each byte of each patch, of the patches before it: [b n//p+1 p e]."""
    whole = ids.shape[1] // p
    x = parameters["patches.embedding.weight"][ids[:, : whole * p]].unflatten(1, (whole, p)).flatten(2)
    return after(x, parameters, p, local, mix)


def after(patches: Tensor, parameters, p: int, local: int, mix) -> Tensor:
    """Embedded patches [b k d] -> [b k+1 p e]."""
    x = torch.cat([parameters["patches.pad"].expand(len(patches), 1, -1), patches], 1)
    x = blocks(x, parameters, range(layers(parameters) - local), mix)
    return norm(x, parameters, "patches.norm.").unflatten(-1, (p, -1))


def one_byte_late(ids: Tensor, start: int, p: int, parameters) -> Tensor:
    """What stands before each byte of the patch that begins at `start`, and before the one that follows ids[b n]: [b i d]."""
    before = parameters["embedding.weight"][ids[:, start : start + p - 1]]
    return torch.cat([parameters["bytes.pad"].expand(len(ids), 1, -1), before], 1)


def of_bytes(x: Tensor, heard: Tensor, parameters, local: int, mix) -> Tensor:
    """What stands before the first bytes of a patch [b i d], what is heard of other patches [b p e] -> logits of both [b i v]."""
    x = x + linear(heard[:, : x.shape[1]], "patches.to_bytes", parameters)
    x = blocks(x, parameters, range(layers(parameters) - local, layers(parameters)), mix)
    return norm(x, parameters, "norm.") @ parameters["embedding.weight"].mT


give_laws(megabyte)


@megabyte.work(e=lambda case: case.d // case.p)
def _(case: Case) -> float:
    """The global blocks read a patch at a time; all else, a byte."""
    of_patches = tuple(f"blocks.{i}." for i in range(case.l - case.local))
    return megabyte.products(case, lambda name: case.n // case.p if name.startswith(of_patches) else case.n)


@megabyte.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """All that enters either model so faint that eps shows."""
    return {name: x[name] / 100 for name in x if name.endswith((".pad", "embedding.weight", "to_bytes.weight"))}


@megabyte.law(when=lambda case: case.n > case.p)
def the_global_model_hears_of_whole_patches_only(run, x: Bunch, rng):
    """Where the local model cannot tell bytes apart, nothing hangs on the patch that is being foretold."""
    p = run.case.p
    start = p * rng.randrange(1, (x.ids.shape[1] - 1) // p + 1)
    blind = {"embedding.weight": x["embedding.weight"][:1].expand_as(x["embedding.weight"]).contiguous()}
    other = torch.cat([x.ids[:, :start], _others(x)[:, start:]], 1)
    return run(x, **blind).logits[:, : start + p - 1], run(x, ids=other, **blind).logits[:, : start + p - 1]


@megabyte.law(when=lambda case: case.n > case.p)
def the_local_model_does_not_see_beyond_its_patch(run, x: Bunch, rng):
    """Where nothing comes from the global model, what is foretold in a patch does not hang on the patches before."""
    p = run.case.p
    start = p * rng.randrange(1, x.ids.shape[1] // p + 1)
    deaf = {"patches.to_bytes.weight": torch.zeros_like(x["patches.to_bytes.weight"])}
    other = torch.cat([_others(x)[:, :start], x.ids[:, start:]], 1)
    return run(x, **deaf).logits[:, start - 1 :], run(x, ids=other, **deaf).logits[:, start - 1 :]


@megabyte.law(when=lambda case: case.l > case.local)
def every_byte_hears_of_the_first(run, x: Bunch, rng):
    """In how many rows any logit differs when the first byte is another."""
    other = torch.cat([_others(x)[:, :1], x.ids[:, 1:]], 1)
    heard = (run(x).logits != run(x, ids=other).logits).any(-1).double()
    return heard, torch.ones_like(heard)


def _others(x: Bunch) -> Tensor:
    """In each place another byte."""
    return (x.ids + 1) % x["embedding.weight"].shape[0]


def _mistaken(name, *, patches=causal_rotary, within=causal_rotary, **parts):
    """A mistake in how either model mixes, in what is heard of the patches, or in what stands before the bytes."""

    @megabyte.mistake(name)
    def _(ids, parameters, *, h, p, local):
        return _with(ids, parameters, p, local, patches(h), within(h), **parts)


def _without_positions(h):
    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(q, k, v, visibility="causal")), "o")

    return mix


def _seeing_all(h):
    def mix(x, project):
        position = torch.arange(x.shape[1])
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(rotary(q, position), rotary(k, position), v)), "o")

    return mix


def _side_by_side(ids, parameters, p):
    """Whole patches [b k p e]."""
    return parameters["patches.embedding.weight"][ids].unflatten(1, (ids.shape[1] // p, p))


def _in_time(ids, parameters, p, local, mix):
    """The last patch, not whole, is filled up with zeros."""
    filled = pad(ids, (0, p - ids.shape[1] % p))
    return of_patches(filled, parameters, p, local, mix)[:, 1:]


def _one_byte_late(ids, parameters, p, local, mix):
    shifted = pad(ids, (1, p - 1 - ids.shape[1] % p))
    return after(_side_by_side(shifted, parameters, p).flatten(2), parameters, p, local, mix)[:, 1:]


def _by_feature(ids, parameters, p, local, mix):
    whole = ids[:, : ids.shape[1] // p * p]
    return after(_side_by_side(whole, parameters, p).mT.flatten(2), parameters, p, local, mix)


def _split_by_feature(ids, parameters, p, local, mix):
    return of_patches(ids, parameters, p, local, mix).flatten(2).unflatten(-1, (-1, p)).mT


def _alike(ids, parameters, p, local, mix):
    return of_patches(ids, parameters, p, local, mix)[:, :, :1].expand(-1, -1, p, -1)


def _at_first(ids, parameters, p, local, mix):
    return of_patches(ids, parameters, p, local, mix) * (torch.arange(p) == 0)[:, None]


def _from_zeros(ids, parameters, p, local, mix):
    return of_patches(ids, parameters | {"patches.pad": 0 * parameters["patches.pad"]}, p, local, mix)


def _without_norm(ids, parameters, p, local, mix):
    whole = _side_by_side(ids[:, : ids.shape[1] // p * p], parameters, p).flatten(2)
    x = torch.cat([parameters["patches.pad"].expand(len(ids), 1, -1), whole], 1)
    return blocks(x, parameters, range(layers(parameters) - local), mix).unflatten(-1, (p, -1))


def _byte_before(ids, start, p, parameters):
    first = parameters["embedding.weight"][ids[:, start - 1 : start]]
    right = one_byte_late(ids, start, p, parameters)
    return torch.cat([first, right[:, 1:]], 1) if start else right


def _byte_itself(ids, start, p, parameters):
    own = parameters["embedding.weight"][ids[:, start : start + p]]
    return torch.cat([own, parameters["bytes.pad"].expand(len(ids), 1, -1)], 1)[:, :p]


def _zeros(ids, start, p, parameters):
    return one_byte_late(ids, start, p, parameters | {"bytes.pad": 0 * parameters["bytes.pad"]})


_mistaken("the global model sees the patch that is foretold", hear=_in_time)
_mistaken("the global input is one byte late, not one patch", hear=_one_byte_late)
_mistaken("the local model sees the byte that is foretold", rows=_byte_itself)
_mistaken("the local model sees the future of its patch", within=_seeing_all)
_mistaken("the global model sees all patches", patches=_seeing_all)
_mistaken("a patch begins with the last byte of the one before", rows=_byte_before)
_mistaken("zeros stand before the first patch", hear=_from_zeros)
_mistaken("zeros stand before the first byte of a patch", rows=_zeros)
_mistaken("a patch has the features of its bytes side by side, not the bytes", hear=_by_feature)
_mistaken("bytes hear every p-th number of what is said of their patch", hear=_split_by_feature)
_mistaken("all bytes of a patch hear the same", hear=_alike)
_mistaken("only the first byte of a patch hears of others", hear=_at_first)
_mistaken("no norm follows the global model", hear=_without_norm)
_mistaken("patches have no positions", patches=_without_positions)
_mistaken("the bytes of a patch have no positions", within=_without_positions)


@megabyte.mistake("patches are filled up at the front")
def _(ids, parameters, *, h, p, local):
    front = -ids.shape[1] % p
    return _with(pad(ids, (front, 0)), parameters, p, local, causal_rotary(h), causal_rotary(h))[:, front:]


@megabyte.mistake("the local model goes on over patches")
def _(ids, parameters, *, h, p, local):
    heard = of_patches(ids, parameters, p, local, causal_rotary(h)).flatten(1, 2)
    starts = range(0, ids.shape[1] + 1, p)
    x = torch.cat([one_byte_late(ids, start, p, parameters) for start in starts], 1)
    return of_bytes(x, heard, parameters, local, causal_rotary(h))[:, 1:]
