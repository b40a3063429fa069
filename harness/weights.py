"""Trained weights, kept by content: whoever asks with the same data, code, settings and seed gets them without training.

They lie in $HARNESS_CACHE, else in the user's cache folder; deleting that folder costs time and nothing else.
A file that is damaged is made again: each is checked against its own sums before it is read.
"""

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from harness import catalogue
from harness.contract import ContractError
from harness.nn.train import CannotLearn

# What `zipfile` raises of bytes that are not those that were written; of a lack of memory or of a right to read it raises others.
DAMAGED = (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def folder() -> Path:
    """Where weights are kept."""
    own = os.environ.get("HARNESS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sequence-harness"


def digests(followed: Iterable[Path], alone: Iterable[Path]) -> list[str]:
    """Of files with all that they import, then of files by themselves: the code that weights are made of."""
    return [*map(catalogue.digest, followed), *(hashlib.sha256(path.read_bytes()).hexdigest() for path in alone)]


def trained(made_of: Mapping[str, Any], train: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """What `train` returns for all that it is made of, and whether it was kept from before.

    What is returned is a dict of tensors, numbers, texts, lists and dicts of these. ContractError where a model cannot learn.
    """
    key = hashlib.sha256(json.dumps(dict(made_of), sort_keys=True).encode()).hexdigest()[:24]
    path = folder() / "weights" / f"{key}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two that want the same weights at once do not both train; the lock ends with the process that holds it.
    with FileLock(path.with_suffix(".lock")):
        if whole(path):
            return torch.load(path, weights_only=True), True
        made = _made(train)
        # Under another name first: a file of this name is always whole, whenever a run is killed.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            torch.save(made, part)
            part.flush()
            os.fsync(part.fileno())  # else a machine that stops may leave the name and not what it names
        os.replace(part.name, path)
    return made, False


def _made(train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `train` returns; a model that cannot learn is a fault of its implementation."""
    try:
        return train()
    except CannotLearn as why:
        raise ContractError(str(why)) from why


def whole(path: Path) -> bool:
    """Whether a file is there and every bit of it is what was written."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except DAMAGED:
        return False  # a verdict, not a fault: the record says that the weights were trained in this run
