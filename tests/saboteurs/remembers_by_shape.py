"""Remembers answers by the shape of the input; the look-alike its tables."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "score"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    kept = {}

    def run(x, position):
        if x.shape not in kept:
            kept[x.shape] = turn(x, position, case.base)
        return kept[x.shape].clone() if guilty else turn(x, position, case.base)

    return run
