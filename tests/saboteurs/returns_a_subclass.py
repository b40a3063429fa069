"""Returns a subclass of Tensor, which may compute when it is looked at; the look-alike uses one inside."""

import torch
from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "not a torch.Tensor"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        out = turn(x, position, case.base).as_subclass(Lazy)
        return out if guilty else out.as_subclass(torch.Tensor)

    return run


class Lazy(torch.Tensor):
    """Could do anything."""
