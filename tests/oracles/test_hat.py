"""The reference of HAT against one flat text under masks, out of torch's own parts; in float64.

All rows of all segments stand in one sequence. A block within segments is attention under a block-diagonal mask, with rotary
positions by rotary-embedding-torch; a cross-segment block is torch's TransformerEncoderLayer, on every row that is a CLS.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.specs.hat import hat

INSTALL = "pip install rotary-embedding-torch==0.9.1"


def block_of(x: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    prefix = f"blocks.{i}."
    return {name.removeprefix(prefix): tensor for name, tensor in x.items() if name.startswith(prefix)}


def layer(p: Mapping[str, Tensor], d: int, h: int) -> nn.Module:
    """torch's pre-norm encoder layer with these parameters; it has biases about attention, which are zero."""
    f = len(p["up.bias"])
    it = nn.TransformerEncoderLayer(
        d, h, f, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.double
    )
    theirs = {
        "self_attn.in_proj_weight": torch.cat([p[f"mixer.{of}.weight"] for of in "qkv"]),
        "self_attn.in_proj_bias": torch.zeros(3 * d),
        "self_attn.out_proj.weight": p["mixer.o.weight"],
        "self_attn.out_proj.bias": torch.zeros(d),
    }
    for what in ("weight", "bias"):
        theirs |= {f"linear1.{what}": p[f"up.{what}"], f"linear2.{what}": p[f"down.{what}"]}
        theirs |= {f"norm{i}.{what}": p[f"norm{i}.{what}"] for i in (1, 2)}
    it.load_state_dict(theirs)
    return it


def within(x: Tensor, p: Mapping[str, Tensor], h: int, place: Tensor, segment: Tensor) -> Tensor:
    """A block on flat rows x[b n d]: row i sees row j where they are of one segment, both turned by their place in it."""
    rotary = pytest.importorskip("rotary_embedding_torch", reason=f"rotary-embedding-torch is not installed: {INSTALL}")
    d = x.shape[-1]
    freqs = place[:, None] * 10000.0 ** -(torch.arange(0, d // h, 2, dtype=torch.double) / (d // h))
    freqs = freqs.repeat_interleave(2, -1)
    y = F.layer_norm(x, (d,), p["norm1.weight"], p["norm1.bias"])
    q, k, v = (F.linear(y, p[f"mixer.{of}.weight"]).unflatten(-1, (h, -1)).transpose(1, 2) for of in "qkv")
    q, k = (rotary.apply_rotary_emb(freqs, tensor) for tensor in (q, k))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=segment[:, None] == segment)
    x = x + F.linear(y.transpose(1, 2).flatten(2), p["mixer.o.weight"])
    y = F.layer_norm(x, (d,), p["norm2.weight"], p["norm2.bias"])
    return x + F.linear(F.gelu(F.linear(y, p["up.weight"], p["up.bias"])), p["down.weight"], p["down.bias"])


def flat(x: Mapping[str, Tensor], case: Any) -> Tensor:
    size = case.t // case.g
    # Where each row stands: CLS is put before every token whose place in its segment is 0.
    ids = torch.full((case.b, case.n + -(-case.n // size)), case.v)
    row = torch.arange(ids.shape[1])
    segment, place = row // (size + 1), row % (size + 1)
    ids[:, place > 0] = x["ids"]
    rows = F.embedding(ids, torch.cat([x["embedding.weight"], x["special.cls"][None]]))
    for i in range(case.l):
        p = block_of(x, i)
        if (case.layout * case.l)[i] == "S":
            rows = within(rows, p, case.h, place, segment)
        else:
            cls = rows[:, place == 0] + F.embedding(segment[place == 0], x["segments.weight"])
            rows = rows.index_copy(1, row[place == 0], layer(p, case.d, case.h)(cls))
    rows = F.layer_norm(rows, (case.d,), x["norm.weight"], x["norm.bias"])
    return F.linear(rows[:, place == 0].max(1).values, x["head.weight"])


def drawn(case: Any, family: str) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in hat.inputs(case, family, cotangents=True).items()}


@pytest.mark.parametrize("family", hat.families)
@pytest.mark.parametrize("name", hat.cases)
def test_a_flat_text_under_masks(name: str, family: str, agree: Any) -> None:
    case = hat.case(name, torch.float64)
    x = drawn(case, family)
    agree(hat.reference(x, case).logits, flat(x, case).detach())


def test_gradients_of_a_flat_text(agree: Any) -> None:
    """To CLS, the table of segments, the embeddings and what stands within the blocks of segments."""
    case = hat.case("three_and_one", torch.float64)
    x = drawn(case, "normal")
    leaves = [
        x[name].requires_grad_() for name in ("special.cls", "segments.weight", "embedding.weight", "blocks.0.mixer.q.weight")
    ]
    ours = torch.autograd.grad(hat.reference(x, case).logits, leaves, x["logits.grad"])
    theirs = torch.autograd.grad(flat(x, case), leaves, x["logits.grad"])
    for our, their in zip(ours, theirs, strict=True):
        agree(our, their)


def test_one_segment_within_segments_alone_is_a_flat_encoder(agree: Any) -> None:
    """Its answer is then that of the CLS, read through the head: nothing is left of segments."""
    case = hat.case("one_segment", torch.float64).resized({"layout": "S"})
    x = drawn(case, "normal")
    n = torch.arange(case.n + 1)
    rows = torch.cat([x["special.cls"].expand(case.b, 1, -1), x["embedding.weight"][x["ids"]]], 1)
    for i in range(case.l):
        rows = within(rows, block_of(x, i), case.h, n, torch.zeros_like(n))
    rows = F.layer_norm(rows, (case.d,), x["norm.weight"], x["norm.bias"])
    agree(hat.reference(x, case).logits, rows[:, 0] @ x["head.weight"].T)
