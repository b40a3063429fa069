"""Prints a megabyte to both streams and reads its input, which harms nobody; so does its look-alike, once."""

import os
import sys

from honest import turn

expected = {"sabotage": "ok", "lookalike": "ok"}
reason = ""
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        for _ in range(1000 if guilty else 1):
            print("x" * 1000)
            os.write(2, b"y" * 1000)
        sys.stdin.read()
        return turn(x, position, case.base)

    return run
