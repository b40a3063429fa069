"""The reference of RMT against x-transformers' decoder on rows put together by hand, and against transformer_rope; in float64."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.specs.rmt import rmt
from harness.specs.transformer_rope import transformer_rope

INSTALL = "pip install x-transformers==2.31.10"


@pytest.fixture
def published(in_float64: Any) -> Callable[[Any, Mapping[str, Tensor]], nn.Module]:
    """`published(case, parameters)`: x-transformers' decoder, of rows, up to the last norm. It computes in float32."""
    library = pytest.importorskip("x_transformers.x_transformers", reason=f"x-transformers is not installed: {INSTALL}")
    in_float64(importlib.import_module("x_transformers.attend"))
    return lambda case, parameters: decoder(library, case, parameters)


def decoder(library: ModuleType, case: Any, parameters: Mapping[str, Tensor]) -> nn.Module:
    """With norms of torch in place of its own, which have no bias."""
    d, e = case.d, case.d // case.h
    head = {"heads": case.h, "attn_dim_head": e, "rotary_pos_emb": True, "rotary_emb_dim": e}
    module = library.Decoder(dim=d, depth=case.l, ff_mult=case.f / d, verbose=False, **head).double()
    theirs = {}
    for i in range(case.l):
        module.layers[2 * i][0][0], module.layers[2 * i + 1][0][0] = (nn.LayerNorm(d).double() for _ in range(2))
        module.layers[2 * i][1].to_out = nn.Linear(d, d, bias=False).double()  # one head as wide as the model has none
        names = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out"}
        theirs |= {f"layers.{2 * i}.1.{names[of]}.weight": parameters[f"blocks.{i}.mixer.{of}.weight"] for of in names}
        for what in ("weight", "bias"):
            theirs[f"layers.{2 * i}.0.0.{what}"] = parameters[f"blocks.{i}.norm1.{what}"]
            theirs[f"layers.{2 * i + 1}.0.0.{what}"] = parameters[f"blocks.{i}.norm2.{what}"]
            theirs[f"layers.{2 * i + 1}.1.ff.0.0.{what}"] = parameters[f"blocks.{i}.up.{what}"]
            theirs[f"layers.{2 * i + 1}.1.ff.2.{what}"] = parameters[f"blocks.{i}.down.{what}"]
    module.final_norm = nn.LayerNorm(d).double()
    theirs |= {f"final_norm.{what}": parameters[f"norm.{what}"] for what in ("weight", "bias")}
    unknown = module.load_state_dict(theirs, strict=False)
    assert not unknown.unexpected_keys
    assert set(unknown.missing_keys) <= {"rotary_pos_emb.inv_freq"}
    return module


def drawn(case: Any, family: str) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in rmt.inputs(case, family, cotangents=True).items()}


def by_hand(x: Mapping[str, Tensor], module: nn.Module, case: Any) -> Tensor:
    """Memory, segment, memory; the last rows are the memory of the next segment. Memory of long ago is passed by value."""
    n, size, m = case.n, case.t // 4, case.m
    at, logits = list(range(0, n, size)), []
    for last in range(len(at)):
        memory = x["memory.weight"].repeat(case.b, 1, 1)
        for i in at[: last + 1]:
            rows = [memory, nn.functional.embedding(x["ids"][:, i : i + size], x["embedding.weight"]), memory]
            said = module(torch.cat(rows, dim=1))
            memory = said[:, -m:]
            if case.reach is not None and i == at[last - case.reach - 1] and last > case.reach:
                memory = memory.detach()
        logits.append(said[:, m:-m] @ x["head.weight"].T)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("family", rmt.families)
@pytest.mark.parametrize("name", rmt.cases)
def test_x_transformers_between_memories(name: str, family: str, agree: Any, published: Any) -> None:
    case = rmt.case(name, torch.float64)
    x = drawn(case, family)
    module = published(case, x)
    agree(rmt.reference(x, case).logits, by_hand(x, module, case).detach())


@pytest.mark.parametrize("name", [name for name, case in rmt.cases.items() if case.get("n", 0) > case.get("t", 64) // 4])
def test_gradients_pass_as_many_hand_overs(name: str, agree: Any, published: Any) -> None:
    """To the memory and the embeddings, through the segments."""
    case = rmt.case(name, torch.float64)
    x = drawn(case, "normal")
    wanted = ("memory.weight", "embedding.weight")
    for tensor in wanted:
        x[tensor].requires_grad_()
    module = published(case, {name: tensor.detach() for name, tensor in x.items()})
    leaves = [x[tensor] for tensor in wanted]
    ours = torch.autograd.grad(rmt.reference(x, case).logits, leaves, x["logits.grad"])
    theirs = torch.autograd.grad(by_hand(x, module, case), leaves, x["logits.grad"])
    for our, their in zip(ours, theirs, strict=True):
        agree(our, their)


def test_one_segment_without_memory_is_a_transformer(agree: Any) -> None:
    case = rmt.case("one_segment", torch.float64).resized({"m": 0})
    x = drawn(case, "normal")
    agree(rmt.reference(x, case).logits, transformer_rope.reference(without_memory(x), case).logits)


def test_one_segment_is_a_transformer_after_memory(agree: Any) -> None:
    """Memory as tokens of its own before those of the segment: the copy after them is seen by none."""
    case = rmt.case("one_segment", torch.float64)
    x = drawn(case, "normal")
    table = torch.cat([x["embedding.weight"], x["memory.weight"]])
    memory = case.v + torch.arange(case.m).expand(case.b, -1)
    given = without_memory(x) | {"embedding.weight": table, "ids": torch.cat([memory, x["ids"]], 1)}
    agree(rmt.reference(x, case).logits, transformer_rope.reference(given, case).logits[:, case.m :])


def without_memory(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in x.items() if not name.startswith("memory") and not name.endswith(".grad")}
