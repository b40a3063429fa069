"""Returns NaN in one element; the look-alike repairs it."""

import torch
from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "NaN"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        out = turn(x, position, case.base)
        broken = out.clone()
        broken[0, 0, 0, 0] = torch.nan
        return broken if guilty else torch.where(broken.isnan(), out, broken)

    return run
