"""A transformer with rotary positions whose matrices are kept in 8 or 4 bits: LLM.int8(), NF4 once and twice, 4-bit absmax.

The matrices of attention and of the feed-forward part are quantized; embedding, norms, biases and head stay as they are, as in
bitsandbytes and transformers. The parameters are those of `transformer_rope`, quantized as the specs `llm_int8` and `nf4` say, in
blocks of 64; `absmax_int4` gives each row of a matrix 15 codes, as `absmax_int8` gives 255. Where papers disagree or are silent:
- LLM.int8() finds outlier features over all tokens of a call, of all sequences: with it the future and the batch can be seen, and
  one token at a time is another function. The rest of the laws do not hold for it either.
- In the paper outlier features meet the weights as they are, so these must be kept as they are: no byte is saved. bitsandbytes
  keeps codes alone: `llm_int8_codes` is the paper's product with what comes back from them. A token's scale is the paper's in
  both, that of its features that are no outliers; bitsandbytes counts what lies below the threshold in the others too.
- Quantized weights are frozen: they have no gradient here.

Rounding jumps where honest float32 may fall on either side. Weights keep clear of these places as in `nf4` and `absmax_int8`, and
inputs of LLM.int8(), either way, are drawn again until every activation that is rounded does, by 3e-4 of a code.
"""

import re

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs import absmax_int8 as by_absmax
from harness.specs import nf4 as by_nf4
from harness.specs._decoder import (
    CONTRACT,
    PARAMETERS,
    SIZES,
    a_batch_is_its_rows,
    gelu,
    give_work,
    join,
    layers,
    norm,
    sharp,
    split,
    the_future_is_invisible,
)
from harness.specs.attention import attention
from harness.specs.llm_int8 import llm_int8
from harness.specs.rotary import rotary

MATRICES = ("mixer.q", "mixer.k", "mixer.v", "mixer.o", "up", "down")
BLOCK = 64
# In float32 whatever dtype is tested, which says that they are frozen.
FROZEN = re.sub(r"((?:mixer\.\w|up|down)\.weight\[. .\])", r"\1:float32", PARAMETERS)
SMALL = {"b": 1, "n": 11, "l": 1}
OUTLIERS = {"b": 2, "n": 5, "l": 1, "threshold": 2.0}  # features that have one in one of two texts
INT8 = ("llm_int8", "llm_int8_codes")  # they round what they multiply with matrices too


@spec(
    CONTRACT,
    parameters=FROZEN,
    cases={
        "plain": {},
        "one_token": {"n": 1},
        "one_head": {"h": 1, "d": 12},  # blocks of 64 go across rows
        "nf4_double": {"scheme": "nf4_double"},
        "nf4_double_deep": {"scheme": "nf4_double", "l": 3, "n": 19, "b": 1},
        "nf4_double_wide": {"scheme": "nf4_double", "b": 1, "n": 3, "l": 1, "h": 2, "d": 16, "f": 1040},  # 260 magnitudes
        "absmax_int4": {"scheme": "absmax_int4"},
        "absmax_int4_one_head": {"scheme": "absmax_int4", "h": 1, "d": 12},
        "llm_int8": {"scheme": "llm_int8", **SMALL},
        "llm_int8_outliers": {"scheme": "llm_int8", **OUTLIERS},
        "llm_int8_two_layers": {"scheme": "llm_int8", "b": 1, "n": 7},
        "llm_int8_codes": {"scheme": "llm_int8_codes", **SMALL},
        "llm_int8_codes_outliers": {"scheme": "llm_int8_codes", **OUTLIERS},
    },
    **SIZES,
)
def transformer_quantized(
    ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, scheme: str = "nf4", threshold: float = 6.0
) -> Tensor:
    return _with(ids, parameters, h, scheme, threshold)


give_work(transformer_quantized, jumps=True)


def _with(ids, parameters, h, scheme, threshold, matrices=MATRICES, weight_of=None, multiply=llm_int8):
    weight_of = weight_of or weights_in[scheme]
    position = torch.arange(ids.shape[1], device=ids.device)

    def times(x: Tensor, name: str, which: str) -> Tensor:
        weight, bias = parameters[f"{name}{which}.weight"], parameters.get(f"{name}{which}.bias", 0.0)
        if which not in matrices:
            return x @ weight.mT + bias
        if scheme in INT8:
            return multiply(x.flatten(0, 1), weight_of(weight), threshold=threshold)[0].unflatten(0, x.shape[:2]) + bias
        return x @ weight_of(weight).mT + bias

    x = parameters["embedding.weight"][ids]
    for i in range(layers(parameters)):
        name = f"blocks.{i}."
        y = norm(x, parameters, name + "norm1.")
        q, k, v = (split(times(y, name, f"mixer.{it}"), h) for it in "qkv")
        out = attention(rotary(q, position), rotary(k, position), v, visibility="causal")
        x = x + times(join(out), name, "mixer.o")
        x = x + times(gelu(times(norm(x, parameters, name + "norm2."), name, "up")), name, "down")
    return norm(x, parameters, "norm.") @ parameters["head.weight"].mT


