"""Models of lm_eval that are built by hand: one that reads the prompt and solves each task, one that reads nothing."""

import re

from lm_eval.api.model import LM

POSITIVE, NEGATIVE = 1, 0


class Solver(LM):
    """Knows the class of every input, and finds in the demonstrations which label goes with which class; finds the pass key.

    Where the demonstrations say nothing, it takes the meaning of the labels.
    """

    def __init__(self, classes: dict[str, int]):
        super().__init__()
        self.classes = classes
        self.prompts: list[str] = []

    def loglikelihood(self, requests):
        return [self._scored(*request.args) for request in requests]

    def _scored(self, context: str, continuation: str) -> tuple[float, bool]:
        self.prompts.append(context)
        shown = re.findall(r"Input: (.*)\nSentiment: (\w+)", context)
        asked = re.findall(r"Input: (.*)\nSentiment:$", context)[0]
        votes = {"Positive": 0.5, "Negative": -0.5}  # for class 1, by label
        for text, label in shown:
            votes[label] = votes.get(label, 0) + (1 if self.classes[text] == POSITIVE else -1)
        vote = votes.get(continuation.strip(), 0)
        right = vote > 0 if self.classes[asked] == POSITIVE else vote < 0
        return (-0.1 if right else -2.0), right

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError("no task here asks it")

    def generate_until(self, requests):
        return [f" {re.findall(r'The pass key is ([0-9]+)', request.args[0])[0]}" for request in requests]


class Blind(Solver):
    """Never looks at the context: the same label, and the same key, always."""

    def __init__(self):
        super().__init__({})

    def _scored(self, context: str, continuation: str) -> tuple[float, bool]:
        return (-0.1, True) if continuation.strip() in ("Positive", "Foo") else (-2.0, False)

    def generate_until(self, requests):
        return [" 54321"] * len(requests)
