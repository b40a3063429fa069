"""Tables name what was judged, digests and versions, beside every row or once for all; failures are told by their kinds."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from harness import report
from harness.cell import Cell, Record


def record(implementation: str, digest: str, torch: str = "2.13.0") -> Record:
    cell = Cell("correctness", "rotary", implementation, case="plain", dtype="float32")
    digests = {"spec": "5bec0ffee", "implementation": digest}
    return Record(cell, "ok", {}, "", digests, "here", {"torch": torch}, 0.1, "2026-01-01T00:00:00+00:00", "0")


def suite(column: str = "implementation") -> SimpleNamespace:
    def table(records):
        return {"rotary": pd.DataFrame([{column: name} for name in dict.fromkeys(r.cell.subject for r in records)])}

    return SimpleNamespace(table=table)


def test_each_row_names_the_code_the_definition_and_the_versions():
    frame = report.tables(suite(), [record("one", "aaaaaaaaaa"), record("two", "bbbbbbbbbb")])["rotary"]
    assert frame.code.tolist() == ["aaaaaaaa", "bbbbbbbb"]
    assert set(frame.definition) == {"5bec0ffe"}
    assert set(frame.versions) == {"torch 2.13.0"}


def test_a_row_of_mixed_origin_says_so():
    frame = report.tables(suite("model"), [record("one", "a"), record("one", "b", "2.14.0")])["rotary"]
    assert frame.code.tolist() == ["a and b"]
    assert frame.versions.tolist() == ["torch 2.13.0 and torch 2.14.0"]


def test_people_read_digests_once_below_the_tables_and_a_screen_is_spared_them():
    first = report.tables(suite(), [record("one", "aaaaaaaaaa")])["rotary"]
    second = report.tables(suite("model"), [record("one", "aaaaaaaaaa")])["rotary"]
    frames = {"first": first, "second": second}
    assert "aaaaaaaa" not in report.render(frames, "text")
    tables, judged = report.render(frames, "markdown").split("## What was judged")
    assert ("aaaaaaaa" in tables, judged.count("aaaaaaaa")) == (False, 1)
    assert "| rotary/one" in judged
    assert report.render(frames, "csv").count("aaaaaaaa") == 2


def test_a_count_stays_a_count_where_another_row_has_none():
    counts = SimpleNamespace(table=lambda records: {"t": pd.DataFrame([{"n": 512, "x": 0.5}, {"n": None, "x": None}])})
    frames = report.tables(counts, [record("one", "a")])
    assert report.render(frames, "csv").splitlines()[1] == "512,0.5"
    assert "| 512 | 0.5 |" in report.render(frames, "markdown")


def test_several_tables_as_csv_are_one_that_pandas_reads():
    frames = {"first": pd.DataFrame({"a": [1, 2]}), "second": pd.DataFrame({"a": [3], "b": [0.5]})}
    assert report.render(frames, "csv").splitlines() == ["table,a,b", "first,1,", "first,2,", "second,3,0.5"]
    assert report.render({}, "csv") == ""


def test_tables_in_latex_have_their_titles_as_captions():
    frames = {"At 50 % of n_max": pd.DataFrame({"a": [1]}), "Other": pd.DataFrame({"a": [2]})}
    told = report.render(frames, "latex")
    assert told.startswith("\\begin{table}\n\\caption{At 50 \\% of n\\_max}\n\\begin{tabular}")
    assert told.count("\\end{tabular}\n\\end{table}") == told.count("\\caption{") == 2


def test_what_the_grades_mean_is_said_where_one_is_b():
    graded = [replace(record("one", "a"), values={"grade": grade}) for grade in "AB"]
    assert report.legend(graded[:1]) == ""
    assert report.legend(graded).startswith("grade A: within the rounding budget; B: beyond it, but within ")


def ended(outcome: str, dtype: str, case: str = "plain") -> Record:
    was = record("mine", "a")
    return replace(was, outcome=outcome, cell=replace(was.cell, dtype=dtype, case=case))


def test_a_crash_does_not_hide_what_is_wrong():
    told = report.failures([ended("crashed", "float16"), ended("wrong", "float32")])
    assert "rotary/mine crashed in case plain, float16" in told
    assert "rotary/mine is wrong in case plain, float32" in told


def test_who_fails_everywhere_is_told_so_without_a_list_of_cases():
    told = report.failures([ended("crashed", dtype) for dtype in ("float32", "float16", "bfloat16")])
    assert told.endswith("so do all the others of its 3 cells")
    assert "so do all" not in report.failures([ended("ok", "float32"), *(ended("crashed", "float16") for _ in range(2))])


def test_who_crashes_in_one_dtype_alone_is_told_how_not_to_claim_it():
    halves = [ended("crashed", "float16"), ended("unsupported", "float16", "long"), ended("crashed", "bfloat16")]
    told = report.failures([ended("ok", "float32"), *halves])
    assert 'float16 and bfloat16: every cell; if it is made for float32 alone, say so: dtypes = ("float32",)' in told
    assert "say so" not in report.failures([*halves, ended("ok", "float16"), ended("ok", "bfloat16")]), "it can do these"
    assert "say so" not in report.failures(halves), "nothing is left that it can do"


def test_notes_that_differ_by_numbers_alone_are_said_once_and_names_with_digits_are_none():
    notes = ["28,672 bytes at least", "61,440 bytes at least", "no int8", "no int4"]
    assert report.once(notes) == ["61,440 bytes at least", "no int8", "no int4"]
