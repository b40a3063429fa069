"""Closes every descriptor; the look-alike those it opened."""

import os

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "worker"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        mine = os.open(os.devnull, os.O_RDONLY)
        os.closerange(3 if guilty else mine, 256 if guilty else mine + 1)
        return turn(x, position, case.base)

    return run
