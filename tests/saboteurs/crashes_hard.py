"""Reads an address that is not its own; the look-alike one that is."""

import ctypes

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "killed by SIGSEGV"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        ctypes.string_at(8 if guilty else x.data_ptr(), 1)
        return turn(x, position, case.base)

    return run
