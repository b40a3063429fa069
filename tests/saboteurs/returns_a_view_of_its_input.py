"""Gives back its input under another name; the look-alike a view of its own memory."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "is a view of its input x"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        return x.view(x.shape) if guilty else turn(x, position, case.base).flatten().view(x.shape)

    return run
