"""Hangs in a child that outlives it; the look-alike ends its child."""

import subprocess

from honest import turn

expected = {"sabotage": "timed_out", "lookalike": "ok"}
reason = "no answer within"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        child = subprocess.Popen(["sleep", "10000"])
        if guilty:
            child.wait()
        child.kill()
        return turn(x, position, case.base)

    return run
