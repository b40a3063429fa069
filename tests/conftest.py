"""What all tests share: one thread each, for several run at a time; and no mode of the processor is left to the next."""

import os

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
