"""The probes, and how large each is at each scale."""

from typing import Any

from harness.cell import Cell

from .automata import Automata
from .induction import Induction
from .mqar import Mqar
from .regression import Regression
from .remapping import Remapping

Probe = Mqar | Induction | Regression | Automata | Remapping
PROBES: dict[str, type[Probe]] = {
    "mqar": Mqar,
    "induction": Induction,
    "regression": Regression,
    "automata": Automata,
    "remapping": Remapping,
}
# model: sizes of every contestant, its f chosen so that it has about so many parameters beside embedding and head; rates:
# learning rates, of which the best counts; batch: rows in one; of a probe, its sizes, the steps of training, and those of
# symbol tuning.
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "model": {"d": 32, "h": 2, "l": 2},
        "parameters": 25_200,
        "rates": (3e-3,),
        "batch": 16,
        "probes": {
            "mqar": ({"pairs": (1, 2), "keys": 4, "values": 4, "n": 12, "trials": 32}, 60),
            "induction": ({"periods": (3, 6), "v": 8, "n": 16, "trials": 32}, 60),
            "regression": ({"after": (2, 4), "x_bins": 9, "y_bins": 17, "trials": 32}, 60),
            "automata": ({"states": 4, "v": 6, "n": 24, "automata": 100, "trials": 32}, 60),
            "remapping": ({"inputs": 16, "symbols": 8, "examples": 8, "trials": 32}, 60, 30),
        },
        "cost_s": 2,
    },
    "default": {
        "model": {"d": 64, "h": 4, "l": 2},
        "parameters": 99_584,
        "rates": (1e-3, 3e-3),
        "batch": 32,
        "probes": {
            "mqar": ({"pairs": (2, 4, 8), "keys": 16, "values": 16, "n": 32, "trials": 128}, 1000),
            "induction": ({"periods": (8, 12, 16), "v": 32, "n": 32, "trials": 128}, 800),
            "regression": ({"after": (2, 4, 8), "x_bins": 9, "y_bins": 33, "trials": 256}, 1200),
            "automata": ({"states": 4, "v": 8, "n": 32, "automata": 1000, "trials": 128}, 1200),
            "remapping": ({"inputs": 64, "symbols": 128, "examples": 16, "trials": 128}, 800, 400),
        },
        "cost_s": 25,
    },
    "full": {
        "model": {"d": 256, "h": 8, "l": 4},
        "parameters": 3_160_000,
        "rates": (3e-4, 1e-3, 3e-3),
        "batch": 64,
        "probes": {
            "mqar": ({"pairs": (8, 16, 32, 64), "keys": 512, "values": 512, "n": 512, "trials": 512}, 20_000),
            "induction": ({"periods": (32, 64, 128), "v": 256, "n": 512, "trials": 512}, 10_000),
            "regression": ({"after": (2, 4, 8, 16, 32), "x_bins": 65, "y_bins": 129, "trials": 1024}, 20_000),
            "automata": ({"states": 6, "v": 16, "n": 256, "automata": 5000, "trials": 512}, 20_000),
            "remapping": ({"inputs": 512, "symbols": 2048, "examples": 32, "trials": 512}, 20_000, 4000),
        },
        "cost_s": 3600,
    },
}


def probe_of(cell: Cell) -> Probe:
    """The probe that a cell names, at the sizes of its scale."""
    sizes = SCALES[cell.settings["scale"]]["probes"][cell.case][0]
    return PROBES[cell.case](**sizes, seed=cell.seed)
