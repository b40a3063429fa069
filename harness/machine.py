"""What this machine is and what it can do, told without importing torch."""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

# Whatever can change a verdict or a number; a record made under others does not answer for these.
DECISIVE = ("torch", "triton")
PR_SET_PDEATHSIG = 1


@cache
def name() -> str:
    """A readable name, the same for the same processor, cores, memory and GPUs: `amd-epyc-9r14-2-cores-24-gib-3f2a`."""
    words = [processor(), f"{cores()} cores", f"{memory_bytes() / 2**30:.0f} GiB", *gpus()]
    slug = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
    return f"{slug[:60].rstrip('-')}-{hashlib.sha256(slug.encode()).hexdigest()[:4]}"


@cache
def describe() -> str:
    """The machine in words, for the head of a table."""
    return ", ".join([processor(), f"{cores()} cores", f"{memory_bytes() / 2**30:.0f} GiB", *(gpus() or ["no GPU"])])


@cache
def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return re.sub(r"\((R|TM)\)| (CPU|Processor)\b|@.*", "", models[0]).strip() if models else platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@cache
def gpus() -> list[str]:
    """Names of the GPUs, as the driver says."""
    if not shutil.which("nvidia-smi"):
        return []
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
    return said.stdout.split("\n")[:-1] if said.returncode == 0 else []


@cache
def versions() -> dict[str, str]:
    """Versions that a record depends on: of Python, of the harness and of the decisive libraries."""
    found = {"python": platform.python_version(), "harness": version("sequence-harness") or "not installed"}
    return found | {library: v for library in DECISIVE if (v := version(library))}


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def interpreter() -> str:
    return f"Python {platform.python_version()} ({sys.executable})"


def end_with_parent() -> None:
    """Linux ends this process when the one that started it ends, in whatever way that was."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
