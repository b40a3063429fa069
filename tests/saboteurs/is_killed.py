"""Is killed from outside, as by the system for want of memory; the look-alike gets a signal that it ignores."""

import os
import signal

from honest import turn

expected = {"sabotage": "crashed", "lookalike": "ok"}
reason = "killed by SIGKILL"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGKILL if guilty else signal.SIGUSR1)
        return turn(x, position, case.base)

    return run
