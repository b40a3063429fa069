"""A trained model as one file: its name, sizes and weights, to be loaded anywhere without the suite that trained it.

    python -m harness.connect.exported FILE.pt suite=long-context spec=transformer_rope impl=torch_sdpa

takes the weights that the suite keeps, and trains them where it keeps none. A suite whose models can be had like this has a
module `training` with `trained(cell, contestant, report)`, whose answer has a `model`, its `sizes` and what is `told` of it.
"""

import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import catalogue, plan, request, terms, weights
from harness.cell import Cell
from harness.implementation import Implementation

Report = Callable[[float, str], None]
BYTES = 256


@dataclass(frozen=True)
class Model:
    """A language model, ids[b n]:int -> logits[b n v], and what is to be said of where its weights come from."""

    module: nn.Module
    name: str
    told: Mapping[str, Any]


def export(path: str | Path, words: Mapping[str, Any], report: Report) -> Cell:
    """Write the model of the one cell that `words` choose, as `harness run` takes them; returns that cell.

    WrongRequest where they choose none or several, or where the suite has no trained models.
    """
    chosen, suite = plan.selection(words)
    if not hasattr(training := getattr(suite, "training", None), "trained"):
        raise plan.WrongRequest(f"suite={chosen.words['suite']} has no trained language models to export")
    cells = plan.cells(chosen, suite)
    if len(cells) > 1:
        some = ", ".join(f"{cell.subject} {cell.case} seed={cell.seed}" for cell in cells[:3])
        raise plan.WrongRequest(
            f"a file holds one model, but this chooses {len(cells)}, such as {some}.\n  Say spec= impl= variant="
        )
    cell = cells[0]
    done = training.trained(cell, Implementation.of(cell), report)  # type: ignore[union-attr]
    named = {"spec": cell.spec, "implementation": cell.implementation, "variant": cell.variant}
    torch.save({**named, "sizes": dict(done.sizes), "weights": done.model.state_dict(), "told": dict(done.told)}, path)
    return cell


def load(path: str | Path, device: str = "cpu") -> Model:
    """The model that was exported to a file, in float32 and ready to be asked. WrongRequest where the file is no such export.

    What hinders reading it, such as a lack of memory or of the right to, is raised as it is.
    """
    try:
        kept = torch.load(path, map_location=device, weights_only=True) if weights.whole(Path(path)) else None
    except (RuntimeError, pickle.UnpicklingError) as error:
        if "memory" in str(error):
            raise
        kept = None
    if not isinstance(kept, dict) or not {"spec", "implementation", "variant", "sizes", "weights", "told"} <= set(kept):
        raise plan.WrongRequest(
            f"{path} is {'no exported model' if Path(path).is_file() else 'no file'}.\n"
            "  Make one: python -m harness.connect.exported FILE.pt suite=long-context spec=... impl=..."
        )
    cell = Cell("", kept["spec"], kept["implementation"], kept["variant"], device=device)
    module = _made(cell, kept["sizes"])
    module.load_state_dict(kept["weights"])
    return Model(module.eval(), cell.subject, kept["told"])


def untrained(spec: str, implementation: str, variant: str, sizes: Mapping[str, int], seed: int, device: str = "cpu") -> Model:
    """A byte-level model with the first values of a seed; sizes that are not given are those of the case `plain`."""
    torch.manual_seed(seed)
    cell = Cell("", spec, implementation, variant, device=device)
    known = catalogue.load_spec(spec).case("plain").values
    if unknown := sorted(set(sizes) - set(known)):
        raise ValueError(f"{spec} has no size {', '.join(unknown)}.{catalogue.suggestion(unknown[0], known)}")
    return Model(_made(cell, {"v": BYTES, **sizes}).eval(), cell.subject, {"weights": f"untrained, seed {seed}"})


def _made(cell: Cell, sizes: Mapping[str, Any]) -> nn.Module:
    contestant = Implementation.of(cell)
    case = contestant.spec.case("plain", torch.float32, cell.device)
    return contestant.prepare(case.resized({**terms.options_of(cell), **sizes})).to(cell.device)


def main(words: list[str]) -> None:
    """Write the file that the first word names."""
    path, settings = Path(words[0]), request.read(words[1:])

    def report(share: float, doing: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{share:4.0%} {doing:<60.60}", end="", file=sys.stderr)

    cell = export(path, settings, report)
    print(f"{path}: {cell.subject}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in word for word in sys.argv[2:]):
        sys.exit(__doc__)
    try:
        main(sys.argv[1:])
    except (plan.WrongRequest, catalogue.NotFound) as error:
        sys.exit(f"harness: {error}")