def absmax(w: Tensor, levels: int = 7) -> Tensor:
    """A matrix as it comes back from codes -levels ... levels of each row."""
    top = w.abs().amax(-1, keepdim=True)
    scale = torch.where(top > 0, top, 1.0) / levels
    return torch.round(w / scale) * scale


def _normal_float(w: Tensor, double: bool) -> Tensor:
    return by_nf4.nf4(w, w, block=BLOCK, double=double)[2]  # of the outputs, what comes back of w


weights_in = {
    "nf4": lambda w: _normal_float(w, double=False),
    "nf4_double": lambda w: _normal_float(w, double=True),
    "absmax_int4": absmax,
    "llm_int8": lambda w: w,
    "llm_int8_codes": lambda w: absmax(w, 127),
}


_TWO_AXES = "a matrix has two axes: the last is axis 1"
_ZEROS = "it divides rows of zeros, and 0 / anything is code 0, which gives 0; no row is below zero"
_MISTAKES = "only mistakes leave a matrix as it is"
_LEVEL = (
    "it moves a weight by a code of 8 bits at most, 0.8 % of its row's largest: less than bfloat16's budget of a row of logits"
)
_SECOND = "8 bits of a magnitude that has its mean taken off are as good as bfloat16's"
EQUIVALENT = (
    {
        "absmax: w.abs().amax(-1, keepdim=True) -> w.abs().amax(1, keepdim=True)": _TWO_AXES,
        "weights_in: _normal_float(w, double=True) -> _normal_float(w, double=False), bfloat16": _SECOND,
        "weights_in: absmax(w, 127) -> absmax(w, 128), bfloat16": _LEVEL,
        "deviations of magnitudes are of the whole matrix, bfloat16": _SECOND,
        "weights of outlier features are as they were, bfloat16": _LEVEL,
        "weights of outlier features come back from their codes, bfloat16": _LEVEL,
    }
    | dict.fromkeys((f"absmax: top > 0 -> top {other}" for other in (">= 0", "> -1")), _ZEROS)
    | dict.fromkeys(
        (f"absmax: torch.where(top > 0, top, 1.0) -> torch.where(top > 0, top, {other})" for other in ("1.01", "-1.0")), _ZEROS
    )
    | dict.fromkeys((f"_with: x @ weight.mT -> {other}" for other in ("x * weight.mT", "x @ weight")), _MISTAKES)
    | {"_with: x @ weight.mT + bias -> x @ weight.mT - bias": _MISTAKES}
)


transformer_quantized.law(when=lambda case: case.n > 1 and case.scheme not in INT8)(the_future_is_invisible)
transformer_quantized.law(when=lambda case: case.scheme not in INT8)(a_batch_is_its_rows)


def _clear(x: Bunch, case: Case, rng: torch.Generator) -> dict[str, Tensor]:
    """Weights, and for LLM.int8() tokens, with everything that is rounded clear of where rounding jumps."""
    cleared = {name: _clear_weight(tensor, case) for name, tensor in x.items() if name.endswith(_quantized_names())}
    if case.scheme in INT8:
        parameters = {name: t.float().double() for name, t in {**x, **cleared}.items() if name != "ids"}
        for _ in range(200):
            ids = torch.randint(case.v, (case.b, case.n), generator=rng)
            if _nearest_tie(ids, parameters, case) > 3e-4:
                return cleared | {"ids": ids}
        raise ValueError("no tokens were found whose activations keep clear of ties")
    return cleared


def _quantized_names() -> tuple[str, ...]:
    return tuple(f"{matrix}.weight" for matrix in MATRICES)


def _clear_weight(w: Tensor, case: Case) -> Tensor:
    if case.scheme in INT8:
        return by_absmax.clear_of_ties(w, case.dtype)
    if case.scheme == "absmax_int4":
        w = w.to(case.dtype).double()
        scaled = 7 * w / w.abs().amax(-1, keepdim=True)
        return torch.where((scaled - scaled.floor() - 0.5).abs() < 0.05, scaled.floor() / scaled * w, w)
    return by_nf4.clear_of_halfway(w, case.resized({"block": BLOCK, "double": case.scheme == "nf4_double"}))


