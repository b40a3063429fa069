"""Cells are asked as `harness run` asks them: planned, answered by a worker that judges first, and stored beside the environment.

What is counted does not change from one asking to the next: it is taken from the store while the code, the machine and the
versions are the same. Time is measured anew, always.
"""

import sys
from pathlib import Path

from . import _registry

# What is asked of one implementation at a time; the rest as the suite has it.
WORDS = {
    "memory": {"scale": "smoke", "length": str(_registry.LONGEST), "dtype": "float32"},
    "speed": {"scale": "smoke", "length": str(_registry.LONGEST), "dtype": "float32", "rounds": "1"},
    "kernels": {},
    "correctness": {},
}
GIB = 2**30


def counted(suite, name):
    """The stored records of one subject at this commit that a name stands for; asked now where there are none."""
    code = _code_of(suite, name)
    return _stored(suite, name, code) or _asked_anew(suite, name) or _skip(f"no cell {name!r} at this commit")


def timed(name):
    """The record of one cell of suite=speed, asked now."""
    from harness import plan, runner

    _code_of("speed", name)
    _, case, form, _ = name.split()
    cells, suite = _planned("speed", {**_who(name), "case": case, "form": form})
    found = list(runner.run([(cell, plan.digests(cell, suite)) for cell in cells], _limits(suite, 1), None))
    return one(found)


def one(records, also=()):
    """The only record there is; a cell that is not ok is skipped where it is unsupported, and fails where it is not."""
    from harness import report

    (record,) = records
    if record.outcome == "unsupported":
        _skip(record.note)
    if record.outcome not in ("ok", *also):
        raise AssertionError(report.message(record))
    return record


def _who(name):
    """The words that select one subject: `attention/torch_sdpa:flash ...`."""
    spec, _, own = name.split()[0].partition("/")
    implementation, _, variant = own.partition(":")
    return {"spec": spec, "impl": implementation} | ({"variant": variant} if variant else {})


def _code_of(suite, name):
    """Digests of what is measured, or why it is skipped: it is not there yet, or is measured otherwise than by this checkout."""
    from harness import catalogue

    who = _who(name)
    full = f"{who['spec']}/{who['impl']}"
    if suite not in catalogue.suites():
        _skip(f"no suite {suite} at this commit")
    if full not in catalogue.implementations():
        _skip(f"no {full} at this commit")
    if file := _registry.unlike(suite, who["spec"], catalogue):
        _skip(f"this commit measures otherwise: its {file} is not that of this checkout")
    # The checkout's own are the same then, and are known before asv forks a child for each cell.
    measuring = _registry.digests(suite, who["spec"])
    return {**measuring, "implementation": catalogue.digest(catalogue.find("implementation", full).path)}


def _stored(suite, name, code):
    from harness import machine

    asked = (code, machine.name(), machine.versions())
    newest = {
        record.cell.key: record
        for record in _store(name).read(suite)
        if (record.digests, record.machine, record.versions) == asked and name in _names(record.cell)
    }
    return [record for record in newest.values() if record.outcome in ("ok", "wrong", "unsupported")]


def _asked_anew(suite, name):
    """Everything that is asked of this subject, so that a worker is started once."""
    from harness import machine, plan, runner

    words = _who(name) | ({"dtype": name.split()[1]} if suite == "correctness" else {})
    cells, module = _planned(suite, words)
    todo, known = plan.unanswered(cells, module, _store(name).read(suite, machine.name()))
    records = [*known, *runner.run(todo, _limits(module, machine.cores()), _store(name))]
    return [record for record in records if name in _names(record.cell)]


def _planned(suite, words):
    from harness import catalogue, plan

    try:
        chosen, module = plan.selection({"suite": suite, **WORDS[suite], **words})
        return plan.cells(chosen, module), module
    except (plan.WrongRequest, catalogue.NotFound) as error:
        return _skip(f"not at this commit: {error}")


def _names(cell):
    """The names that stand for a cell, whatever its suite: by form and length, by shape and target, by dtype alone."""
    asked = cell.settings
    return {
        f"{cell.subject} {cell.case} {asked.get('form')} {asked.get('length')}",
        f"{cell.subject} {cell.case} {cell.dtype} {asked.get('target')}",
        *([f"{cell.subject} {cell.dtype}"] if cell.suite == "correctness" else []),
    }


def _store(name):
    """Beside the environment that asv made, and gone with it."""
    from harness.store import Store

    subject = name.split()[0].replace("/", "-").replace(":", "-")
    return Store(Path(sys.prefix) / "var" / "harness-asv" / subject)


def _limits(suite, workers):
    from harness.runner import Limits

    return Limits(suite.limits["timeout"], int(suite.limits["memory"] * GIB), workers)


def _skip(why):
    """asv's word for what cannot be asked here."""
    raise NotImplementedError(why)
