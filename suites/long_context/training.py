"""Training on equal terms: the same data, tokens and schedule for all, the learning rate found for each by the same small search.

What models take from one another is said in `harness.terms`; a variant that says `fine_tuned` goes on learning for a few steps,
at the longest context measured.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import catalogue, terms, text, weights
from harness.cell import Cell
from harness.implementation import Implementation
from harness.nn import train
from harness.spec import Case, Spec
from harness.watched import Reference, Watched

from . import bits_per_byte, recall
from .scales import longest, scale_of, text_of

Report = Callable[[float, str], None]
# The search: each rate is tried for this share of the steps, from the same first values, on nine tenths of every document for
# training, and judged on the last tenths, which no table is measured on.
TUNING_SHARE, TUNING_PART, TUNING_SEED, TUNING_WINDOWS = 0.2, 0.1, 0, 32
# Files that decide what training gives, by their own bytes alone.
TERMS = (Path(__file__), catalogue.PACKAGE / "terms.py")
# A fine-tune: this share of the bytes of training, at a tenth of its learning rate.
FINE_TUNE_SHARE, FINE_TUNE_RATE = 0.05, 0.1


@dataclass(frozen=True)
class Trained:
    """A model with its trained weights, and what is to be said of its training."""

    model: nn.Module
    told: dict[str, Any]
    sizes: dict[str, int]
    weights: Mapping[str, Tensor]  # that it was given: a module may keep them otherwise

    def watched(self, spec: Spec, device: str) -> Watched:
        """How it is asked, held against its spec."""
        case = spec.case("plain", torch.float32, device).resized(self.sizes)
        return Watched(self.model, device, Reference(spec, case, self.weights))


def trained(cell: Cell, contestant: Implementation, report: Report) -> Trained:
    """The model that a cell names, trained or with the weights that it says it takes. Its parameters are float32."""
    scale, corpus, giver = scale_of(cell), text_of(cell), terms.giver_of(cell)
    if giver == cell:
        return _from_scratch(cell, contestant, scale, corpus, report)
    first = _from_scratch(giver, Implementation.of(giver), scale, corpus, report)
    sizes = first.sizes | terms.options_of(cell)
    model = terms.fresh(cell, contestant.spec.case("plain", torch.float32, cell.device).resized(sizes), cell.seed)
    model.load_state_dict(first.weights)
    after = Trained(model.eval(), first.told | {"weights_of": giver.subject}, sizes, first.weights)
    return _fine_tuned(cell, after, scale, corpus, report) if terms.variant_of(cell).get("fine_tuned") else after


def _from_scratch(cell: Cell, contestant: Implementation, scale: Mapping[str, Any], corpus: text.Text, report: Report) -> Trained:
    sizes = terms.sizes_of(cell, contestant, {"v": 256, "t": scale["length"], **scale["model"]}, scale["parameters"])
    case = contestant.spec.case("plain", torch.float32, cell.device).resized(sizes)
    made_of = _made_of(cell, scale, corpus) | {"sizes": dict(case.values)}  # options of the spec too
    tried = _searched(cell, case, scale, corpus, made_of, lambda share, doing: report(0.4 * share, doing))
    rate = min(tried, key=lambda lr: tried[lr])
    chosen = train.Settings(steps=scale["steps"], lr=float(rate))

    def learn() -> dict[str, Any]:
        model = terms.fresh(cell, case, cell.seed)
        began = time.perf_counter()
        batches = _batches(corpus.train, scale, cell)
        history = train.train(model, batches, chosen, lambda share, doing: report(0.4 + 0.6 * share, f"training, {doing}"))
        return {"weights": model.state_dict(), "history": history, "time_s": time.perf_counter() - began}

    made, kept = weights.trained(made_of | {"rate": rate, "seed": cell.seed}, learn)
    model = terms.fresh(cell, case, cell.seed)
    model.load_state_dict(made["weights"])
    last = made["history"][-100:]
    told = {
        "bits_per_byte": round(sum(last) / len(last), 4),
        "time_s": round(made["time_s"], 1),
        "bytes": chosen.steps * scale["batch"] * scale["length"],
        "lr": float(rate),
        "search": {lr: round(bits, 4) for lr, bits in tried.items()},
        "weights": "kept from an earlier run" if kept else "trained in this run",
    }
    return Trained(model.eval(), told, sizes, made["weights"])


def _searched(
    cell: Cell,
    case: Case,
    scale: Mapping[str, Any],
    corpus: text.Text,
    made_of: Mapping[str, Any],
    report: Report,
) -> dict[str, float]:
    """Bits per byte by learning rate, on text that is held out for this choice alone; infinite where training fails."""
    cuts = [(document, int(len(document) * (1 - TUNING_PART))) for document in corpus.train]
    judged_on = [b"".join(document[cut:] for document, cut in cuts)]
    length, rates = scale["length"], scale["rates"]

    def learn() -> dict[str, Any]:
        found = {}
        for i, rate in enumerate(rates):
            model = terms.fresh(cell, case, TUNING_SEED)
            chosen = train.Settings(steps=round(TUNING_SHARE * scale["steps"]), lr=rate)
            batches = _batches([document[:cut] for document, cut in cuts], scale, replace(cell, seed=TUNING_SEED))

            def told(share: float, doing: str, i: int = i, rate: float = rate) -> None:
                report((i + share) / len(rates), f"learning rate {rate:g}, {doing}")

            try:
                train.train(model, batches, chosen, told)
                model.eval()
                asked = Watched(model, cell.device)
                bits = bits_per_byte.measure(asked, judged_on, [length], length // 2, TUNING_WINDOWS).bits
                found[str(rate)] = bits_per_byte.mean(bits[length])  # type: ignore[arg-type]
            except train.TrainingFailed:
                found[str(rate)] = math.inf
        return found

    return weights.trained({**made_of, "rates": list(rates), "search": [TUNING_SHARE, TUNING_PART]}, learn)[0]


def _fine_tuned(cell: Cell, before: Trained, scale: Mapping[str, Any], corpus: text.Text, report: Report) -> Trained:
    """The model after a few steps more, at the longest context, one row at a time."""
    at = longest(cell)
    steps = max(1, round(FINE_TUNE_SHARE * scale["steps"] * scale["batch"] * scale["length"] / at))
    chosen = train.Settings(steps=steps, lr=FINE_TUNE_RATE * before.told["lr"], warmup=0.2)

    def learn() -> dict[str, Any]:
        rows = (ids.to(cell.device) for ids in train.windows(corpus.train, at + 1, 1, cell.seed))
        train.train(before.model, rows, chosen, lambda share, doing: report(share, f"fine-tune, {doing}"))
        return {"weights": before.model.state_dict()}

    made_of = {**_made_of(cell, scale, corpus), "seed": cell.seed, "rate": before.told["lr"], "sizes": before.sizes}
    made_of["fine_tune"] = repr(chosen)
    tuned = weights.trained(made_of, learn)[0]["weights"]
    before.model.load_state_dict(tuned)
    told = before.told | {"fine_tuned": {"steps": steps, "length": at, "bytes": steps * at}}
    return Trained(before.model.eval(), told, before.sizes, tuned)


def _batches(documents: Any, scale: Mapping[str, Any], cell: Cell) -> Any:
    """Batches of text, some of whose rows hold recall episodes."""
    rows = train.windows(documents, scale["length"] + 1, scale["batch"], cell.seed)
    return (ids.to(cell.device) for ids in recall.with_episodes(rows, scale["share"], scale["questions"], cell.seed))


def _made_of(cell: Cell, scale: Mapping[str, Any], corpus: text.Text) -> dict[str, Any]:
    """All that decides what training gives, but the learning rate and the seed."""
    parts = [
        catalogue.implementation(cell.spec, cell.implementation).path,
        catalogue.PACKAGE / "nn" / "train.py",
        catalogue.PACKAGE / "nn" / "decoder.py",
        catalogue.HOME / "suites" / "long_context" / "recall.py",
    ]
    return {
        "text": corpus.digest,
        "code": weights.digests(parts, TERMS),
        "scale": [*(scale[key] for key in ("length", "batch", "share", "questions", "steps")), scale["model"]],
        "asked": [cell.spec, cell.implementation, cell.variant, cell.device],
        "versions": torch.__version__,
    }