def _nearest_tie(ids: Tensor, parameters: dict[str, Tensor], case: Case) -> float:
    """How near to a tie, in codes, or to the threshold, any activation comes that is rounded."""
    least = [1.0]

    def watched(x: Tensor, w: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        outlier = (x.abs() >= threshold).any(0)
        _, scale = by_absmax.quantize(torch.where(outlier, 0.0, x))
        code = torch.where(outlier, 0.0, x) / scale
        least.append(float((code - code.floor() - 0.5).abs().min()))
        least.append(float((x.abs() - threshold).abs().min()))
        return llm_int8(x, w, threshold=threshold)

    _with(ids, parameters, case.h, case.scheme, case.threshold, multiply=watched)
    return min(least)


@transformer_quantized.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return _clear(x, case, rng)


@transformer_quantized.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Matrices three times as large, and further from nought."""
    larger = {name: 3 * x[name] + 0.1 for name in x if name.endswith(_quantized_names())}
    return larger | _clear(Bunch({**x, **larger}), case, rng)


def _sharp(x: Bunch, case: Case, rng: torch.Generator):
    changed = sharp(x, case, rng)
    return changed | _clear(Bunch({**x, **changed}), case, rng)


transformer_quantized.families["sharp"] = _sharp


def _mistake(name: str, **changes):
    @transformer_quantized.mistake(name)
    def _(ids, parameters, *, h, scheme, threshold):
        return _with(ids, parameters, h, scheme, threshold, **{key: value(scheme) for key, value in changes.items()})


def _of_4_bits(wrong):
    """Weights that a mistake gets wrong where it can be made: codes of 8 bits know neither blocks nor other levels."""
    return lambda scheme: weights_in[scheme] if scheme in INT8 else wrong(scheme)


def _instead(**other: str):
    """Weights as another scheme has them."""

    def weight_of(scheme: str):
        return weights_in[other.get(scheme, scheme)]

    return weight_of


_mistake("matrices are not quantized", weight_of=lambda scheme: lambda w: w, multiply=lambda scheme: _exact)
_mistake("the feed-forward part is not quantized", matrices=lambda scheme: MATRICES[:4])
_mistake("the last matrix is not quantized", matrices=lambda scheme: MATRICES[:-1])
_mistake("the projection of the heads is not quantized", matrices=lambda scheme: (*MATRICES[:3], *MATRICES[4:]))
_mistake(
    "scales are of the whole matrix", weight_of=_of_4_bits(lambda scheme: _of_the_whole), multiply=lambda scheme: _whole_int8
)
_mistake("blocks are of 32", weight_of=_of_4_bits(lambda scheme: _in_blocks_of_32(scheme)))
_mistake("magnitudes are quantized twice, or not at all", weight_of=_instead(nf4="nf4_double", nf4_double="nf4"))
_mistake("deviations of magnitudes are of the whole matrix", weight_of=lambda scheme: _with_one_deviation(scheme))
_mistake("there are 16 levels on either side", weight_of=_of_4_bits(lambda scheme: lambda w: absmax(w, 8)))
_mistake("outliers are rounded too", multiply=lambda scheme: lambda x, w, threshold: llm_int8(x, w, threshold=1e9))
_mistake("activations are not rounded", multiply=lambda scheme: _weights_only)
_mistake("outlier features are found in each text alone", multiply=lambda scheme: _text_by_text)
_mistake("weights of outlier features are as they were", weight_of=_instead(llm_int8_codes="llm_int8"))
_mistake("weights of outlier features come back from their codes", weight_of=_instead(llm_int8="llm_int8_codes"))


def _text_by_text(x, w, threshold):
    return torch.cat([llm_int8(text, w, threshold=threshold)[0] for text in x.split(OUTLIERS["n"])]), x


def _exact(x, w, threshold):
    return x @ w.mT, x


def _weights_only(x, w, threshold):
    code, scale = by_absmax.quantize(w)
    return x @ (code * scale).mT, x


def _of_the_whole(w):
    return absmax(w.flatten()[None]).view_as(w)


def _whole_int8(x, w, threshold):
    code, scale = by_absmax.quantize(x.flatten()[None])
    return llm_int8((code * scale).view_as(x), w, threshold=threshold)


def _in_blocks_of_32(scheme):
    double = scheme == "nf4_double"
    return lambda w: by_nf4.nf4(w, w, block=32, double=double)[2]


def _with_one_deviation(scheme):
    if scheme != "nf4_double":
        return weights_in[scheme]
    values = by_nf4.dynamic_map()

    def weight_of(w):
        magnitude = by_nf4.cut(w, BLOCK).abs().amax(-1, keepdim=True)
        mean = magnitude.mean()
        largest = (magnitude - mean).abs().max()
        kept = values[by_nf4.nearest((magnitude - mean) / largest, values)] * largest + mean
        return by_nf4.joined(by_nf4.cut(weights_in["nf4"](w), BLOCK) / magnitude * kept, w)

    return weight_of
