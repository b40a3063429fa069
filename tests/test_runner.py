"""How the end of a worker is told, whatever ended it; and who is ended where the machine is full."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import runner
from harness.cell import Cell, Record


@pytest.mark.parametrize(
    ("exitcode", "told"),
    [
        (None, "the worker closed its connection"),
        (3, "the worker exited with status 3 and without an answer"),
        (-11, "the worker was killed by SIGSEGV"),
        (-9, "the worker was killed by SIGKILL (perhaps by the system, for want of memory)"),
        (-35, "the worker was killed by signal 35"),
    ],
)
def test_every_end_of_a_worker_is_told_in_words(exitcode: int | None, told: str):
    assert runner._how_it_ended(exitcode) == told


@pytest.mark.parametrize(("told", "threads"), [("", 8), ("3", 3), ("16", 8), ("0", 8), ("4,2", 8)])
def test_workers_share_the_cores_and_keep_to_the_threads_that_were_told(told: str, threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner.machine, "cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert runner.Limits(workers=2).threads == threads


def test_where_the_machine_is_full_the_largest_worker_is_ended_and_told(monkeypatch: pytest.MonkeyPatch):
    """Before the system ends somebody, perhaps the harness itself; the cell after it is asked."""
    records: list[Record] = []
    monkeypatch.setattr(runner.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40 if records else 0))
    monkeypatch.setattr(runner, "SPARE_BYTES", 2**24)
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_LOOKS", 0.01)  # the cell may take less than a look
    cells = [Cell("correctness", "rotary", "pairs", "", "plain", "float32", settings={"family": f}) for f in ("normal", "large")]
    for record in runner.run([(cell, {}) for cell in cells], runner.Limits(workers=1), None):
        records.append(record)  # from then on there is room
    assert [record.outcome for record in records] == ["out_of_memory", "ok"]
    assert "the machine had too little left for all that ran; alone it may pass: workers=1" in records[0].note


def test_what_takes_too_long_says_what_it_was_at(monkeypatch: pytest.MonkeyPatch):
    """A reference in float64 may take longer than the code that it judges."""
    worker = runner.Worker(runner.Limits(time_s=2.0))
    monkeypatch.setattr(worker, "_elapsed", lambda: 3.0)
    notes = []
    for worker.progress in ((0.0, ""), (0.1, "judging")):
        notes.append(worker._over_limits()[0].note)
    assert notes == [f"no answer within 2 s{at} (timeout=SECONDS says another time)" for at in ("", ", at: judging")]


def test_a_file_that_cannot_be_loaded_is_tried_once_and_no_cell_is_left_out(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        f'"""Mine."""\nopen({str(tmp_path / "loads")!r}, "a").write("load ")\nimport nowhere\ndef prepare(case): ...\n'
    )
    families = ("normal", "large", "needle")
    cells = [
        Cell("correctness", "rotary", str(tmp_path / "mine.py"), "", "plain", "float32", settings={"family": f}) for f in families
    ]
    records = list(runner.run([(cell, {}) for cell in cells], runner.Limits(workers=1), None))
    assert [record.cell for record in records] == cells
    assert {(record.outcome, record.note.partition(" (")[0]) for record in records} == {
        ("crashed", "raised ModuleNotFoundError: No module named 'nowhere'")
    }
    assert (tmp_path / "loads").read_text() == "load ", "each cell waits for another process that fails alike"


def test_a_run_that_ends_before_its_first_cell_leaves_no_process_that_imports(tmp_path: Path):
    """It would write into the folders of a comparison while these are removed."""
    code = "from harness import runner; runner.start_early(); print(runner.forkserver._forkserver._forkserver_pid)"
    with (tmp_path / "pid").open("w") as file:  # a pipe would be waited for until that process closes it
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
