"""The reference of RMT around an encoder against x-transformers' encoder on rows put together by hand; in float64."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.specs.rmt_encoder import rmt_encoder

INSTALL = "pip install x-transformers==2.31.10"


@pytest.fixture
def library(in_float64: Any) -> ModuleType:
    """x-transformers, which computes in float32, in float64."""
    found = pytest.importorskip("x_transformers.x_transformers", reason=f"x-transformers is not installed: {INSTALL}")
    in_float64(importlib.import_module("x_transformers.attend"))
    return found


def encoder(library: ModuleType, case: Any, parameters: Mapping[str, Tensor]) -> nn.Module:
    """x-transformers' encoder, of rows, up to the last norm; with norms of torch in place of its own, which have no bias."""
    d, e = case.d, case.d // case.h
    head = {"heads": case.h, "attn_dim_head": e, "rotary_pos_emb": True, "rotary_emb_dim": e}
    module = library.Encoder(dim=d, depth=case.l, ff_mult=case.f / d, verbose=False, **head).double()
    module.final_norm = nn.LayerNorm(d).double()
    theirs = {f"final_norm.{what}": parameters[f"norm.{what}"] for what in ("weight", "bias")}
    for i, (attention, feed) in enumerate(zip(module.layers[0::2], module.layers[1::2], strict=True)):
        attention[0][0], feed[0][0] = nn.LayerNorm(d).double(), nn.LayerNorm(d).double()
        attention[1].to_out = nn.Linear(d, d, bias=False).double()  # one head as wide as the model has none
        mixer, block = f"layers.{2 * i}.1.to", f"blocks.{i}"
        theirs |= {f"{mixer}_{of}.weight": parameters[f"{block}.mixer.{of}.weight"] for of in "qkv"}
        theirs[f"{mixer}_out.weight"] = parameters[f"{block}.mixer.o.weight"]
        for what in ("weight", "bias"):
            theirs[f"layers.{2 * i}.0.0.{what}"] = parameters[f"{block}.norm1.{what}"]
            theirs[f"layers.{2 * i + 1}.0.0.{what}"] = parameters[f"{block}.norm2.{what}"]
            theirs[f"layers.{2 * i + 1}.1.ff.0.0.{what}"] = parameters[f"{block}.up.{what}"]
            theirs[f"layers.{2 * i + 1}.1.ff.2.{what}"] = parameters[f"{block}.down.{what}"]
    unknown = module.load_state_dict(theirs, strict=False)
    assert not unknown.unexpected_keys
    assert set(unknown.missing_keys) <= {"rotary_pos_emb.inv_freq"}
    return module


def by_hand(x: Mapping[str, Tensor], module: nn.Module, case: Any) -> Tensor:
    """CLS, SEP and memory are more rows of the table, as in the published code; segments are cut from the end."""
    table = torch.cat([x["embedding.weight"], x["special.cls"][None], x["special.sep"][None], x["memory.weight"]])
    cls, sep, learned = case.v, case.v + 1, torch.arange(case.m) + case.v + 2
    memory = table[learned].repeat(case.b, 1, 1)
    size = case.t // 4
    for stop in reversed(range(case.n, 0, -size)):
        ids = F.pad(x["ids"][:, max(0, stop - size) : stop], (1, 0), value=sep)
        ids = F.pad(F.pad(ids, (1, 0), value=cls), (0, 1), value=sep)
        rows = table[ids]
        said = module(torch.cat([rows[:, :1], memory, rows[:, 1:]], dim=1))
        memory = said.narrow(1, 1, case.m)
    return said[:, 0] @ x["head.weight"].T


def drawn(case: Any, family: str) -> dict[str, Tensor]:
    made = rmt_encoder.inputs(case, family, cotangents=True)
    return {name: t.double() if t.is_floating_point() else t for name, t in made.items()}


@pytest.mark.parametrize("family", rmt_encoder.families)
@pytest.mark.parametrize("name", rmt_encoder.cases)
def test_x_transformers_around_memory(name: str, family: str, agree: Any, library: ModuleType) -> None:
    case = rmt_encoder.case(name, torch.float64)
    x = drawn(case, family)
    agree(rmt_encoder.reference(x, case).logits, by_hand(x, encoder(library, case, x), case).detach())


def test_gradients_pass_every_hand_over(agree: Any, library: ModuleType) -> None:
    """To the memory, the two special rows and the embeddings, through all segments."""
    case = rmt_encoder.case("many_segments", torch.float64)
    x = drawn(case, "normal")
    module = encoder(library, case, x)
    leaves = [x[name].requires_grad_() for name in ("memory.weight", "special.cls", "special.sep", "embedding.weight")]
    ours = torch.autograd.grad(rmt_encoder.reference(x, case).logits, leaves, x["logits.grad"])
    theirs = torch.autograd.grad(by_hand(x, module, case), leaves, x["logits.grad"])
    for our, their in zip(ours, theirs, strict=True):
        agree(our, their)
