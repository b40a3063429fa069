"""A transformer language model that sees the last few tokens in each layer: a sliding window, with rotary positions.

Where papers and libraries disagree, this side is taken:
- The window has t // 2 keys, its own token's included (Mistral's and transformers' count; flash-attn's `left=w` shows w + 1),
  for a model that is trained at length t: half, as Mistral's 4096 of 8192 (Jiang et al. 2023, arXiv:2310.06825).
- It is the same in training and after, and in every layer: l layers reach back l (t // 2 - 1) tokens.
- Positions are rotary, those of `transformer_rope`. Nothing else is seen: no first tokens are kept. The skeleton is `_decoder`.
"""

from itertools import count

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, give_work, join, split
from harness.specs._transformer import NO_POSITIONS, transformer
from harness.specs.attention import attention
from harness.specs.rotary import rotary

WITH_WINDOWS = {**CASES, "window_of_one": {"t": 2}, "odd_window": {"t": 11}, "wider_than_the_input": {"t": 100}}


@spec(CONTRACT, parameters=PARAMETERS, cases=WITH_WINDOWS, **SIZES)
def transformer_window(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 16) -> Tensor:
    return _with(ids, parameters, h, t // 2)


def _with(ids, parameters, h, window, turned=rotary, visibility="sliding_window", bias=None):
    position = torch.arange(ids.shape[1], device=ids.device)

    def turn(q, k, v):
        return turned(q, position), turned(k, position), v

    return transformer(ids, parameters, h, turn=turn, visibility=visibility, window=window, bias=bias)


EQUIVALENT = NO_POSITIONS

give_laws(transformer_window)
give_work(transformer_window, lambda case: case.t)


@transformer_window.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    return within(k, case.l * (case.t // 2 - 1))


def within(k: Tensor, reach: int) -> Tensor:
    """All up to a reach in tokens, and nothing beyond."""
    return (k <= reach).to(torch.float64)


@transformer_window.law(when=lambda case: case.n > 1 + case.l * (case.t // 2 - 1))
def tokens_out_of_reach_change_nothing(run, x: Bunch, rng):
    n, layers = x.ids.shape[1], sum(name.endswith(".norm1.weight") for name in x)
    far = torch.arange(n, device=x.ids.device) < n - 1 - layers * (run.case.t // 2 - 1)
    other = (x.ids * 5 + 2) % x["embedding.weight"].shape[0]
    return run(x).logits[:, -1], run(x, ids=torch.where(far, other, x.ids)).logits[:, -1]


@transformer_window.mistake("sees the future")
def _(ids, parameters, *, h, t):
    n = ids.shape[1]
    step = torch.arange(n)
    far = torch.where((step[:, None] - step).abs() < t // 2, 0.0, -1e4).double().expand(h, n, n)
    return _with(ids, parameters, h, 0, visibility="full", bias=far)


@transformer_window.mistake("sees the whole past")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, 0, visibility="causal")


@transformer_window.mistake("the window shows one key more")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t // 2 + 1)


@transformer_window.mistake("the window shows one key less")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, max(1, t // 2 - 1))


@transformer_window.mistake("the window is as long as the training")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t)


@transformer_window.mistake("windows lie in blocks")
def _(ids, parameters, *, h, t):
    n = ids.shape[1]
    block = torch.arange(n) // (t // 2)
    other = torch.where(block[:, None] == block, 0.0, -1e4).double().expand(h, n, n)
    return _with(ids, parameters, h, 0, visibility="causal", bias=other)


@transformer_window.mistake("the first token stays visible")
def _(ids, parameters, *, h, t):
    n = ids.shape[1]
    step = torch.arange(n)
    hidden = (step[:, None] - step >= t // 2) & (step > 0)
    return _with(ids, parameters, h, 0, visibility="causal", bias=torch.where(hidden, -1e4, 0.0).double().expand(h, n, n))


@transformer_window.mistake("every sixth layer sees the whole past")
def _(ids, parameters, *, h, t):
    layer = count(1)

    def mix(x, project):
        place = torch.arange(x.shape[1])
        window = t // 2 if next(layer) % 6 else len(place)
        q, k, v = (split(project(x, name), h) for name in "qkv")
        out = attention(rotary(q, place), rotary(k, place), v, visibility="sliding_window", window=window)
        return project(join(out), "o")

    return decoder(ids, parameters, mix)


@transformer_window.mistake("has no positions")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t // 2, turned=lambda x, position: x)
