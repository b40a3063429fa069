"""Exits in good order, as a script does at its end; the look-alike catches the exit."""

import sys

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "called exit(0)"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        try:
            sys.exit(0)
        except SystemExit:
            if guilty:
                raise
        return turn(x, position, case.base)

    return run
