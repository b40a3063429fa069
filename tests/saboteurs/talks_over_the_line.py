"""Writes into every open descriptor, so into the line to the runner; the look-alike into its own file."""

import os
import tempfile

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "worker"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        with tempfile.TemporaryFile() as file:
            for descriptor in range(3, 256) if guilty else [file.fileno()]:
                try:
                    os.write(descriptor, b"{nonsense}" * 20)
                except OSError:
                    continue
        return turn(x, position, case.base)

    return run
