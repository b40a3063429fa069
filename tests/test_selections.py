"""Stored selections side by side: what pairs, what is refused, and what the numbers are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import catalogue, cli, machine, report, runner, selections
from harness.cell import Answer, Cell, Record
from harness.plan import WrongRequest
from harness.store import Store

HERE = "here"


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "name", lambda: HERE)


def record(values: Mapping[str, Any], impl: str = "plain", suite: str = "speed", **changes: Any) -> Record:
    variant, outcome = changes.pop("variant", ""), changes.pop("outcome", "ok")
    fields = {"machine": HERE, "versions": {"torch": "2"}, "run": "aaaa", "commit": "c0ffee"} | {
        key: changes.pop(key) for key in ("machine", "versions", "run", "commit") if key in changes
    }
    cell = Cell(suite, "attention", impl, variant, "plain", "float32", "cpu", 0, {"form": "forward", "length": 256, **changes})
    return Record(cell, outcome, values, "", {}, time_s=0.1, at="2026-01-01", **fields)


def compare(
    place: Path, first: str, second: str, suite: str = "speed", quantity: str = "", **common: str
) -> selections.Comparison:
    a, b = selections.choice("A", first), selections.choice("B", second)
    return selections.compare(a, b, suite, common, quantity, Store(place))


def store(place: Path, *records: Record) -> Path:
    for one in records:
        Store(place).append(one)
    return place


def times(middle: float, many: int = 15) -> dict[str, list[float]]:
    return {"seconds": [middle * (1 + 0.01 * (i - many // 2)) for i in range(many)]}


def test_contestants_have_a_ratio_of_medians_with_limits(tmp_path: Path):
    store(tmp_path, record(times(1.0), "plain"), record(times(2.0), "torch_sdpa"), record(times(9.0), "other"))
    found = compare(tmp_path, "impl=plain", "impl=torch_sdpa", spec="attention")
    (row,) = found.rows
    assert (row.a, row.b, row.kind, row.value) == (1.0, 2.0, "B/A", 2.0)
    assert row.low is not None
    assert row.high is not None
    assert 1.8 < row.low < 2.0 < row.high < 2.22
    assert found.summary == ("A: impl=plain, B: impl=torch_sdpa, suite=speed spec=attention, on here; 1 cell on both sides")
    (row_,) = selections.tables(found)["B/A"].to_dict("records")
    assert row_["implementation"] == "attention/plain, attention/torch_sdpa"


def test_too_few_samples_have_no_limits(tmp_path: Path):
    store(tmp_path, record(times(1.0, 6), "a"), record(times(1.0, 6), "b"))
    (row,) = compare(tmp_path, "impl=a", "impl=b").rows
    assert (row.value, row.low, row.high) == (1.0, None, None)


def test_runs_and_commits_go_by_their_first_digits_and_the_newest_record_counts(tmp_path: Path):
    old = [record({"seconds": 1.0}, run="ab12", commit="111111"), record({"seconds": 5.0}, run="ab12", commit="111111")]
    store(tmp_path, *old, record({"seconds": 10.0}, run="ef56", commit="222222+"))
    for first, second in (("run=ab", "run=ef"), ("commit=111", "commit=222"), ("run=ab12", "commit=2222")):
        assert [row.value for row in compare(tmp_path, first, second).rows] == [2.0]


def test_rounds_are_one_cell(tmp_path: Path):
    store(
        tmp_path,
        *(record(times(1.0, 4), "a", round=i) for i in range(3)),
        *(record(times(2.0, 4), "b", round=i) for i in range(3)),
    )
    (row,) = compare(tmp_path, "impl=a", "impl=b").rows
    assert row.value == pytest.approx(2.0, rel=0.05)
    assert row.low is not None, "twelve samples are enough"


def test_trials_on_the_same_texts_are_paired(tmp_path: Path):
    bits = [1.0, 2.0, 3.0, 4.0]
    store(
        tmp_path,
        record({"bits_per_byte": {"128": bits}, "loss": [3.0, 2.0]}, "a", "long-context"),
        record({"bits_per_byte": {"128": [x + 0.5 for x in bits]}, "loss": [3.0, 2.0]}, "b", "long-context"),
    )
    (row,) = compare(tmp_path, "impl=a", "impl=b", "long-context").rows
    assert (row.quantity, row.kind, row.value, row.low, row.high) == ("bits_per_byte 128", "B-A", 0.5, 0.5, 0.5)
    assert len(compare(tmp_path, "impl=a", "impl=b", "long-context", "*").rows) == 2


def test_counts_and_scores_are_compared_as_they_are(tmp_path: Path):
    store(
        tmp_path,
        record({"peak_bytes": 100, "state_bytes": 0}, "a", "memory"),
        record({"peak_bytes": 150, "state_bytes": 8}, "b", "memory"),
    )
    store(
        tmp_path,
        record({"score": 0.5, "grade": "A"}, "a", "correctness"),
        record({"score": 0.25, "grade": "A"}, "b", "correctness"),
    )
    rows = {row.quantity: row for row in compare(tmp_path, "impl=a", "impl=b", "memory").rows}
    assert rows["peak_bytes"].value == 1.5
    assert (rows["state_bytes"].b, rows["state_bytes"].value) == (8.0, None)
    assert [row.value for row in compare(tmp_path, "impl=a", "impl=b", "correctness").rows] == [0.5]


def test_how_a_cell_ended_stands_where_it_has_no_number(tmp_path: Path):
    store(tmp_path, record({}, "a", outcome="wrong"), record(times(1.0), "b"))
    found = compare(tmp_path, "impl=a", "impl=b")
    assert [(row.a, row.b) for row in found.rows] == [("wrong", "ok")]
    assert selections.tables(found)["Outcomes"].quantity.tolist() == ["outcome"]


def test_machines_are_not_mixed_unasked(tmp_path: Path):
    store(tmp_path, record(times(1.0), run="aa"), record(times(2.0), run="bb", machine="there"))
    with pytest.raises(WrongRequest) as refused:
        compare(tmp_path, "run=aa", "run=bb")
    assert str(refused.value) == (
        "A (run=aa) is of here, B (run=bb) of there: what two machines measure is not compared unasked.\n"
        "  If that is what you want, name both: harness compare 'run=aa machine=here' 'run=bb machine=there' ..."
    )
    found = compare(tmp_path, "run=aa machine=here", "run=bb machine=there")
    assert [row.value for row in found.rows] == [2.0]
    assert "of two machines, A on here, B on there" in found.summary


def test_one_side_of_two_other_machines_is_refused_and_this_one_goes_before(tmp_path: Path):
    store(
        tmp_path, record(times(1.0), "a", machine="x"), record(times(1.0), "a", machine="y"), record(times(1.0), "b", machine="x")
    )
    with pytest.raises(
        WrongRequest, match=r"A \(impl=a\) has records of 2 machines, which are not mixed.\n  Choose one: machine=x or machine=y"
    ):
        compare(tmp_path, "impl=a", "impl=b")
    assert len(compare(tmp_path, "impl=a", "impl=b", machine="x").rows) == 1
    store(tmp_path, record(times(1.0), "a"), record(times(3.0), "b"))
    assert "on here" in compare(tmp_path, "impl=a", "impl=b").summary


def test_other_versions_are_said(tmp_path: Path):
    store(tmp_path, record(times(1.0), run="aa"), record(times(1.0), run="bb", versions={"torch": "3"}))
    assert "on here, of other versions, A with torch 2, B with torch 3" in compare(tmp_path, "run=aa", "run=bb").summary


def test_two_answers_to_one_are_refused(tmp_path: Path):
    store(tmp_path, record(times(1.0), "a"), *(record(times(1.0), "b", variant=variant) for variant in ("tile_16", "tile_64")))
    with pytest.raises(WrongRequest) as refused:
        compare(tmp_path, "impl=a", "impl=b")
    assert str(refused.value) == (
        "2 cells of B (impl=b) answer to one of the other: they differ in what is compared.\n"
        "  Choose one: variant=tile_16 or variant=tile_64"
    )
    assert len(compare(tmp_path, "impl=a", "impl=b variant=tile_16").rows) == 1


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "run=zz",
            "run=aa",
            "no record of speed is chosen by A (run=zz).\n  run: aaaa\n  commit: c0ffee\n  machine: here\n  impl: a, b",
        ),
        ("rum=zz", "run=aa", "records of speed cannot be chosen by 'rum'. Did you mean 'run'?"),
        (
            "impl=a b",
            "impl=b",
            "'impl=a b' chooses no records; a choice is written 'key=value key=value', such as 'run=1a2b3c4d'",
        ),
    ],
)
def test_what_chooses_nothing_is_a_wrong_request(first: str, second: str, message: str, tmp_path: Path):
    store(tmp_path, record(times(1.0), "a"), record(times(1.0), "b"))
    with pytest.raises(WrongRequest) as refused:
        compare(tmp_path, first, second)
    assert str(refused.value).startswith(message)


def test_one_choice_that_is_also_the_other_is_a_wrong_request(tmp_path: Path):
    store(tmp_path, record(times(1.0), "a"), record(times(1.0), "b"))
    with pytest.raises(WrongRequest, match="are the very same records"):
        compare(tmp_path, "impl=a", "case=plain", impl="a")


def harness(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_nothing_that_pairs_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    store(tmp_path, record(times(1.0), "a", length=1), record(times(1.0), "b", length=2))
    assert harness("compare", "impl=a", "impl=b", "suite=kernels", f"results={tmp_path}", monkeypatch=monkeypatch) == 2
    assert "nothing is stored of suite=kernels in " in capsys.readouterr().err
    monkeypatch.setattr(catalogue, "find", lambda kind, name: catalogue.Item(kind, name, tmp_path))
    assert harness("compare", "impl=a", "impl=b", "suite=speed", f"results={tmp_path}", monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err.startswith("nothing was compared: 1 cell of A and 1 of B, and no two ask the same\n")
    assert harness("compare", "impl=a", "impl=b length=2", "suite=speed", f"results={tmp_path}", monkeypatch=monkeypatch) == 1
    assert (
        harness("compare", "impl=a length=1", "impl=b length=2", "suite=speed", f"results={tmp_path}", monkeypatch=monkeypatch)
        == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("A: impl=a length=1, B: impl=b length=2, suite=speed, on here; 1 cell on both sides\n\nB/A\n")
    words = ["compare", "impl=a length=1", "impl=b length=2", "suite=speed", f"results={tmp_path}", "format=csv"]
    assert harness(*words, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith("implementation,case,form,length,quantity,A,B,B/A,at least,at most\n")
    assert harness("compare", "impl=a", "impl=b", f"results={tmp_path}", monkeypatch=monkeypatch) == 2
    assert "which suite? Say suite=NAME." in capsys.readouterr().err


def test_records_know_the_commit_and_lines_without_one_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue, "commit", lambda: "abc123")
    made = runner._record(Cell("speed", "attention", "a"), {}, Answer("ok"), 0.1, "r")
    assert made.commit == "abc123"
    old = made.to_json().replace('"commit":"abc123",', "")
    assert "commit" not in old
    assert Record.from_json(old).commit == ""
    assert Record.from_json(made.to_json()) == made
    assert made.identity == Record.from_json(old).identity, "what was asked before is not asked again"


def test_the_commit_of_a_folder_within_somebody_elses_checkout_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue, "HOME", catalogue.HOME / "harness")
    catalogue.commit.cache_clear()
    try:
        assert catalogue.commit() == ""
    finally:
        catalogue.commit.cache_clear()


def test_parquet_says_what_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(catalogue, "is_module", lambda name: name != "pyarrow")
    for words in (["table", "suite=correctness"], ["compare", "impl=a", "impl=b", "suite=correctness"]):
        assert harness(*words, "format=parquet", "out=x.parquet", monkeypatch=monkeypatch) == 2
        assert (
            "format=parquet takes pyarrow, which is not installed.\n  Install it: pip install 'sequence-harness[parquet]'"
            in capsys.readouterr().err
        )
        assert harness(*words, "format=parquet", monkeypatch=monkeypatch) == 2
        assert "say where to, format=parquet out=table.parquet" in capsys.readouterr().err


def test_each_table_has_a_parquet_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: dict[str, pd.DataFrame] = {}
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda frame, path, index: written.update({path.name: frame}))
    frames = {"Time, HEAD": pd.DataFrame({"n": [1, None], "x": ["a", 2]}), "Not compared": pd.DataFrame({"y": [0.5]})}
    report.save(frames, "parquet", tmp_path / "t.parquet")
    assert set(written) == {"t.time-head.parquet", "t.not-compared.parquet"}
    assert written["t.time-head.parquet"].x.tolist() == ["a", "2"]
    report.save({"one": frames["Not compared"]}, "parquet", tmp_path / "one.parquet")
    assert "one.parquet" in written


def test_parquet_is_read_again(tmp_path: Path):
    pytest.importorskip("pyarrow")
    (file,) = report.save({"t": pd.DataFrame({"x": ["a", 2], "y": [0.5, None]})}, "parquet", tmp_path / "t.parquet")
    assert pd.read_parquet(file).x.tolist() == ["a", "2"]


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "latex", "html"])
def test_counts_stay_whole_in_every_format(form: str, tmp_path: Path):
    values = {"held_bytes": 16384, "peak_bytes": 1234567, "first_s": 0.123456}
    store(tmp_path, record(values, "a"), record({**values, "held_bytes": 32768}, "b"))
    told = report.render(selections.tables(compare(tmp_path, "impl=a", "impl=b", quantity="*")), form)
    assert all(number in told for number in ("16384", "32768", "1234567", "0.1235")), told
    assert not any(number in told for number in ("16384.0", "1234567.0"))


def test_a_column_of_counts_and_times_is_one_of_numbers_in_parquet(tmp_path: Path):
    store(tmp_path, record({"held_bytes": 16384, "first_s": 0.5}, "a"), record({"held_bytes": 16385, "first_s": 1.0}, "b"))
    frames = selections.tables(compare(tmp_path, "impl=a", "impl=b", quantity="*"))
    (frame,) = frames.values()
    assert report._of_one_type_a_column(frame)["B"].dtype.kind in "if"
    assert sorted(frame["B"]) == [1.0, 16385]
