"""The Recurrent Memory Transformer around a decoder (Bulatov et al. 2022, arXiv:2207.06881, section 3.2; 2023, arXiv:2304.11062).

The input is cut into segments. Each is read between two copies of m memory vectors: [memory, segment, memory]. What the
last layer says at the second copy is the memory of the next segment; the first segment has learned vectors.

Where the papers and their code (booydar/recurrent-memory-transformer) disagree, or say nothing, this side is taken:
- A segment has t // 4 tokens, for a model that is trained at length t: it learns from four segments, three hand-overs.
- The segments are full from the left, the last one is short (the code's default for decoders; encoders have the first one
  short, which no decoder can: where a segment begins would hang on how much is still to come).
- All rows of a segment see what stands before them, memory too: the one causal mask of the decoder, as in the code.
- Both copies are the same vectors. Memory is handed on after the last norm: the last hidden state, as the code's GPT-2 gives it.
- Positions are the decoder's, over memory and tokens together, anew in each segment. They are rotary here, those of
  `transformer_rope`: only distances count, and the memory that is read stands next to the segment's first token.
- With a `reach` of k the gradient of each segment's logits passes at most k hand-overs; without one, all. The released
  code means its `k2` otherwise: it never cuts after the first segment, nor after the last ones; an older branch never cuts.
- The skeleton of each segment is `_decoder`. Memory is no token: it has no logits, and no type embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.spec import Bunch, spec
from harness.specs._decoder import CONTRACT, PARAMETERS, SIZES, Mix, give_laws, layers, linear, norm
from harness.specs._segments import as_it_is, blocks, causal_rotary, mistaken_mix, short_first

CASES = {
    "plain": {"n": 43},
    "one_token": {"n": 1},
    "one_segment": {"n": 8, "t": 32},  # as long as it can be
    "one_token_more": {"n": 9, "t": 32},
    "segments_of_one": {"n": 5, "t": 4},
    "many_segments": {"n": 53, "t": 21, "b": 1, "l": 1},
    "one_memory": {"n": 19, "t": 32, "m": 1},
    "more_memory_than_tokens": {"n": 11, "t": 16, "m": 7},
    "three_layers": {"n": 11, "t": 32, "l": 3, "b": 1},
    "one_head": {"n": 19, "t": 32, "h": 1, "d": 12},
    "wide_heads": {"n": 11, "t": 28, "h": 2, "d": 96, "l": 1},
    "no_reach": {"n": 11, "t": 16, "reach": 0},  # gradients that pass hand-overs
    "reach_of_one": {"n": 13, "t": 16, "reach": 1, "l": 1},
    "further_than_the_input": {"n": 11, "t": 16, "reach": 2, "b": 1},
    "reach_of_two": {"n": 17, "t": 19, "reach": 2, "b": 1, "l": 1},  # two segments are read again; t is no multiple of 4
}


@spec(CONTRACT, parameters="memory.weight[m d]," + PARAMETERS, cases=CASES, **SIZES, m=5)
def rmt(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 64, reach: int | None = None) -> Tensor:
    return _with(ids.split(t // 4, 1), parameters, reach, causal_rotary(h))


def _with(segments: Sequence[Tensor], parameters, reach, mix, read=None):
    """Segments of ids[b s] -> logits[b n v]."""
    read = read or between_memories
    handed_on = [parameters["memory.weight"].expand(len(segments[0]), -1, -1)]
    logits = []
    for i, segment in enumerate(segments):
        memory = handed_on[i]
        said, written = read(segment, memory, parameters, mix)
        handed_on.append(written)
        if reach is not None and i > reach:
            memory = handed_on[i - reach].detach()
            for earlier in segments[i - reach : i]:
                _, memory = read(earlier, memory, parameters, mix)
            said, _ = read(segment, memory, parameters, mix)
        logits.append(said)
    return torch.cat(logits, 1)


def between_memories(ids: Tensor, memory: Tensor, parameters, mix: Mix) -> tuple[Tensor, Tensor]:
    """ids[b s], memory[b m d] -> logits[b s v], the memory of the next segment [b m d]."""
    x = norm(assembled(ids, memory, memory, parameters, mix), parameters, "norm.")
    _, tokens, written = x.split([memory.shape[1], ids.shape[1], memory.shape[1]], 1)
    return linear(tokens, "head", parameters), written


def assembled(ids: Tensor, memory: Tensor, copy: Tensor, parameters, mix: Mix) -> Tensor:
    """What the last block says of memory[b m d], ids[b s] and a copy of the memory: [b m+s+m d]."""
    x = torch.cat([memory, parameters["embedding.weight"][ids], copy], 1)
    return blocks(x, parameters, range(layers(parameters)), mix)


EQUIVALENT = {"_with: segments[0] -> segments[-1]": "every segment has the rows of the batch, and only those are counted"}

give_laws(rmt)


@rmt.law
def what_fits_into_one_segment_does_not_know_how_long_it_could_be(run, x: Bunch, rng):
    n = x.ids.shape[1]
    return run(x, t=4 * n).logits, run(x, t=4 * n + rng.randrange(4, 40)).logits


@rmt.law(when=lambda case: case.n > case.t // 4)
def without_memory_segments_are_strangers(run, x: Bunch, rng):
    size = rng.randrange(1, x.ids.shape[1])
    nothing = {"memory.weight": x["memory.weight"][:0]}
    alone = [run(x, ids=ids, t=4 * size, m=0, **nothing).logits for ids in x.ids.split(size, 1)]
    return run(x, t=4 * size, m=0, **nothing).logits, torch.cat(alone, 1)


@rmt.law(when=lambda case: case.n > case.t // 4)
def every_segment_hears_the_first_token(run, x: Bunch, rng):
    """Through memory alone, where no token of the first segment is seen: in how many rows any logit differs."""
    other = (x.ids + 1) % x["embedding.weight"].shape[0]
    first = torch.arange(x.ids.shape[1]) == 0
    heard = (run(x).logits != run(x, ids=torch.where(first, other, x.ids)).logits).any(-1).double()
    return heard, torch.ones_like(heard)


@rmt.law(when=lambda case: case.reach is not None and case.n > (case.reach + 1) * (case.t // 4))
def gradients_pass_no_more_hand_overs_than_the_reach(run, x: Bunch, rng):
    """Tokens too far before the last segment are of the lower half of the vocabulary, the others of the upper one."""
    segment = torch.arange(x.ids.shape[1]) // (run.case.t // 4)
    last = segment == segment[-1]
    half = len(x["embedding.weight"]) // 2
    ids = torch.where(segment < segment[-1] - run.case.reach, x.ids % half, half + x.ids % half)
    answer = run.gradients(x, ids=ids, **{"logits.grad": torch.where(last[:, None], x["logits.grad"], 0)})
    far = answer.get("embedding.weight.grad", torch.zeros_like(x["embedding.weight"]))[:half]
    return far, torch.zeros_like(far)


def _mistaken(
    name: str, segments=lambda ids, size: ids.split(size, 1), mix=causal_rotary, reached=lambda reach: reach, read=None
):
    """A mistake in how the ids are cut, in how rows are mixed, in what passes gradients, or in how a segment is read."""
    rmt.mistake(name)(
        lambda ids, parameters, *, h, t, reach: _with(segments(ids, t // 4), parameters, reached(reach), mix(h), read)
    )


def _from_the_start(ids, memory, parameters, mix):
    return between_memories(ids, _learned(ids, parameters), parameters, mix)


def _learned(ids, parameters):
    return parameters["memory.weight"].expand(len(ids), -1, -1)


def _writes_over_the_start(ids, memory, parameters, mix):
    said, _ = between_memories(ids, memory, parameters, mix)
    x = assembled(ids, memory, _learned(ids, parameters), parameters, mix)
    return said, norm(x, parameters, "norm.")[:, -memory.shape[1] :]


def _hands_on_what_was_read(ids, memory, parameters, mix):
    said, _ = between_memories(ids, memory, parameters, mix)
    return said, norm(assembled(ids, memory, memory, parameters, mix), parameters, "norm.")[:, : memory.shape[1]]


def _hands_on_before_the_norm(ids, memory, parameters, mix):
    said, _ = between_memories(ids, memory, parameters, mix)
    return said, assembled(ids, memory, memory, parameters, mix)[:, -memory.shape[1] :]


def _adds_to_the_memory(ids, memory, parameters, mix):
    said, written = between_memories(ids, memory, parameters, mix)
    return said, memory + written


def _writes_one_token_early(ids, memory, parameters, mix):
    said, _ = between_memories(ids, memory, parameters, mix)
    _, written = between_memories(ids[:, :-1], memory, parameters, mix)
    return said, written


def _memory_is_unplaced(n):
    """The places of tokens alone, for five memory vectors on either side."""
    return (torch.arange(n) - 5).clamp(0, n - 11)


_mistaken("sees the future within a segment", mix=mistaken_mix())
_mistaken("rows have no positions", mix=mistaken_mix(as_it_is, visibility="causal"))
_mistaken("memory has no places of its own", mix=mistaken_mix(place=_memory_is_unplaced, visibility="causal"))
_mistaken("each segment begins with the learned memory", read=_from_the_start)
_mistaken("the copy to be written is the learned memory", read=_writes_over_the_start)
_mistaken("what is handed on stands where memory was read", read=_hands_on_what_was_read)
_mistaken("memory is handed on before the last norm", read=_hands_on_before_the_norm)
_mistaken("what is written is added to the memory", read=_adds_to_the_memory)
_mistaken("memory does not hear the last token of a segment", read=_writes_one_token_early)
_mistaken("the first segment is the short one", segments=short_first)
_mistaken("segments are one token too long", segments=lambda ids, size: ids.split(size + 1, 1))
_mistaken("a segment counts the memory as its tokens", segments=lambda ids, size: ids.split(max(1, size - 10), 1))
_mistaken("the gradient stops at each hand-over", reached=lambda reach: 0)
_mistaken("the gradient passes every hand-over", reached=lambda reach: None)
_mistaken("the gradient passes one hand-over too many", reached=lambda reach: None if reach is None else reach + 1)


@rmt.mistake("a segment is a quarter of t, rounded")
def _(ids, parameters, *, h, t, reach):
    return _with(ids.split(round(t / 4), 1), parameters, reach, causal_rotary(h))
