"""Remembers answers by the first number of the input; the look-alike by all of them."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "score"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    kept = {}

    def run(x, position):
        key = float(x.flatten()[0].sign()) if guilty else (x.double().flatten().tolist().__repr__(), repr(position.tolist()))
        if key not in kept:
            kept[key] = turn(x, position, case.base)
        return kept[key].clone()

    return run
