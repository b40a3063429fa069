"""Words become settings, cells and limits; a message says what would have been understood."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import machine
from harness.cell import Record
from harness.plan import WrongRequest
from harness.request import Request, limits_of, read
from harness.store import Store


def test_a_message_lists_the_settings_that_are_understood():
    with pytest.raises(WrongRequest, match=r"'rotary' is no setting; settings are written key=value\.\n  known: out, results"):
        read(["out=x", "rotary"], ("out", "results"))
    with pytest.raises(WrongRequest, match="out= is empty; leave it out, or say out=VALUE"):
        read(["out="])
    with pytest.raises(WrongRequest, match="seed is given twice; a list has commas: seed=1,2"):
        read(["seed=1", "seed=2"])


def test_a_limit_of_memory_is_one_that_the_kernel_can_count():
    suite = SimpleNamespace(limits={"memory": 8.0, "timeout": 60.0})
    assert limits_of(suite, {"memory": 1e11, "timeout": 0.0, "workers": 1}).memory_bytes < 2**63


def test_a_store_is_read_once_for_what_is_answered_and_how_long_the_rest_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reads, lines = [], Store.lines
    monkeypatch.setattr(Store, "lines", lambda *of: reads.append(of) or lines(*of))
    words = [
        "suite=correctness",
        "spec=rotary",
        "impl=pairs",
        "case=plain",
        "dtype=float32",
        "family=normal",
        f"results={tmp_path}",
    ]
    ((cell, code),), answered, seconds = Request(read(words)).split()
    assert (len(reads), answered, seconds) == (1, [], {})
    Store(tmp_path).append(Record(cell, "ok", {}, "", code, machine.name(), machine.versions(), 7.0, "2026", "r"))
    todo, answered, seconds = Request(read(words)).split()
    assert (todo, [record.cell for record in answered], seconds) == ([], [cell], {})
    assert Request(read([*words, "rerun=true"])).split() == ([(cell, code)], [], {cell: 7.0})


def test_what_a_run_of_one_dtype_batch_length_or_number_of_rounds_did_not_ask_stays_in_the_tables(tmp_path: Path):
    words = {"suite": "speed", "spec": "rotary", "impl": "pairs", "form": "forward", "results": str(tmp_path)}
    asked = [
        {**words, "dtype": dtype, "batch": batch, "length": length, "rounds": rounds}
        for dtype, batch, length, rounds in (("float32", "1", "128", "1"), ("bfloat16", "8", "4096", "2"))
    ]
    for of in asked:
        cell = Request(of).cells[0]
        Store(tmp_path).append(Record(cell, "ok", {}, "", {}, machine.name(), machine.versions(), 7.0, "2026", "r"))
    for of in asked:
        assert [(r.cell.dtype, r.cell.settings["batch"]) for r in Request(of).stored()] == [("float32", 1), ("bfloat16", 8)]
