"""Overflows where the answer is finite; the look-alike scales first."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "NaN or infinite"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        scale = 1e38 if guilty else 1.0
        return turn(x * scale, position, case.base) * 128 / scale / 128

    return run
