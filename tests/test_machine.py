"""What a machine is known by, and how a process ends with the one that started it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import machine


@pytest.mark.parametrize(
    ("what", "value"), [("gpus", ["Some GPU"]), ("cores", 3), ("memory_bytes", 2**50), ("processor", "Some (R)")]
)
def test_another_machine_has_another_name(what: str, value: object, monkeypatch: pytest.MonkeyPatch):
    before = machine.name.__wrapped__()
    monkeypatch.setattr(machine, what, lambda: value)
    assert machine.name.__wrapped__() != before
    assert re.fullmatch(r"[a-z0-9-]+", machine.name.__wrapped__()), "it is the name of a folder"


def test_a_driver_that_fails_names_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tool := tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'has failed: no driver'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus.__wrapped__() == []


def test_a_process_ends_with_the_one_that_started_it():
    child = "from harness import machine; machine.end_with_parent(); print('ready', flush=True); import time; time.sleep(60)"
    code = (
        f"import subprocess, sys; it = subprocess.Popen([sys.executable, '-c', {child!r}]); print(it.pid, flush=True); it.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        told = {parent.stdout.readline().strip() for _ in range(2)}
        parent.kill()
    place = Path("/proc", next(iter(told - {"ready"})), "stat")
    until = time.monotonic() + 5
    while (running := place.exists() and ") Z " not in place.read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not running, os.kill(int(place.parent.name), 9)
