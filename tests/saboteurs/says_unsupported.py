"""Says that it is unsupported, which is an answer; the look-alike is."""

from honest import turn

from harness import Unsupported

expected = {"sabotage": "unsupported", "lookalike": "ok"}
reason = "no Tuesdays"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    if guilty:
        raise Unsupported("no Tuesdays")
    return lambda x, position: turn(x, position, case.base)
