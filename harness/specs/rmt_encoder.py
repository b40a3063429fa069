"""The Recurrent Memory Transformer around an encoder (Bulatov et al. 2023, arXiv:2304.11062, section 3; 2022, arXiv:2207.06881).

The text is cut into segments. Each is read as [CLS, m memory vectors, SEP, segment, SEP], every row sees every row, and what the
last layer says at the memory's rows is the memory of the next segment; the first segment has learned vectors. What the
last segment says at its CLS is the answer.

Where the papers and their code (booydar/recurrent-memory-transformer) disagree, or say nothing, this side is taken:
- A segment has t // 4 tokens, as in `rmt`, its decoder: CLS, memory and SEP come on top of them.
- The segments are full from the right, the first one is short (the code's default for encoders): the question, which stands last,
  is read with as much text around it as there can be.
- The answer is read at the CLS of the last segment alone, as the code's classifier reads it; its `sum_loss` asks all segments,
  and takes the mean. The head is one matrix: BERT's pooler (a matrix and a tanh before it) is left out, and so are token types.
- Memory is handed on after the last norm, and one block of it is both read and written: every row sees every row.
- In the code, memory, CLS and SEP are rows of the embedding table; here they are vectors of their own, and no id names them.
- Positions are those of the rows put together, anew in each segment. They are rotary here, as in `rmt`, where BERT has a table.
- Gradients pass every hand-over: the code's encoder refuses anything else.
- The skeleton is the pre-norm one of `_decoder`, as in `rmt`, where BERT is post-norm: both are asked on equal terms.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.spec import Bunch, spec
from harness.specs._decoder import PARAMETERS, SIZES, Mix, layers, linear, norm
from harness.specs._encoder import ONE_ANSWER, ROWS_OF_THE_BATCH, full_rotary, give_laws
from harness.specs._segments import as_it_is, blocks, causal_rotary, mistaken_mix, short_first

CASES = {
    "plain": {"n": 43},
    "one_token": {"n": 1},
    "one_segment": {"n": 8, "t": 32},  # as long as it can be
    "one_token_more": {"n": 9, "t": 32},
    "full_segments": {"n": 24, "t": 32},
    "segments_of_one": {"n": 5, "t": 4},
    "many_segments": {"n": 25, "t": 15, "b": 1, "l": 1},  # nine of them
    "long_segments": {"n": 139, "t": 280, "b": 1, "h": 2, "d": 8, "f": 8, "l": 1},  # rows beyond a tile
    "one_memory": {"n": 19, "t": 32, "m": 1},
    "more_memory_than_tokens": {"n": 11, "t": 16, "m": 7, "l": 1},
    "six_layers": {"n": 11, "l": 6, "b": 1, "h": 2, "d": 8, "f": 8},  # every fourth, or every sixth, is of another kind
    "one_head": {"n": 19, "t": 32, "h": 1, "d": 12},
    "wide_heads": {"n": 11, "t": 28, "h": 2, "d": 96, "l": 1},
}


@spec(ONE_ANSWER, parameters="memory.weight[m d], special.cls[d], special.sep[d]," + PARAMETERS, cases=CASES, **SIZES, m=5)
def rmt_encoder(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 64) -> Tensor:
    return _with(short_first(ids, t // 4), parameters, full_rotary(h))


def _with(segments: Sequence[Tensor], parameters, mix, read=None, answer=lambda said: said[-1]):
    """Segments of ids[b s] -> logits[b v]; `answer` is made of what is said at the CLS of each."""
    memory, said = parameters["memory.weight"].expand(len(segments[0]), -1, -1), []
    for ids in segments:
        at_cls, memory = (read or at_memory)(ids, memory, parameters, mix)
        said.append(at_cls)
    return linear(answer(said), "head", parameters)


def at_memory(ids: Tensor, memory: Tensor, parameters, mix: Mix) -> tuple[Tensor, Tensor]:
    """ids[b s], memory[b m d] -> what is said at the CLS [b d], the memory of the next segment [b m d]."""
    x = norm(assembled(ids, memory, parameters, mix), parameters, "norm.")
    return x[:, 0], x[:, 1 : 1 + memory.shape[1]]


def assembled(ids: Tensor, memory: Tensor, parameters, mix: Mix) -> Tensor:
    """What the last block says of CLS, memory[b m d], SEP, ids[b s] and SEP: [b 1+m+1+s+1 d]."""
    cls, sep = (parameters[f"special.{name}"].expand(len(ids), 1, -1) for name in ("cls", "sep"))
    x = torch.cat([cls, memory, sep, parameters["embedding.weight"][ids], sep], 1)
    return blocks(x, parameters, range(layers(parameters)), mix)


EQUIVALENT = ROWS_OF_THE_BATCH

give_laws(rmt_encoder, lambda x: 4)


@rmt_encoder.law(when=lambda case: case.n > 1)
def without_memory_the_last_segment_alone_answers(run, x: Bunch, rng):
    size = rng.randrange(1, x.ids.shape[1])
    nothing = {"memory.weight": x["memory.weight"][:0]}
    alone = run(x, ids=x.ids[:, -size:], t=4 * size, m=0, **nothing)
    return run(x, t=4 * size, m=0, **nothing).logits, alone.logits


@rmt_encoder.law(when=lambda case: case.n > case.t // 4)
def the_answer_hears_the_first_token(run, x: Bunch, rng):
    """Through memory alone, where no token of the first segment is seen: in how many rows of the batch any logit differs."""
    other = (x.ids + 1) % x["embedding.weight"].shape[0]
    first = torch.arange(x.ids.shape[1]) == 0
    heard = (run(x).logits != run(x, ids=torch.where(first, other, x.ids)).logits).any(-1).double()
    return heard, torch.ones_like(heard)


def _mistaken(name: str, cut=short_first, mix=full_rotary, read=None, answer=lambda said: said[-1]):
    """A mistake in how the ids are cut, in how rows are mixed, in how a segment is read, or in what the answer is made of."""
    rmt_encoder.mistake(name)(lambda ids, parameters, *, h, t: _with(cut(ids, t // 4), parameters, mix(h), read, answer))


def _reads(memory_of_next=None, rows=None, cls=0):
    """`at_memory`, where memory is handed on otherwise, the rows stand otherwise, or the answer stands at another one."""

    def read(ids, memory, parameters, mix):
        x = (rows or assembled)(ids, memory, parameters, mix)
        said = norm(x, parameters, "norm.")
        after = said[:, 1 : 1 + memory.shape[1]]
        return said[:, cls], memory_of_next(memory, after, x, parameters) if memory_of_next else after

    return read


def _learned(memory, after, x, parameters):
    return parameters["memory.weight"].expand_as(memory)


def _before_the_norm(memory, after, x, parameters):
    return x[:, 1 : 1 + memory.shape[1]]


def _one_sep(first: bool):
    """Rows in which one of the two SEP is missing."""

    def rows(ids, memory, parameters, mix):
        cls, sep = (parameters[f"special.{name}"].expand(len(ids), 1, -1) for name in ("cls", "sep"))
        tokens = parameters["embedding.weight"][ids]
        x = torch.cat([cls, memory, sep, tokens] if first else [cls, memory, tokens, sep], 1)
        return blocks(x, parameters, range(layers(parameters)), mix)

    return rows


def _memory_is_unplaced(n):
    """The places of CLS, SEP and tokens alone, for five memory vectors after CLS."""
    return torch.cat([torch.zeros(min(n, 6), dtype=torch.int64), torch.arange(1, max(1, n - 5))])[:n]


def _causal_in_every(count):
    """In one layer of so many rows see only what stands before them."""

    def for_heads(h):
        def mix(x, project):
            layer = int(project.keywords["name"].split(".")[1])
            return (full_rotary if (layer + 1) % count else causal_rotary)(h)(x, project)

        return mix

    return for_heads


_mistaken("rows see only what stands before them", mix=causal_rotary)
_mistaken("rows of every fourth layer see only what stands before them", mix=_causal_in_every(4))
_mistaken("rows of every sixth layer see only what stands before them", mix=_causal_in_every(6))
_mistaken("places end with the 64th row", mix=mistaken_mix(place=lambda n: torch.arange(n).clamp(max=63)))
_mistaken("rows have no positions", mix=mistaken_mix(as_it_is))
_mistaken("memory has no places of its own", mix=mistaken_mix(place=_memory_is_unplaced))
_mistaken("each segment begins with the learned memory", read=_reads(_learned))
_mistaken("memory is handed on before the last norm", read=_reads(_before_the_norm))
_mistaken("what is written is added to the memory", read=_reads(lambda memory, after, *_: memory + after))
_mistaken("the gradient stops at each hand-over", read=_reads(lambda memory, after, *_: after.detach()))
_mistaken("no SEP after the memory", read=_reads(rows=_one_sep(first=False)))
_mistaken("no SEP after the segment", read=_reads(rows=_one_sep(first=True)))
_mistaken("the answer is read at the first memory vector", read=_reads(cls=1))
_mistaken("the answer is read at the last SEP", read=_reads(cls=-1))
_mistaken("the answer is read after the first segment", answer=lambda said: said[0])
_mistaken("the answer is the mean over segments", answer=lambda said: torch.stack(said).mean(0))
_mistaken("the last segment is the short one", cut=lambda ids, size: ids.split(size, 1))
_mistaken("only the last eight segments are read", cut=lambda ids, size: short_first(ids, size)[-8:])
_mistaken("segments are one token too long", cut=lambda ids, size: short_first(ids, size + 1))
_mistaken("a segment counts memory, CLS and SEP as its tokens", cut=lambda ids, size: short_first(ids, max(1, size - 8)))


@rmt_encoder.mistake("a segment is a quarter of t, rounded")
def _(ids, parameters, *, h, t):
    return _with(short_first(ids, round(t / 4)), parameters, full_rotary(h))
