"""Time, by the clock of the harness: a worker judges the cell, warms up, gives each call fresh inputs, and judges again.

asv's timer is here a clock that the samples of that worker advance, one a call: what asv stores, compares and draws are those
samples, and none of its own. Each of its rounds asks a fresh worker.
"""

from . import _asking, _registry


def _timing(names):
    def time(self, name):
        self.now += next(self.samples)

    time.params = [names]
    return time


def _timed(spec):
    class Timed:
        version = _registry.version("speed", spec)
        param_names = ("cell",)
        number, warmup_time, rounds, timeout = 1, 0, 2, 1800
        now, samples = 0.0, None

        def setup(self, name):
            """Called before every sample, asked once."""
            if self.samples is None:
                seconds = _asking.timed(name).values["seconds"]
                self.repeat, self.samples = len(seconds), iter(seconds)

        def timer(self):
            return self.now

    for form in ("forward", "training", "step"):
        if names := _registry.cells(spec, form):
            setattr(Timed, f"time_{form}", _timing(names))
    Timed.__name__ = spec  # by which asv calls it
    return Timed


globals().update({spec: _timed(spec) for spec in _registry.specs()})
