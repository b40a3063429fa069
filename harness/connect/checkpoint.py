"""A checkpoint folder of transformers as a language model of ours, also with other positions after training; nothing is fetched.

    load(FOLDER)                             as it is, in float32: its logits are those of transformers, bit by bit
    load(FOLDER, "interpolated:4")           positions divided by 4 (Chen et al. 2023, arXiv:2306.15595)
    load(FOLDER, "streaming:4")              a rolling cache that keeps the first 4 tokens; positions are places in the cache
                                             (StreamingLLM, Xiao et al. 2023, arXiv:2309.17453)
    load(FOLDER, "lm_infinite:4")            a Lambda-shaped mask with 4 first tokens and a ceiling of distance
                                             (LM-Infinite, Han et al. 2023, arXiv:2308.16137)

The last three are for models with rotary positions (Llama and its like), and mean what the specs `transformer_interpolated`,
`transformer_streaming` and `transformer_lm_infinite` define, with t, in tokens, the training length.

Each also goes token by token, `step(ids[b], state) -> (logits[b v], state)`: with the cache of transformers or, where it rolls,
with one of bounded size. Where steps would say other than the whole, they raise Unsupported.

A checkpoint has tokens of its own. Text is measured in bits per byte (`Text`, `per_byte`); probes whose symbols are numbers below
v get words that are one token each (`Symbols`).
"""

import copy
import hashlib
import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import Unsupported
from harness.cell import Cell

ROLLING = ("streaming", "lm_infinite")
AFTER = ("interpolated", *ROLLING)
ATTENTION = "harness_rolling"  # the name under which transformers knows `rolling_attention`
FEW = 32  # tokens that show what positions do
KEEPS = ("DynamicLayer", "DynamicSlidingWindowLayer")  # layers of a cache of transformers that leave the past as it was given


