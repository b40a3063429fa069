"""Raises; the look-alike raises inside, and deals with it itself."""

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "raised ZeroDivisionError: division by zero"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            if guilty:
                raise
        return turn(x, position, case.base)

    return run
