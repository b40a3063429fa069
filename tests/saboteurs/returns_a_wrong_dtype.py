"""Returns float64 whatever is asked; the look-alike computes in it."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "out[b h n d] is float64, but should be float32"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        out = turn(x, position, case.base).double()
        return out if guilty else out.to(case.dtype)

    return run
