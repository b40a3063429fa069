"""How large models, contexts and measurements are at each scale."""

from functools import cache
from typing import Any

from harness import text
from harness.catalogue import WrongRequest
from harness.cell import Cell

TIMES = (1, 2, 4, 8, 16)  # contexts that are measured, in training lengths
FAR = 64  # that of models whose cost grows less than quadratically with it
# length: the context that is trained at, in bytes; model: sizes of every contestant, its f chosen so that it has about so many
# parameters; rates: learning rates to choose from; share and questions: of the windows, how many hold recall episodes, and
# how many questions each of those holds; windows, trials and memories: what is measured on. stream: how
# many bytes a model reads token by token; depth_trials: windows at each depth of each length;
# growth: how often its lengths double, how often each is timed, and seconds for a quantity.
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "length": 32,
        "model": {"d": 32, "h": 2, "l": 2},
        "parameters": 41_600,
        "steps": 60,
        "rates": (3e-3, 1e-2),
        "batch": 8,
        "share": 0.25,
        "questions": 8,
        "windows": 16,
        "trials": 8,
        "memories": 8,
        "stream": 2048,
        "depth_trials": 4,
        "memory": {
            "segment": 16,
            "model": {"d": 32, "h": 2, "l": 2},
            "parameters": 41_600,
            "curriculum": (60, 20, 20, 20),
            "rates": (3e-3,),
            "batch": 16,
            "trials": 32,
            "cost_s": 4,
        },
        "growth_doublings": 4,
        "growth_rounds": 6,
        "growth_s": 0.5,
        "cost_s": 5,
    },
    "default": {
        "length": 128,
        "model": {"d": 96, "h": 4, "l": 3},
        "parameters": 383_712,
        "steps": 1000,
        "rates": (3e-3, 1e-2),
        "batch": 8,
        "share": 0.25,
        "questions": 36,
        "windows": 96,
        "trials": 48,
        "memories": 32,
        "stream": 65_536,
        "depth_trials": 32,
        "memory": {
            "segment": 16,
            "model": {"d": 64, "h": 4, "l": 2},
            "parameters": 132_352,
            "curriculum": (600, 400, 300, 500),
            "rates": (1e-3, 2e-3),
            "batch": 16,
            "trials": 256,
            "cost_s": 60,
        },
        "growth_doublings": 7,
        "growth_rounds": 9,
        "growth_s": 45,
        "cost_s": 100,
    },
    # For one GPU. Its models pass over the standard library some thirty times: text=PATH gives them more to learn.
    "full": {
        "length": 512,
        "model": {"d": 384, "h": 6, "l": 6},
        "parameters": 10_834_944,
        "steps": 4000,
        "rates": (3e-4, 1e-3, 3e-3),
        "batch": 64,
        "share": 0.25,
        "questions": 144,
        "windows": 192,
        "trials": 192,
        "memories": 64,
        "stream": 262_144,
        "depth_trials": 96,
        "memory": {
            "segment": 128,
            "model": {"d": 256, "h": 8, "l": 4},
            "parameters": 3_286_528,
            "curriculum": (2000, 1500, 1500, 2500),
            "rates": (3e-4, 1e-3),
            "batch": 64,
            "trials": 1024,
            "cost_s": 3600,
        },
        "growth_doublings": 7,
        "growth_rounds": 9,
        "growth_s": 120,
        "cost_s": 3600,
    },
}


def scale_of(cell: Cell) -> dict[str, Any]:
    """The sizes of the scale that a cell names."""
    return SCALES[cell.settings["scale"]]


def longest(cell: Cell) -> int:
    """The longest context measured, in bytes."""
    return max(TIMES) * int(scale_of(cell)["length"])


def text_of(cell: Cell) -> text.Text:
    """The text that a cell trains and measures on; a text that is too small is a wrong request."""
    scale = scale_of(cell)
    return _text(cell.settings["text"], longest(cell), scale["windows"] * (scale["length"] // 2))


@cache
def _text(path: str, longest: int, scored: int) -> text.Text:
    try:
        return text.load(path or None, longest, scored)
    except ValueError as error:
        raise WrongRequest(str(error)) from None
