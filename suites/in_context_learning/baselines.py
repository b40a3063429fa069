"""Whom every model stands beside: who finds all that the context tells, and who never looks at it."""

from .batch import Ask
from .scales import Probe

EXACT, BLIND = "exact solver", "context-blind"


def of(probe: Probe) -> dict[str, Ask]:
    """By name, what they answer to the rows of a probe."""
    return {EXACT: probe.exact, BLIND: probe.blind}
