"""A pass key hidden in dull text, at several depths and lengths, as rows for lm_eval.

After "Landmark Attention" (Mohtashami and Jaggi 2023, arXiv:2305.16300, section 4.2). A length is that of the whole prompt in
bytes, so that it means the same for every tokenizer; the prompt is the longest of whole sentences that fits. This file knows
lm_eval and nothing of the harness.
"""

from random import Random
from typing import Any

from datasets import Dataset

TASK = "There is a pass key in this text. Find it and remember it. "
FILLER = ("The grass is green. ", "The sky is blue. ", "The sun is yellow. ", "Here we go. ", "There and back again. ")
HIDDEN = "The pass key is {0}. Remember it. {0} is the pass key. "
QUESTION = "What is the pass key? The pass key is"
DEPTHS = (0, 25, 50, 75, 100)  # per cent of the filler that stands before the key
KEYS = range(10_000, 100_000)


def rows(length: int, each: int = 8, **told: Any) -> dict[str, Dataset]:
    """`each` prompts of `length` bytes for each depth; lm_eval hands over what else it was `told`.

    ValueError where the length leaves no room for any filler.
    """
    dice = Random(f"pass key, {length}")
    return {"test": Dataset.from_list([_row(length, depth, dice.choice(KEYS)) for _ in range(each) for depth in DEPTHS])}


def _row(length: int, depth: int, key: int) -> dict[str, Any]:
    hidden = HIDDEN.format(key)
    room = length - len(TASK + hidden + QUESTION)
    filler: list[str] = []
    while len("".join(filler)) + len(sentence := FILLER[len(filler) % len(FILLER)]) <= room:
        filler.append(sentence)
    if len(filler) < len(DEPTHS) - 1:
        raise ValueError(f"{length} bytes are too few for a pass key at {len(DEPTHS)} depths; try 256")
    place = round(len(filler) * depth / 100)
    return {"prompt": "".join([TASK, *filler[:place], hidden, *filler[place:], QUESTION]), "key": str(key), "depth": depth}


def score(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Of one row: whether the first number said is the key; by depth too."""
    digits = "".join(c if c.isdigit() else " " for c in answers[0]).split()
    right = float(digits[:1] == [row["key"]])
    return {"acc": right, f"acc_at_{row['depth']}": right}
