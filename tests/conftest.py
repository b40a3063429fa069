"""What all tests share: one thread each, for several run at a time; and no mode of the processor is left to the next."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

# Also of every process that a test starts: two threads each wait for one another where others have the cores, ten times over.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _denormal_numbers_are_numbers():
    """Suites that train flush them to zero in their worker; here they would do it to whatever is tested next."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def git() -> Callable[..., str]:
    """What git says of a checkout, by somebody without settings of their own."""

    def run(place: Path, *words: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", str(place), *own, *words], capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture
def committed(git: Callable[..., str]) -> Callable[..., Path]:
    """Makes a folder a checkout of one commit, `main`, with these files beside what lies there."""

    def make(place: Path, files: Mapping[str, str] = {}) -> Path:
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        git(place, "init", "--quiet", "--initial-branch=main")
        git(place, "add", "--all")
        git(place, "commit", "--quiet", "--message=first")
        return place

    return make
