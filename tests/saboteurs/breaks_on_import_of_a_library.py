"""Needs a library that is not there; the look-alike does without."""

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "raised ModuleNotFoundError: No module named"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    if guilty:
        import a_library_that_nobody_has  # noqa: F401
    return lambda x, position: turn(x, position, case.base)
