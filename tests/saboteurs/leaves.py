"""Leaves without a word, past every handler; the look-alike does so in a child of its own."""

import os

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "exited with status 7"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        child = 0 if guilty else os.fork()
        if child == 0:
            os._exit(7)
        os.waitpid(child, 0)
        return turn(x, position, case.base)

    return run
