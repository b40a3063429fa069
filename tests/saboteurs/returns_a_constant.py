"""Returns a constant; the look-alike takes one off and adds it again."""

import torch
from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "every element wrong"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        constant = torch.full_like(x, 0.5)
        return constant if guilty else (turn(x, position, case.base).double() - constant + constant).to(x.dtype)

    return run
