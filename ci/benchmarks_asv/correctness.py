"""The worst score of every implementation in each dtype: error over rounding budget, in all cases, families and laws."""

from . import _asking, _registry


def _tracked(spec):
    class Tracked:
        version = _registry.version("correctness", spec)
        params = (_registry.judged(spec),)
        param_names = ("implementation",)
        timeout = 3600

        def setup(self, name):
            records = _asking.counted("correctness", name)
            failed = [record for record in records if record.outcome not in ("ok", "unsupported")]
            self.good = [record for record in records if record.outcome == "ok"]
            _asking.one((failed or self.good or records)[:1])

        def track_worst_score(self, name):
            return max(float(record.values["score"]) for record in self.good)

        track_worst_score.unit = "budgets"

    Tracked.__name__ = spec  # by which asv calls it
    return Tracked


globals().update({spec: _tracked(spec) for spec in _registry.specs()})
