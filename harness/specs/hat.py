"""The Hierarchical Attention Transformer, an encoder (Chalkidis et al. 2022, arXiv:2210.05529, section 3).

A text is cut into segments, and before each stands a CLS. A segment-wise block (S) is a transformer block inside each segment. A
cross-segment block (D, for document) is one over the CLS of all segments, each with the position of its segment added, and what
it says stands in the place of each CLS. A layout says which block is which. The answer is made of the CLS of all segments.

Where the paper and its code (coastalcph/hierarchical-transformers, models/hat) disagree, or say nothing, this side is taken:
- The layout is a letter for each block, and begins anew where it ends: "SD" is the paper's I1, "SSD" its I3; its ad-hoc one (AH),
  which the README gives in two ways, is any that has its D at the end.
- The table of segment positions has g rows, one for all D blocks (the code ties them), and a segment t // g tokens: at length t
  the table is used up. There is nothing beyond it: more segments are not an input of this model. The code has one row more, for
  empty segments, of which there are none here: the last segment may be short, and holds no padding.
- Positions of segments are added to a copy of the CLS: other blocks know of them only what the D block writes back, its residual.
- CLS is a vector of its own, and no id names it; the code's tokenizer puts it in.
- The answer is the maximum over the CLS of all segments, feature by feature, after the last norm (the code's default; it has
  `first`, `last` and `attentive` too). The head is one matrix: a pooler (a matrix and a tanh before it) is left out.
- Tokens have rotary places, counted from 0 at their CLS, where the paper has a table; between CLS in a D block there are none.
- The skeleton of a block is the pre-norm one of `_decoder`, where the paper is post-norm: on equal terms with the others here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import PARAMETERS, SIZES, Mix, join, layers, linear, norm, split
from harness.specs._encoder import ONE_ANSWER, ROWS_OF_THE_BATCH, full_rotary, give_laws
from harness.specs._segments import as_it_is, blocks, causal_rotary, mistaken_mix, short_first
from harness.specs.attention import attention

CASES: dict[str, dict[str, Any]] = {
    "plain": {"n": 43},
    "one_token": {"n": 1},
    "one_segment": {"n": 16},  # as long as it can be
    "one_token_more": {"n": 17},
    "whole_table": {"n": 32, "t": 32},
    "many_segments": {"n": 35, "t": 40, "g": 20, "b": 1, "layout": "D", "l": 1},  # eighteen of them
    "long_segments": {"n": 149, "t": 210, "g": 3, "b": 1, "h": 2, "d": 8, "f": 8},  # rows beyond a tile
    "segments_of_one": {"n": 5, "t": 7, "g": 7},
    "three_and_one": {"n": 29, "t": 32, "layout": "SSD", "l": 5},  # the paper's I3; the layout begins anew
    "late": {"n": 19, "t": 27, "layout": "SSSDD", "l": 5, "b": 1},
    "two_across": {"n": 19, "t": 24, "layout": "SDDS", "l": 4, "b": 2},
    "never_across": {"n": 19, "t": 24, "layout": "S"},
    "across_first": {"n": 19, "t": 24, "layout": "DS", "l": 3},
    "one_head": {"n": 19, "t": 32, "h": 1, "d": 12},
    "wide_heads": {"n": 11, "t": 28, "h": 2, "d": 96},
}


@spec(ONE_ANSWER, parameters="segments.weight[g d], special.cls[d]," + PARAMETERS, cases=CASES, **SIZES, g=4)
def hat(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 64, layout: str = "SD") -> Tensor:
    size = t // len(parameters["segments.weight"])
    return _with(ids.split(size, 1), parameters, layout, full_rotary(h), across_segments(unplaced(h)))


def _with(segments: Sequence[Tensor], parameters, layout: str, within: Mix, across: Callable, answer=None):
    """Segments of ids[b s] -> logits[b v]; `across` changes the CLS, `answer` is made of what is said of each segment."""
    cls = parameters["special.cls"].expand(len(segments[0]), 1, -1)
    x = [torch.cat([cls, parameters["embedding.weight"][ids]], 1) for ids in segments]
    for i in range(layers(parameters)):
        alone = layout[i % len(layout)] == "S"
        x = [blocks(rows, parameters, [i], within) for rows in x] if alone else across(x, parameters, i)
    return linear((answer or largest)([norm(rows, parameters, "norm.") for rows in x]), "head", parameters)


def across_segments(mix: Mix) -> Callable:
    """The D block: its rows are the CLS of all segments, each with the position of its segment."""

    def across(x: Sequence[Tensor], parameters, i: int) -> list[Tensor]:
        said = blocks(cls_of(x) + parameters["segments.weight"][: len(x)], parameters, [i], mix)
        return written(x, said)

    return across


def cls_of(x: Sequence[Tensor]) -> Tensor:
    """Segments [b 1+s d] -> their CLS [b segments d]."""
    return torch.stack([rows[:, 0] for rows in x], 1)


def written(x: Sequence[Tensor], cls: Tensor) -> list[Tensor]:
    """The segments [b 1+s d] with these CLS [b segments d]."""
    return [torch.cat([cls[:, i : i + 1], rows[:, 1:]], 1) for i, rows in enumerate(x)]


def unplaced(h: int) -> Mix:
    """Attention of h heads from every row to every row, without any positions of its own."""

    def mix(x, project):
        return project(join(attention(*(split(project(x, name), h) for name in "qkv"))), "o")

    return mix


def largest(said: Sequence[Tensor]) -> Tensor:
    return cls_of(said).amax(1)


EQUIVALENT = ROWS_OF_THE_BATCH

give_laws(hat, lambda x: len(x["segments.weight"]))


@hat.work()
def _(case: Case) -> float:
    """The blocks within segments read every token; those across read one for each segment."""
    across = tuple(f"blocks.{i}." for i in range(case.l) if case.layout[i % len(case.layout)] == "D")
    return hat.products(case, lambda name: 0 if name.startswith((*across, "head.")) else case.n)


@hat.law(when=lambda case: case.n > 2 * (case.t // case.g))
def full_segments_may_change_places_with_their_positions(run, x: Bunch, rng):
    size = run.case.t // len(x["segments.weight"])
    full = x.ids.shape[1] // size
    order = rng.sample(range(full), full)
    places = x["segments.weight"].clone()
    places[:full] = places[order]
    ids = torch.cat([x.ids.split(size, 1)[i] for i in order] + [x.ids[:, full * size :]], 1)
    return run(x).logits, run(x, ids=ids, **{"segments.weight": places}).logits


@hat.law(when=lambda case: case.n > 2 * (case.t // case.g))
def segments_that_never_meet_are_a_set(run, x: Bunch, rng):
    """A segment that stands twice says no more than one, and none knows where it stands."""
    size = run.case.t // len(x["segments.weight"])
    first, second = x.ids.split(size, 1)[:2]
    once = run(x, ids=torch.cat([first, second], 1), layout="S").logits
    return once, run(x, ids=torch.cat([second, first, second], 1), layout="S").logits


@hat.law(when=lambda case: case.n <= (case.g - 1) * (case.t // case.g) and "D" in case.layout)
def positions_of_segments_that_are_not_there_have_no_gradient(run, x: Bunch, rng):
    table = x["segments.weight"]
    there = -(-x.ids.shape[1] // (run.case.t // len(table)))
    absent = run.gradients(x).get("segments.weight.grad", torch.zeros_like(table))[there:]
    return absent, torch.zeros_like(absent)


def _mistaken(
    name: str,
    cut=lambda ids, size: ids.split(size, 1),
    within=full_rotary,
    across=lambda h: across_segments(unplaced(h)),
    answer=None,
    layout=lambda letters: letters,
):
    """A mistake in how ids are cut, in what happens within segments or across them, in the answer, or in the layout."""

    def wrong(ids, parameters, *, h, t, **option):
        segments = cut(ids, t // len(parameters["segments.weight"]))
        return _with(segments, parameters, layout(option["layout"]), within(h), across(h), answer)

    hat.mistake(name)(wrong)


def _table(parameters, count, i):
    return parameters["segments.weight"][:count]


def _across(places=_table, cls=cls_of, back=lambda x, said, added: written(x, said), mix=unplaced):
    """A D block that differs in the positions added, in what stands for a segment, in what is written, or in what is seen."""

    def for_heads(h):
        def across(x, parameters, i):
            added = places(parameters, len(x), i)
            return back(x, blocks(cls(x) + added, parameters, [i], mix(h)), added)

        return across

    return for_heads


def _of_the_first_sixteen(h):
    def mix(x, project):
        q, k, v = (split(project(rows, name), h) for rows, name in zip((x, x[:, :16], x[:, :16]), "qkv", strict=True))
        return project(join(attention(q, k, v)), "o")

    return mix


def _everything_across(h):
    """A D block over all tokens of the text."""

    def across(x, parameters, i):
        sizes = [rows.shape[1] for rows in x]
        placed = written(x, cls_of(x) + parameters["segments.weight"][: len(x)])
        return blocks(torch.cat(placed, 1), parameters, [i], unplaced(h)).split(sizes, 1)

    return across


_mistaken("tokens see only what stands before them", within=causal_rotary)
_mistaken("places end with the 64th row", within=mistaken_mix(place=lambda n: torch.arange(n).clamp(max=63)))
_mistaken("tokens have no places", within=mistaken_mix(as_it_is))
_mistaken("a segment hears only those before it", across=_across(mix=lambda h: mistaken_mix(as_it_is, visibility="causal")(h)))
_mistaken("only the first sixteen segments are heard", across=_across(mix=_of_the_first_sixteen))
_mistaken("segments have rotary places too", across=_across(mix=mistaken_mix()))
_mistaken("segments have no positions", across=_across(places=lambda parameters, count, i: 0))
_mistaken("segments are counted from the last row", across=_across(places=lambda p, count, i: p["segments.weight"][-count:]))
_mistaken("segments are counted from one", across=_across(places=lambda p, count, i: p["segments.weight"].roll(-1, 0)[:count]))
_mistaken("every segment has the first position", across=_across(places=lambda p, count, i: p["segments.weight"][0]))
_mistaken(
    "only the first cross-segment block has positions", across=_across(places=lambda p, n, i: _table(p, n, i) if i < 2 else 0)
)
_mistaken("positions are taken away again", across=_across(back=lambda x, said, added: written(x, said - added)))
_mistaken("what is said across is added to the CLS", across=_across(back=lambda x, said, added: written(x, said + cls_of(x))))
_mistaken("what is said across is lost", across=_across(back=lambda x, said, added: x))
_mistaken("a segment is the mean of its rows", across=_across(cls=lambda x: torch.stack([rows.mean(1) for rows in x], 1)))
_mistaken("every token hears every segment", across=_everything_across)
_mistaken("the answer is read at the first segment", answer=lambda said: said[0][:, 0])
_mistaken("the answer is read at the last segment", answer=lambda said: said[-1][:, 0])
_mistaken("the answer is the mean over segments", answer=lambda said: cls_of(said).mean(1))
_mistaken("the answer is the maximum over all rows", answer=lambda said: torch.cat(list(said), 1).amax(1))
_mistaken("the layout begins at its end", layout=lambda letters: letters[::-1])
_mistaken("the layout does not begin anew", layout=lambda letters: letters + 99 * letters[-1])
_mistaken("the first segment is the short one", cut=short_first)
_mistaken("a segment counts its CLS as a token", cut=lambda ids, size: ids.split(max(1, size - 1), 1))


@hat.mistake("a segment is as long as it must be for t to fit into the table")
def _(ids, parameters, *, h, t, layout):
    size = -(-t // len(parameters["segments.weight"]))
    return _with(ids.split(size, 1), parameters, layout, full_rotary(h), across_segments(unplaced(h)))
