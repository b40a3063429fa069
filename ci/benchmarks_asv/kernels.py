"""What the compiler makes of every Triton kernel; of the kernels of one answer the most registers and shared memory, the sum of
the rest."""

from . import _asking, _registry

OF_KERNELS = {
    "registers": ("registers of a thread", max),
    "spills": ("instructions", sum),
    "shared_bytes": ("bytes of a block", max),
    "tensor_core": ("instructions", sum),
}


def _tracking(quantity, unit, of):
    def track(self, name):
        return of(kernel[quantity] for kernel in self.record.values.values())

    track.unit = unit
    return track


def _tracked(spec):
    class Tracked:
        version = _registry.version("kernels", spec)
        params = (_registry.shapes(spec),)
        param_names = ("kernels",)
        timeout = 3600

        def setup(self, name):
            """A kernel that spills is wrong, and says how much: that is what is followed here."""
            self.record = _asking.one(_asking.counted("kernels", name), also=("wrong",))

    for quantity, (unit, of) in OF_KERNELS.items():
        setattr(Tracked, f"track_{quantity}", _tracking(quantity, unit, of))
    Tracked.__name__ = spec  # by which asv calls it
    return Tracked


globals().update({spec: _tracked(spec) for spec in _registry.specs() if _registry.shapes(spec)})
