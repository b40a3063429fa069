"""The text that models are trained and measured on: documents of bytes, split by document; it knows no model.

By default Python's own standard library, which is on every machine that can run the harness: a fixed list of
modules that 3.11, 3.12 and 3.13 share, so nothing is downloaded. Their wording differs between Python versions,
hence the digest: bits per byte compare only under the same digest.
"""

import hashlib
import math
import os
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Left out: what distributions package apart (tkinter, turtle, idlelib, ensurepip, venv, test) and generated tables.
TRAIN = """
    _pydecimal inspect typing pydoc email/_header_value_parser doctest unittest/mock urllib/request _pyio pickletools
    subprocess logging/__init__ enum mailbox ipaddress asyncio/base_events importlib/_bootstrap_external
    xml/dom/minidom pickle pdb logging/handlers ast optparse unittest/case threading http/client shutil imaplib ssl
    collections/__init__ asyncio/unix_events xmlrpc/client http/server importlib/_bootstrap email/message
    multiprocessing/managers smtplib asyncio/selector_events re/_parser platform traceback os functools socket codecs
    logging/config xmlrpc/server xml/dom/expatbuilder ftplib concurrent/futures/process asyncio/tasks
    asyncio/windows_events asyncio/proactor_events multiprocessing/pool bdb multiprocessing/connection random
    asyncio/sslproto importlib/metadata/__init__ zipimport ntpath _collections_abc tempfile pstats trace dis
    asyncio/events plistlib uuid contextlib asyncio/streams tokenize re/_compiler _strptime webbrowser
    zoneinfo/_zoneinfo pkgutil email/header modulefinder profile concurrent/futures/_base email/feedparser mimetypes
    site tomllib/_parser unittest/loader wave wsgiref/handlers weakref gettext base64 warnings email/headerregistry
    http/cookies compileall email/generator selectors asyncio/locks multiprocessing/shared_memory tracemalloc
"""
HELD_OUT = """
    tarfile argparse difflib http/cookiejar xml/etree/ElementTree dataclasses configparser statistics urllib/parse
    fractions socketserver calendar pprint gzip heapq textwrap
"""
HELD_OUT_SHARE = (0.1, 0.2)  # of the user's bytes, how much is held out: at least, at most


@dataclass(frozen=True)
class Text:
    """Documents of bytes, disjoint between `train` and `held_out`; `digest` is the sha256 of all of them in order."""

    name: str
    train: tuple[bytes, ...]
    held_out: tuple[bytes, ...]
    digest: str


def load(path: str | os.PathLike[str] | None = None, longest: int = 2048, scored: int = 1) -> Text:
    """The standard library, or the user's own file or folder (UTF-8; a folder is split by file, a file in two spans).

    `longest` is the longest context, in bytes, that will be measured, and `scored` how many held-out bytes are scored after
    one, none of them twice. Raises ValueError, with what to do next, where the text cannot serve: missing, not text, of one
    byte over and over, or too small to train on and to hold that much out.
    """
    if path is None:
        text = standard_library()
    elif Path(path).is_dir():
        text = _folder(Path(path), longest)
    elif Path(path).is_file():
        text = _file(Path(path))
    else:
        raise ValueError(f"text={path}: no such file or folder.\n  Leave text= out to use the standard library.")
    _check_sizes(text, longest, scored)
    _check_bytes(text)
    return text


def standard_library(root: str | os.PathLike[str] | None = None) -> Text:
    """The fixed modules of the standard library under `root` (default: that of the Python that runs)."""
    root = Path(root or sysconfig.get_paths()["stdlib"])
    name = f"the standard library of Python {sysconfig.get_python_version()}"
    return _text(name, [_module(root, m) for m in TRAIN.split()], [_module(root, m) for m in HELD_OUT.split()])


def _module(root: Path, name: str) -> bytes:
    path = root / f"{name}.py"
    if not path.is_file():
        raise ValueError(
            f"the default text is Python's standard library in source, but {path} is missing.\n"
            "  Some distributions ship it compiled (.pyc) or zipped only, or package this module apart.\n"
            "  Install the full Python, or give a text of your own: text=FILE_OR_FOLDER."
        )
    return _read(path)


def _read(path: Path) -> bytes:
    """The file with Unix line ends, so that one Python version has one digest on every system."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def _folder(root: Path, longest: int) -> Text:
    documents = {}
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and _is_text(content := _read(path)):
            documents[hashlib.sha256(content).digest()] = content  # a copy of a file counts once: the split stays disjoint
    if not documents:
        raise ValueError(f"text={root}: the folder holds no text file (UTF-8, not empty).")
    total = sum(map(len, documents.values()))
    enough, most = (share * total for share in HELD_OUT_SHARE)
    held_out: dict[bytes, bytes] = {}
    size = 0
    for key in sorted(documents):  # in the order of their hashes: as good as shuffled, and the same everywhere
        content = documents[key]
        if size < enough and len(content) > longest and size + len(content) <= most:
            held_out[key] = content
            size += len(content)
    if size < enough:
        least, most_of_all = HELD_OUT_SHARE
        raise ValueError(
            f"text={root}: {'too little' if held_out else 'no file'} can be held out.\n"
            f"  {len(documents)} different text files, {total} bytes; needed: files longer than {longest} bytes that are"
            f" {least:.0%} of all at least and {most_of_all:.0%} at most, found: {size} bytes\n"
            "  Add files, or join them into one file and give that: a single file is split into two spans."
        )
    return _text(root.name, [c for k, c in documents.items() if k not in held_out], held_out.values())


def _file(path: Path) -> Text:
    content = _read(path)
    if not _is_text(content):
        raise ValueError(f"text={path}: the file is not text (UTF-8, not empty).")
    cut = int(len(content) * (1 - HELD_OUT_SHARE[0]))
    return _text(path.name, [content[:cut]], [content[cut:]])


def _is_text(content: bytes) -> bool:
    try:
        return bool(content) and "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _text(name: str, train: Iterable[bytes], held_out: Iterable[bytes]) -> Text:
    train, held_out = tuple(train), tuple(held_out)
    digest = hashlib.sha256()
    for role, documents in (("train", train), ("held_out", held_out)):
        for document in documents:
            digest.update(f"{role} {len(document)}\n".encode())
            digest.update(document)
    return Text(name, train, held_out, digest.hexdigest())


def _check_sizes(text: Text, longest: int, scored: int) -> None:
    train, room = sum(map(len, text.train)), sum(max(0, len(document) - longest) for document in text.held_out)
    if train < 16 * longest or room < scored:
        enough = max(16 * longest / (1 - HELD_OUT_SHARE[0]), (longest + scored) / HELD_OUT_SHARE[0])
        raise ValueError(
            f"{text.name} is too small for contexts of {longest} bytes.\n"
            f"  to train on:   {train} bytes, needed {16 * longest}\n"
            f"  to measure on: {room} bytes after the first {longest} of held-out documents, needed {scored}\n"
            f"  Give a longer text (a file of {math.ceil(enough) + 1} bytes is enough), or a shorter longest context."
        )


def _check_bytes(text: Text) -> None:
    """One byte is exchanged for another to see what a model remembers of it."""
    if any(len(set(document)) < 2 for document in text.held_out):
        raise ValueError(
            f"{text.name} has a held-out document that is one byte over and over.\n"
            "  Needed: two different bytes at least in each, for what is remembered of a byte is measured with another there."
        )
