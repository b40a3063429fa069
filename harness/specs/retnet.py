"""RetNet, a language model with multi-scale retention (Sun et al. 2023, arXiv:2307.08621, eq. 5-8).

Where the paper and libraries disagree, this side is taken:
- Angles as in torchscale: frequencies 10000^-linspace(0, 1, d/2), both ends included; rotary's leave the upper end out.
- Decays 1 - 2^(-5 - head), as in the paper and torchscale; other code spaces them by the logarithm.
- Each head is brought to unit mean square, without mean removal and without gain (torchscale); the paper writes GroupNorm.
- eps is 0: the forms of retention differ by scale, so any eps makes them different models (4e-2 in the logits of torchscale).
- d^-1/2 stands on the keys, as in the code. Scores are left as they are: the paper's three normalisers are undone by the norm.
- Values are as wide as keys; the paper's are twice as wide. The feed-forward part is GELU, as in the first version.
"""

from itertools import count

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, join, split
from harness.specs.retention import retention, retnet_decay
from harness.specs.rotary import angles as rotary_angles
from harness.specs.rotary import rotate

WITH_GATE = PARAMETERS + "blocks.*.mixer.gate.weight[d d]"


# A state that is lost, or is another row's, head's or layer's, between chunks of up to 512; with so many logits the audit asks it
# after smaller cases. And decays beyond those of eight heads.
FAR = {
    **CASES,
    "beyond_a_chunk": {"n": 530, "b": 2, "l": 2, "h": 2, "d": 8, "f": 8, "v": 128},
    "many_heads": {"n": 40, "b": 1, "l": 1, "h": 12, "d": 48, "f": 8},
}


@spec(CONTRACT, parameters=WITH_GATE, cases=FAR, **SIZES)
def retnet(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    return _with(ids, parameters, h)


def unit_square(out: Tensor) -> Tensor:
    """Each row to mean square 1."""
    return out / out.square().mean(-1, keepdim=True).sqrt()


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def angles(position: Tensor, d: int) -> Tensor:
    """Angle [n d/2] of each pair at each position."""
    exponent = torch.linspace(0, 1, d // 2, dtype=torch.float64, device=position.device)
    return position.to(torch.float64)[:, None] * 10000.0**-exponent


def _with(ids, parameters, h, *, angles=angles, decay=retnet_decay, retain=retention, head_norm=unit_square, gate=silu):
    position = torch.arange(ids.shape[1], device=ids.device)

    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        d = q.shape[-1]
        turned = angles(position, d)
        nothing = torch.zeros(d, d, dtype=x.dtype, device=x.device).expand(len(ids), h, d, d)
        out, _ = retain(rotate(q, turned), rotate(k * d**-0.5, turned), v, nothing, decay(h).to(x.device))
        return project(gate(project(x, "gate")) * join(head_norm(out)), "o")

    return decoder(ids, parameters, mix)


EQUIVALENT = {
    **dict.fromkeys(
        ("decoder: x = x + positions -> (dropped)", "decoder: x + positions -> x - positions"),
        "this model adds no positions to the embedding",
    ),
    **dict.fromkeys(
        ("_with: k * d ** (-0.5) -> k / d ** (-0.5)", "_with: d ** (-0.5) -> d ** (-0.505)", "_with: d ** (-0.5) -> d ** 0.5"),
        "the norm of each head, whose eps is 0, undoes any scale of the keys",
    ),
    "angles: 10000.0 ** (-exponent) -> 10100.0 ** (-exponent), bfloat16": (
        "it turns the last of 150 tokens by 0.02 radian: a little less than bfloat16 is allowed"
    ),
    "heads beyond the eighth decay like it, bfloat16": (
        "over 40 tokens their weights differ by less than a hundredth: bfloat16 is allowed as much"
    ),
}

give_laws(retnet)


@retnet.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    return retnet_decay(case.h).max() ** k


@retnet.family
def quiet(x: Bunch, case: Case, rng: torch.Generator):
    """Queries and keys so short that any eps in the head norm shows."""
    return {name: tensor / 30 for name, tensor in x.items() if name.endswith(("mixer.q.weight", "mixer.k.weight"))}


@retnet.mistake("sees the future")
def _(ids, parameters, *, h):
    def both_ways(q, k, v, past, decay):
        return retention(q, k, v, past, decay)[0] + retention(q.flip(2), k.flip(2), v.flip(2), past, decay)[0].flip(2), past

    return _with(ids, parameters, h, retain=both_ways)


@retnet.mistake("nothing decays")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, decay=lambda h: torch.ones(h, dtype=torch.float64))


@retnet.mistake("starts from a state of ones")
def _(ids, parameters, *, h):
    def from_ones(q, k, v, past, decay):
        return retention(q, k, v, past + 1, decay)

    return _with(ids, parameters, h, retain=from_ones)


@retnet.mistake("layers after the first forget what is 512 tokens back")
def _(ids, parameters, *, h):
    layer = count()

    def in_pieces(q, k, v, past, decay):
        size = 512 if next(layer) else q.shape[2]
        pieces = zip(*(x.split(size, 2) for x in (q, k, v)), strict=True)
        return torch.cat([retention(*piece, past, decay)[0] for piece in pieces], 2), past

    return _with(ids, parameters, h, retain=in_pieces)


@retnet.mistake("all heads decay like the first")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, decay=lambda h: retnet_decay(1).expand(h))


@retnet.mistake("heads beyond the eighth decay like it")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, decay=lambda h: retnet_decay(8)[torch.arange(h).clamp(max=7)])


@retnet.mistake("frequencies leave the upper end out, as rotary's")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, angles=rotary_angles)


@retnet.mistake("the head norm removes the mean")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, head_norm=lambda out: unit_square(out - out.mean(-1, keepdim=True)))


@retnet.mistake("the norm goes over all heads at once")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, head_norm=lambda out: split(unit_square(join(out)), h))


@retnet.mistake("the gate is a sigmoid")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, gate=torch.sigmoid)


@retnet.mistake("eps of the head norm is 1e-5")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, head_norm=lambda out: out / (out.square().mean(-1, keepdim=True) + 1e-5).sqrt())
