"""What this machine can do: devices, Triton, compilers, extras; each lack with the command that mends it."""

import importlib.util
import shutil
import subprocess

from harness import machine

# Extra, module that it brings, what it is for.
EXTRAS = (
    ("triton", "triton", "kernels in Triton: compiled on a GPU, interpreted (for correctness) without"),
    ("oracles", "fla", "comparison of the references with published libraries"),
    ("lm-eval", "lm_eval", "language models through lm-evaluation-harness"),
    ("asv", "asv", "tracking of costs over commits"),
    ("parquet", "pyarrow", "tables as Parquet"),
)
COMPILERS = ("gcc", "clang", "nvcc", "ptxas")


def report() -> str:
    """The findings, one a line."""
    return "\n".join([*_machine(), "", *_torch(), *_triton(), "", *_compilers(), "", *_extras()])


def _machine() -> list[str]:
    return [
        f"machine    {machine.describe()}",
        f"           known in records as {machine.name()}",
        f"python     {machine.interpreter()}",
    ]


def _torch() -> list[str]:
    if not importlib.util.find_spec("torch"):
        return ["torch      not installed.  Install it: pip install torch"]
    import torch

    devices = [f"cuda ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return [f"torch      {torch.__version__}, {torch.get_num_threads()} threads", f"devices    {', '.join(['cpu', *devices])}"]


def _triton() -> list[str]:
    if not machine.version("triton"):
        return ["triton     not installed.  Install it: pip install 'sequence-harness[triton]'"]
    how = "compiled" if machine.gpus() else "interpreted here (correctness only): there is no GPU"
    return [f"triton     {machine.version('triton')}, {how}"]


def _compilers() -> list[str]:
    return [f"{name:<10} {_version(path) if (path := shutil.which(name)) else 'not found'}" for name in COMPILERS]


def _version(path: str) -> str:
    """What a compiler says of its version: the line that names a release, else the first."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout.splitlines()
    return next((line for line in reversed(said) if "release" in line), said[0] if said else path)


def _extras() -> list[str]:
    lines = []
    for extra, module, purpose in EXTRAS:
        there = importlib.util.find_spec(module) is not None
        lines.append(
            f"{extra:<10} {'installed' if there else 'not installed'}: {purpose}"
            + ("" if there else f".  pip install 'sequence-harness[{extra}]'")
        )
    return lines
