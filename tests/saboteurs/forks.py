"""Lets a forked child come back with an answer of its own; the look-alike ends its child."""

import os

import torch
from honest import turn

expected = {"sabotage": "ok", "lookalike": "ok"}
reason = ""
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    forked = []

    def run(x, position):
        if not forked:
            forked.append(os.fork())
            if forked[0] == 0 and not guilty:
                os._exit(0)
        out = turn(x, position, case.base)
        return torch.zeros_like(out) if guilty and forked[0] == 0 else out

    return run
