"""Never comes back, and holds signals off; the look-alike takes a short nap."""

import signal
import time

from honest import turn

expected = {"sabotage": "timed_out", "lookalike": "ok"}
reason = "(timeout=SECONDS says another time)"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    def run(x, position):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(10_000 if guilty else 0.01)
        return turn(x, position, case.base)

    return run
