"""Returns a copy of its input; the look-alike computes in one."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "should be"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        copy = x.clone()
        return copy if guilty else copy.copy_(turn(x, position, case.base))

    return run
