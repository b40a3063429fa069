"""Records are kept whatever happens: kills at any moment, several writers, unfinished lines."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cell import Cell, Record
from harness.store import Store


def record(seed: int, **changes: object) -> Record:
    fields = {
        "outcome": "ok",
        "values": {"score": 0.5},
        "note": "",
        "digests": {"spec": "a"},
        "machine": "here",
        "versions": {"torch": "2"},
    }
    return Record(
        **{
            **fields,
            "cell": Cell("correctness", "rotary", "pairs", seed=seed),
            "time_s": 0.1,
            "at": "2026-01-01T00:00:00+00:00",
            "run": "r",
            **changes,
        }
    )


def test_what_is_written_is_read(tmp_path: Path):
    store = Store(tmp_path)
    written = [record(0), record(1, values={"score": float("inf"), "samples": [1.0, float("nan")]}, note="ä\nb")]
    for one in written:
        store.append(one)
    first, second = store.read()
    assert first == written[0]
    assert second.note == "ä\nb"
    assert float(second.values["score"]) == float("inf")
    assert second.identity == written[1].identity


def test_an_unfinished_line_is_passed_over_and_closed(tmp_path: Path):
    store = Store(tmp_path)
    store.append(record(0))
    path = store.path("here", "correctness")
    whole = path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert [r.cell.seed for r in store.read()] == [0] if cut < len(whole) - 1 else [0, 0]
        store.append(record(1))
        assert [r.cell.seed for r in store.read()][-1] == 1
        assert list(store.lines()).count(None) == (cut < len(whole) - 1)


@pytest.mark.parametrize("values", [{"step_s": {"128": [0.1]}}, {"step_s": {}}, {"state_bytes": [None]}, {"peak_bytes": "none"}])
def test_what_values_mean_is_known_to_their_suite_alone(values: dict[str, object], tmp_path: Path):
    Store(tmp_path).append(record(0, values=values))
    assert [r.values for r in Store(tmp_path).read()] == [values]


@pytest.mark.parametrize(
    "change",
    [
        {"digests": {"implementation": 5}},
        {"versions": {"torch": None}},
        {"run": None},
        {"time_s": "x"},
        {"cell": Cell("correctness", "rotary", "pairs", case=5)},  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_line_whose_parts_are_of_the_wrong_kind_is_no_record(change: dict[str, object], tmp_path: Path):
    store = Store(tmp_path)
    store.append(record(0))
    store.append(record(1, **change))
    assert [r.cell.seed for r in store.read()] == [0]
    assert list(store.lines()).count(None) == list(store.lines("correctness", "here")).count(None) == 1
    assert not list(store.lines("memory"))


def _write(root: str, first: int, count: int) -> None:
    for seed in range(first, first + count):
        Store(Path(root)).append(record(seed, note="x" * 5000))


def test_two_writers_do_not_mix_their_lines(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path), first, 60)) for first in (0, 1000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seeds = [r.cell.seed for r in Store(tmp_path).read()]
    assert sorted(seeds) == [*range(60), *range(1000, 1060)]
    assert [s for s in seeds if s < 1000] == list(range(60))


def test_a_run_that_is_killed_loses_nothing_and_the_next_goes_on(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "harness",
        "run",
        "suite=correctness",
        "spec=rotary",
        "impl=pairs",
        "case=plain,wide,far",
        "dtype=float32",
        f"results={tmp_path}",
        "workers=1",
    ]
    store, kept = Store(tmp_path), 0
    for _ in range(2):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while len(list(store.read())) < kept + 2 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        now = len(list(store.read()))
        assert now >= kept, "a stored record is lost"
        kept = now
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stdout + last.stderr
    keys = [r.cell.key for r in store.read()]
    assert len(keys) == len(set(keys)), "a cell that was answered was asked again"
    assert f"{len(keys)} cells: {len(keys)} ok ({kept} from the store)" in last.stdout
