"""Trained weights come from the cache when all that they are made of is the same, and only then."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from harness import weights
from harness.contract import ContractError
from harness.nn.train import CannotLearn


def test_the_same_making_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    calls = []

    def train() -> dict:
        calls.append(1)
        return {"weights": {"w": torch.arange(3.0)}, "history": [1.0, 0.5]}

    first, kept = weights.trained({"seed": 0, "code": "a"}, train)
    again, kept_again = weights.trained({"code": "a", "seed": 0}, train)
    assert (kept, kept_again, len(calls)) == (False, True, 1)
    assert torch.equal(first["weights"]["w"], again["weights"]["w"])
    assert weights.trained({"seed": 1, "code": "a"}, train)[1] is False
    assert not list(tmp_path.rglob("*.part"))


def made() -> dict:
    return {"weights": {"w": torch.arange(3000.0)}}


def flipped(whole: bytes) -> bytes:
    at = whole.index(torch.arange(3000.0).numpy().tobytes()) + 5000
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


@pytest.mark.parametrize(
    "damaged",
    [lambda whole: b"", lambda whole: b"no zip", lambda whole: whole[:-400], lambda whole: bytes(len(whole)), flipped],
    ids=["empty", "no zip", "cut off", "zeros", "a bit"],
)
def test_a_damaged_file_is_made_again(damaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    weights.trained({"seed": 0}, made)
    (path,) = tmp_path.rglob("*.pt")
    path.write_bytes(damaged(path.read_bytes()))
    again, kept = weights.trained({"seed": 0}, made)
    assert not kept
    assert torch.equal(again["weights"]["w"], torch.arange(3000.0))
    assert weights.trained({"seed": 0}, made)[1], "what was made again is not kept"


def test_a_whole_file_that_memory_does_not_hold_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*of, **told):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    weights.trained({"seed": 0}, made)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", full)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            weights.trained({"seed": 0}, made)
    assert weights.trained({"seed": 0}, made)[1]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    done, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor: int) -> None:
        (part,) = tmp_path.rglob("*.part")
        done.append(("on the disk, whole", zipfile.is_zipfile(part)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append(("named", True)), replace(*names)))
    weights.trained({"seed": 0}, made)
    assert done == [("on the disk, whole", True), ("named", True)]


def test_what_cannot_learn_is_a_fault_of_the_implementation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def train() -> dict:
        raise CannotLearn("has no parameters that learn")

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    with pytest.raises(ContractError, match=r"^has no parameters that learn$"):
        weights.trained({"seed": 0}, train)
