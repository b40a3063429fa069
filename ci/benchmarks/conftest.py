"""Which cells of suite=speed are benchmarks here: pytest ci/benchmarks --benchmark-only --cells "spec=attention case=causal"."""

import os

import pytest

SMALL = "spec=rotary,attention impl=complex,pairs,torch_sdpa,triton_flash case=plain,causal form=forward"


def pytest_addoption(parser: pytest.Parser) -> None:
    said = "words of `harness run suite=speed` that select the cells to time; or the variable HARNESS_CELLS"
    parser.addoption("--cells", default=os.environ.get("HARNESS_CELLS", SMALL), help=said)


def pytest_configure(config: pytest.Config) -> None:
    """One process, unless asked otherwise: how pyproject.toml says to spread tests makes pytest-benchmark measure nothing."""
    if not config.getoption("numprocesses", None):
        config.option.dist = "no"
