"""Returns what it computed the time before; the look-alike only keeps it."""

from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "score"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    kept = []

    def run(x, position):
        kept.append(turn(x, position, case.base))
        return kept[-2] if guilty and len(kept) > 1 else kept[-1].clone()

    return run
