"""What a call needs, beyond time: operations and bytes by formula, bytes at the peak, bytes from step to step, parameters."""

from . import _asking, _registry

UNITS = {"flops": "operations", "bytes": "bytes", "peak_bytes": "bytes", "state_bytes": "bytes"}
OF_MODELS = {"parameters": "numbers", "weights_bytes": "bytes"}


def _tracking(quantity, unit, names):
    def track(self, name):
        return self.record.values[quantity]

    track.params, track.unit = [names], unit
    return track


def _tracked(spec):
    class Tracked:
        version = _registry.version("memory", spec)
        param_names = ("cell",)
        timeout = 1800

        def setup(self, name):
            self.record = _asking.one(_asking.counted("memory", name))

    for quantity, unit in UNITS.items():
        if names := _registry.cells(spec, *(["step"] if quantity == "state_bytes" else [])):
            setattr(Tracked, f"track_{quantity}", _tracking(quantity, unit, names))
    for quantity, unit in OF_MODELS.items() if _registry.of_models(spec) else ():
        setattr(Tracked, f"track_{quantity}", _tracking(quantity, unit, _registry.cells(spec, "forward")))
    Tracked.__name__ = spec  # by which asv calls it
    return Tracked


globals().update({spec: _tracked(spec) for spec in _registry.specs()})
