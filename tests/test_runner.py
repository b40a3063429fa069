"""How the end of a worker is told, whatever ended it."""

import pytest

from harness import runner


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
    assert runner._end(exitcode) == told
