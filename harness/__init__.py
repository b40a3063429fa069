"""The face of the harness: the few names that an implementation needs."""


class Unsupported(Exception):
    """Raised with a sentence by an implementation that does not do what is asked; an answer, not a failure."""