class Checkpoint(nn.Module):
    """A causal language model of transformers with its tokenizer: ids[b n]:int -> logits[b n v], float32.

    Raises Unsupported where there are more tokens than it has positions for. `length` is t, its training length in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int, rolling: "Rolling | None" = None):
        super().__init__()
        self.model, self.tokenizer, self.length, self.rolling = model, tokenizer, length, rolling
        self.ends = ends(model)

    def forward(self, ids: Tensor) -> Tensor:
        if self.ends is not None and ids.shape[1] > self.ends:
            raise Unsupported(f"its positions end at {self.ends}")
        if self.rolling is None:
            with self._reading(ids.shape[1]):
                # Some give float32 whatever they are asked in.
                return self.model(input_ids=ids, use_cache=False).logits.to(self.model.dtype)
        # At position 0 nothing is turned: queries and keys come to the attention as they are, which turns them itself.
        still = torch.zeros_like(ids[:1])
        return self.model(input_ids=ids, position_ids=still, attention_mask=torch.ones_like(ids), use_cache=False).logits

    def step(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """ids[b] and a state -> logits[b v] and the next state: how many tokens went by, and keys and values of each layer.

        The state that is given stays as it is. Unsupported where steps would not say what the whole says.
        """
        position, past = state or (0, None)
        if self.ends is not None and position >= self.ends:
            raise Unsupported(f"its positions end at {self.ends}")
        given: dict[str, Any] = {"input_ids": ids[:, None], "use_cache": True}
        if self.rolling is None:
            cache = empty_cache(self.model) if past is None else copy.copy(past)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
            with self._reading(position + 1):
                logits = self.model(**given, past_key_values=cache).logits[:, -1]
            if cache.get_seq_length() != position + 1:
                raise Unsupported(f"has no step form: {self.model.config.model_type} puts nothing into the cache of transformers")
            return logits, (position + 1, cache)
        rolls = RollingCache(self.rolling, position, past or ())
        alone = torch.ones_like(given["input_ids"])
        told = {"position_ids": torch.zeros_like(alone[:1]), "attention_mask": alone, "past_key_values": rolls}
        return self.model(**given, **told).logits[:, -1], (position + 1, tuple(rolls.kept))

    @contextmanager
    def _reading(self, tokens: int) -> Iterator[None]:
        """Unsupported, with what is said, where a model fails beyond its training length: biases may end there as tables do."""
        try:
            yield
        except RuntimeError as error:
            if tokens <= self.length or "memory" in str(error):
                raise
            raise Unsupported(f"cannot read more than {self.length} tokens: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class Rolling:
    """Attention to the last `window` keys, the own included, and to the first `sinks`; `frequencies`[d/2], float64.

    Where the window has left the sinks, a query stands at `ceiling` at most and sinks at their places, or all at 0.
    """

    kind: str
    window: int
    sinks: int
    ceiling: int
    frequencies: Tensor

    def sink_places(self) -> Tensor:
        """Where sinks stand once the window has left them."""
        return torch.arange(self.sinks) * (self.kind == "streaming")

    def far(self, place: Tensor) -> Tensor:
        """Where queries at place[n] stand to sinks that the window has left."""
        return place.clamp(max=self.ceiling) if self.kind == "streaming" else torch.full_like(place, self.ceiling)


class RollingCache:
    """Keys, not turned, and values of each layer, `past`, as one query at `position` sees them: the sinks and the window.

    It stands in for a cache of transformers. `update` gives keys turned to where they stand to a query at 0, its own included.
    """

    def __init__(self, how: Rolling, position: int, past: Sequence[tuple[Tensor, Tensor]]):
        self.how, self.position, self.past = how, position, past
        self.kept: list[tuple[Tensor, Tensor]] = []  # by layer, what the next query sees beside itself

    def get_seq_length(self, *of: Any) -> int:
        return self.position

    def update(self, key: Tensor, value: Tensor, layer: int, *told: Any) -> tuple[Tensor, Tensor]:
        """key[b g 1 d], value[b g 1 e] of a layer -> those of all that its query sees."""
        how = self.how
        if self.past:
            key, value = (torch.cat([old, new], 2) for old, new in zip(self.past[layer], (key, value), strict=True))
        n, sinks = key.shape[2], how.sinks
        kept = key, value
        if n == sinks + how.window:  # the next query no longer sees the first of the window
            key_left, value_left = (torch.cat([x[:, :, :sinks], x[:, :, sinks + 1 :]], 2) for x in kept)
            kept = key_left, value_left
        self.kept.append(kept)
        index = torch.arange(n, device=key.device)
        behind = torch.where(index < sinks, self.position - index, n - 1 - index)
        here = torch.tensor(self.position, device=key.device)
        to_sinks = (how.far(here) - how.sink_places().to(key.device))[:n]
        behind[:sinks] = torch.where(behind[:sinks] >= how.window, to_sinks, behind[:sinks])
        return turn(key, -behind, how), value


def load(folder: str | Path, after: str = "", length: int = 0, device: str = "cpu") -> Checkpoint:
    """The model and tokenizer in a folder, ready to be asked; `length` where the training length is not what the folder says.

    Raises Unsupported where the model has no such positions, tells no training length or cannot be asked, ValueError where
    `after` is not understood, OSError where the folder holds no checkpoint or lacks weights of it.
    """
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AttentionInterface.register(ATTENTION, rolling_attention)
    kind, _, number = after.partition(":")
    if after and (kind not in AFTER or not number.isdigit() or (kind == "interpolated" and int(number) < 1)):
        raise ValueError(f"after={after!r} is not understood.\n  known: interpolated:N, streaming:SINKS, lm_infinite:SINKS")
    _check_folder(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not (length := length or getattr(config, "max_position_embeddings", 0)):
        raise Unsupported(
            f"{config.model_type} tells no training length, by which contexts are measured:"
            " write it into its config.json as max_position_embeddings"
        )
    if after:
        _check_rotary(config)
    if kind == "interpolated":
        config.rope_parameters = {**config.rope_parameters, "rope_type": "linear", "factor": float(number)}
    told: dict[str, Any] = {"config": config, "dtype": torch.float32, "local_files_only": True}
    model, found = AutoModelForCausalLM.from_pretrained(folder, **told, output_loading_info=True, ignore_mismatched_sizes=True)
    _check_whole(folder, found["missing_keys"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise Unsupported(f"{folder} has no tokenizer that transformers reads") from error
    _check_weights(folder, model, [name for name, *_ in found["mismatched_keys"]], len(tokenizer))
    model = model.eval().to(device)
    if kind == "interpolated":
        _check_turning(model)
    if kind in ROLLING:
        return _rolling(Checkpoint(model, tokenizer, length), kind, int(number))
    return Checkpoint(model, tokenizer, length)


def ends(model: Any) -> int | None:
    """How many tokens a model has positions for, where these are a table: of learned rows, of sines, or a mask."""
    length = getattr(model.config, "max_position_embeddings", None)
    if not length or getattr(model.config, "rope_parameters", None):
        return None
    learned = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()]
    tables = [table for table in (*learned, *model.buffers()) if table.ndim > 1]
    return length if any(max(table.shape) >= length for table in tables) else None


def model_of(cell: Cell) -> dict[str, str]:
    """The checkpoint folder that a cell names, as what its case is told."""
    return {"model": cell.settings["model"]} if cell.settings.get("model") else {}


def digest(folder: str | Path) -> str:
    """sha256 of all files of a checkpoint folder: which model it was that answered. OSError where it holds none."""
    _check_folder(folder)
    total = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                total.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def _check_folder(folder: str | Path) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise OSError(f"{folder} is no checkpoint folder of transformers: it has no config.json")


def _check_whole(folder: str | Path, lacking: Collection[str]) -> None:
    """OSError where weights are lacking, which transformers would draw at random."""
    if lacking:
        first, more = sorted(lacking)[:3], len(lacking) - 3
        named = ", ".join(first) + (f" and {more} more" if more > 0 else "")
        raise OSError(f"{folder} lacks weights that its config asks for: {named}")


def _check_weights(folder: str | Path, model: Any, others: Sequence[str], tokens: int) -> None:
    """Unsupported where weights are of other shapes than the config says, are not finite, or are too few for the tokenizer."""
    if others:
        raise Unsupported(f"weights in {folder} have other shapes than its config says, the first of them {sorted(others)[0]}")
    if bad := next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None):
        raise Unsupported(f"weights in {folder} are not finite, the first of them {bad}")
    if (rows := model.get_input_embeddings().weight.shape[0]) < tokens:
        raise Unsupported(f"the tokenizer in {folder} has {tokens} tokens, its model embeddings of {rows}")


def _check_rotary(config: Any) -> None:
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") != "default" or rotary.get("partial_rotary_factor", 1.0) != 1.0:
        raise Unsupported(f"{config.model_type} has no plain rotary positions that could be told otherwise: {rotary or 'none'}")
    if getattr(config, "sliding_window", None):
        raise Unsupported(f"{config.model_type} has a sliding window of its own")


@torch.no_grad()
def _check_turning(model: Any) -> None:
    """Unsupported where positions are told in its config, but turn nothing."""
    ids = _some_tokens(model, FEW)
    place = torch.arange(FEW, device=ids.device)[None]
    one, other = (model(input_ids=ids, position_ids=at, use_cache=False).logits for at in (place, 2 * place))
    if torch.equal(one, other):
        raise Unsupported(f"{model.config.model_type} has no rotary positions: it says the same wherever its tokens stand")


@torch.no_grad()
def _rolling(plain: Checkpoint, kind: str, sinks: int) -> Checkpoint:
    """The same model with a rolling cache; Unsupported where it says otherwise than it did before anything has left the cache.

    So do models whose pairs are neighbours, that turn some layers alone, or whose attention has more to it."""
    model, length, named = plain.model, plain.length, plain.model.config.model_type
    window, ceiling = (length - sinks, length - 1) if kind == "streaming" else (length, length)
    if window < 1:
        raise ValueError(f"{sinks} sinks leave nothing of a cache of {length} tokens")
    ids = _some_tokens(model, min(FEW, length))
    before = plain(ids)
    try:
        frequencies = model.base_model.rotary_emb.inv_freq.double()
        model.set_attn_implementation(ATTENTION)
    except (AttributeError, LookupError, ValueError) as error:
        raise Unsupported(f"{named} takes no other attention or positions than its own") from error

    def rolled(how: Rolling) -> Checkpoint:
        model.config.rolling = how
        return Checkpoint(model, plain.tokenizer, length, how)

    how = Rolling(kind, window, sinks, ceiling, frequencies)
    if torch.equal(rolled(replace(how, window=1, sinks=0))(ids), before):
        raise Unsupported(f"{named} takes no other attention than its own: it says the same whatever is seen")
    if ((rolled(how)(ids) - before).norm() > 2**-12 * before.norm()).item():
        raise Unsupported(
            f"{named} does not turn or attend as Llama does: with a rolling cache that is not full it says otherwise"
        )
    return rolled(how)


def _some_tokens(model: Any, count: int) -> Tensor:
    """ids[1 count], of the tokens of a model."""
    return torch.arange(count, device=model.device)[None] * 7 % model.get_input_embeddings().weight.shape[0]


def empty_cache(model: Any) -> Any:
    """The cache of transformers for a model, empty; Unsupported where steps with it would say other than the whole."""
    from transformers import DynamicCache

    named = model.config.model_type
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise Unsupported(f"has no step form: {named} takes no past_key_values, the cache of transformers")
    rotary = getattr(model.config, "rope_parameters", None) or {}
    kinds = {of.get("rope_type") for of in (rotary, *rotary.values()) if isinstance(of, dict)}
    if told := kinds & {"dynamic", "longrope"}:
        raise Unsupported(f"has no step form: {told.pop()} rotary positions of {named} turn kept keys anew as the text grows")
    cache = DynamicCache(config=model.config)
    if others := {type(layer).__name__ for layer in cache.layers} - {*KEEPS}:
        raise Unsupported(f"has no step form here: {named} keeps its past in {', '.join(sorted(others))}")
    return cache


def rolling_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **told: Any
) -> tuple[Tensor, None]:
    """query[b h n d], key[b g n d], value[b g n e], not turned -> out[b n h e]; blocks of queries as long as the window."""
    how: Rolling = module.config.rolling
    n, groups = query.shape[2], query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if n == 1:  # a step, or a text of one token: whatever is given is seen, and keys come as they stand to this query
        return ((query @ key.mT * scaling).softmax(-1) @ value).transpose(1, 2), None
    place = torch.arange(n, device=query.device)
    near_query, near_key = turn(query, place, how), turn(key, place, how)
    # How a query that has left the sinks stands to them, and they to it.
    far_query = turn(query, how.far(place), how)
    first = min(how.sinks, n)
    far_sinks = turn(key[:, :, :first], how.sink_places()[:first].to(query.device), how)
    parts = []
    for start in range(0, n, how.window):
        own = slice(start, min(start + how.window, n))
        seen = slice(max(0, start - how.window + 1), own.stop)
        back = place[own, None] - place[seen]
        near = (near_query[:, :, own] @ near_key[:, :, seen].mT).masked_fill((back < 0) | (back >= how.window), -torch.inf)
        left = place[own, None] - place[:first] >= how.window
        far = (far_query[:, :, own] @ far_sinks.mT).masked_fill(~left, -torch.inf)
        weights = (torch.cat([far, near], -1) * scaling).softmax(-1)
        parts.append(weights[..., :first] @ value[:, :, :first] + weights[..., first:] @ value[:, :, seen])
    return torch.cat(parts, 2).transpose(1, 2), None


def turn(x: Tensor, place: Tensor, how: Rolling) -> Tensor:
    """x[b h n d] turned by its place[n], feature i with feature i + d/2, as Llama does; angles in float64."""
    angles = place[:, None] * how.frequencies.to(x.device)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    one, other = x.chunk(2, -1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


@dataclass(frozen=True)
class Text:
    """The tokens of a document, and how many of its bytes are told up to and including each."""

    ids: list[int]
    bytes_until: list[int]


def text(document: bytes, tokenizer: Any) -> Text:
    """A document of UTF-8 as tokens, without any that the tokenizer would add. Unsupported where they do not tell all."""
    read = document.decode()
    told = tokenizer(read, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    at = [0]  # bytes before each character
    for letter in read:
        at.append(at[-1] + len(letter.encode()))
    until = [at[stop] for _, stop in told["offset_mapping"]]
    if not until or until[-1] != len(document) or until != sorted(until):
        raise Unsupported("its tokenizer does not tell every byte of the text in its order, so its bits are of no bytes")
    return Text(told["input_ids"], until)


def per_byte(bits_per_token: Sequence[float], texts: Sequence[Text], ends: Sequence[tuple[int, int]], scored: int) -> list[float]:
    """Bits per byte of the last `scored` tokens of windows, from bits per token; (document, end) ends with token `end`."""
    found = []
    for bits, (document, end) in zip(bits_per_token, ends, strict=True):
        until = texts[document].bytes_until
        if (told := until[end] - until[end - scored]) == 0:
            raise ValueError("the scored tokens of a window tell no byte: score more of them")
        found.append(bits * scored / told)
    return found


class Symbols(nn.Module):
    """The model as one over v symbols, ids[b n]:int<v -> logits[b n v]: each symbol is a word that is one token.

    They are the first v words of the tokenizer's vocabulary, in the order of their ids, see `single_words`. Raises Unsupported
    where there are fewer.
    """

    def __init__(self, checkpoint: Checkpoint, v: int):
        super().__init__()
        self.checkpoint = checkpoint
        words = single_words(checkpoint.tokenizer)
        if len(words) < v:
            raise Unsupported(f"its tokenizer has {len(words)} words of one token, not {v}")
        self.register_buffer("tokens", torch.tensor(words[:v]), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.get_buffer("tokens")
        return self.checkpoint(tokens[ids])[..., tokens]

    def step(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        tokens = self.get_buffer("tokens")
        logits, state = self.checkpoint.step(tokens[ids], state)
        return logits[:, tokens], state


def single_words(tokenizer: Any) -> list[int]:
    """The ids of tokens that are a space and three ASCII letters or more, in order; of letters alone where there are no such."""
    texts = {i: tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids}
    spaced = [i for i, said in texts.items() if said[:1] == " " and len(said) > 3 and said[1:].isascii() and said[1:].isalpha()]
    return spaced or [i for i, said in texts.items() if said.isascii() and said.isalpha()]
