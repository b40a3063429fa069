"""Keeps lists until there is no room; the look-alike lets them go."""

from honest import turn

expected = {"sabotage": "out_of_memory", "lookalike": "ok"}
reason = "memory"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        kept = []
        for _ in range(200):
            kept.append(bytearray(2**24))
            if not guilty:
                kept.clear()
        return turn(x, position, case.base)

    return run
