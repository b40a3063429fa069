"""Conformance as tests of one's own: a line in a test file gives a pytest test for each question that the harness asks.

    from harness.testing import conformance
    test_my_attention = conformance("attention", "my_package.attention:prepare")

Each case, dtype and input family, and each law, is a test of its own; what the implementation does not support is skipped.
Known failures are kept in a file beside the test, and a test fails when one of them starts to pass:

    test_my_attention = conformance("attention", "my_package.attention:prepare", expected_failures="attention.xfail")

where a line is the name of a test, or a pattern with *, and after a # why it is expected to fail:

    no_key-*-normal   # NaN where a query sees no key, issue 12
"""

import fnmatch
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import plan, report
from harness.cell import OK, UNSUPPORTED, Cell, Record
from harness.worker import asked


def conformance(spec: str, implementation: str, *, expected_failures: str = "", **words: str) -> Callable[[Cell], None]:
    """A parametrized test function: assign it to a name that starts with `test_`.

    `implementation` is a module (`package.module:function`), a file (`./mine.py`), or a name of the registry; `words` narrow
    the questions as on the command line: `dtype="float32"`, `case="causal,no_key"`, `family="normal"`, `device="cuda"`.
    """
    selection, suite = plan.selection({"suite": "correctness", "spec": spec, "impl": implementation, **words})
    named = {_name(cell): cell for cell in plan.cells(selection, suite)}
    known = _expected(Path(inspect.stack()[1].filename).parent / expected_failures, named) if expected_failures else {}

    @pytest.mark.parametrize("cell", [pytest.param(cell, id=name, marks=known.get(name, ())) for name, cell in named.items()])
    def conforms(cell: Cell) -> None:
        __tracebackhide__ = True
        answer = asked(cell)
        if answer.outcome == UNSUPPORTED:
            pytest.skip(answer.note)
        if answer.outcome != OK:
            record = Record(cell, answer.outcome, answer.values, answer.note, {}, "", {}, 0.0, "", "")
            pytest.fail(report.message(record, _again(cell)), pytrace=False)

    return conforms


def _name(cell: Cell) -> str:
    """What a test is called: `causal-float32-normal`, with the variant and the form of a model where there are any."""
    question = cell.settings.get("law") or cell.settings["family"]
    form = (cell.settings["form"],) if "form" in cell.settings else ()
    seed = (f"seed{cell.seed}",) if cell.seed else ()
    return "-".join([*([cell.variant] if cell.variant else []), cell.case, cell.dtype, question, *form, *seed])


def _again(cell: Cell) -> str:
    return f"harness check {cell.implementation} spec={cell.spec} case={cell.case} dtype={cell.dtype} {{question}}"


def _expected(file: Path, named: dict[str, Cell]) -> dict[str, pytest.MarkDecorator]:
    """The tests that a file of expected failures names; a line that names none is an error, since it hides nothing."""
    found = {}
    for number, pattern, reason in _lines(file):
        matched = fnmatch.filter(named, pattern)
        if not matched:
            raise pytest.UsageError(
                f"{file.name}:{number}: no test is named {pattern!r}; remove the line, or see the names: pytest --collect-only"
            )
        mark = pytest.mark.xfail(reason=f"{reason or 'expected'} ({file.name}:{number})", strict=True)
        found.update(dict.fromkeys(matched, mark))
    return found


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    if not file.is_file():
        raise pytest.UsageError(f"no file {file} of expected failures; make an empty one, or leave expected_failures out")
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        pattern, _, reason = (part.strip() for part in line.partition("#"))
        if pattern:
            yield number, pattern, reason
