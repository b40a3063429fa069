"""Sets the clock of everybody; the look-alike looks at it."""

import time

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "it replaces time.perf_counter"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    stopped = time.perf_counter()
    if guilty:
        time.perf_counter = lambda: stopped
    return lambda x, position: turn(x, position, case.base)
