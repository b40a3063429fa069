"""On what terms language models enter the suites that train: whose weights they take, at which sizes, from which first values.

A model that is another one's afterwards (other positions, other visibility, other weights in memory) says in its file whose
weights it takes, `weights_of = "SPEC/IMPLEMENTATION"`: that one is trained, or taken as it was trained, and what differs between
the two rows is theirs. A variant may name `options` of the spec.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from harness import catalogue, judge
from harness.cell import Answer, Cell
from harness.connect import checkpoint
from harness.implementation import Implementation, check_compiled
from harness.spec import Case

STEP = 8  # the width f of the feed-forward part is a multiple of this


def giver_of(cell: Cell) -> Cell:
    """The cell whose weights the model of this cell takes: its own, or another's."""
    facts = catalogue.implementation(cell.spec, cell.implementation).facts
    spec, _, name = facts.get("weights_of", "").partition("/")
    return replace(cell, spec=spec, implementation=name, variant="") if spec else cell


def admitted(cell: Cell, contestant: Implementation, progress: Callable[[float, str], None]) -> Answer:
    """Whether the model of a cell is that of its spec, before anybody trains it. Unsupported where it cannot be trained here."""
    check_compiled(cell)
    torch.set_flush_denormal(True)
    progress(0.0, "checked against its reference")
    return judge.whole(contestant, options_of(cell) | checkpoint.model_of(cell), cell.seed, cell.device)


def digests(cell: Cell) -> dict[str, str]:
    """The code of the model whose weights it takes, where these are another's, and the checkpoint that it asks, if it does."""
    giver, asked = giver_of(cell), {name: checkpoint.digest(folder) for name, folder in checkpoint.model_of(cell).items()}
    if giver == cell:
        return asked
    return {"weights_of": catalogue.digest(catalogue.implementation(giver.spec, giver.implementation).path), **asked}


def variant_of(cell: Cell) -> Mapping[str, Any]:
    """What the implementation of a cell says of its variant."""
    return catalogue.implementation(cell.spec, cell.implementation).facts.get("variants", {}).get(cell.variant, {})


def options_of(cell: Cell) -> dict[str, Any]:
    """The options of the spec that the variant of a cell names."""
    return dict(variant_of(cell).get("options", {}))


def sizes_of(cell: Cell, contestant: Implementation, sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """The sizes, and f, the width of the feed-forward part, that brings the model nearest to the parameters wanted."""
    plain = contestant.spec.case("plain", torch.float32, cell.device)

    def parameters(f: int) -> int:
        return sum(p.numel() for p in contestant.prepare(plain.resized({**sizes, "f": f})).parameters())

    return {**sizes, "f": width(parameters, wanted) or STEP}


def width(parameters: Callable[[int], int], wanted: int) -> int:
    """The multiple f of STEP at which `parameters(f)`, a straight line, is nearest to those wanted; 0 where it hangs on no f."""
    few, many = parameters(STEP), parameters(2 * STEP)
    return STEP * max(1, round(1 + (wanted - few) / (many - few))) if many > few else 0


def fresh(cell: Cell, case: Case, seed: int) -> nn.Module:
    """A new model with the first values of this seed: an implementation that was asked before would give the model of then."""
    torch.manual_seed(seed)
    return Implementation.of(cell).prepare(case).to(cell.device)
