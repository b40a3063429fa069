"""What papers claim about quality, read from records: each claim a difference of two quantities, paired by trials and seeds.

A claim shows where the 95 % interval of the difference lies wholly on the claimed side of its margin, is refuted where it lies
wholly on the other, and is not resolved where it does neither. "Here" is a model of a few hundred thousand parameters and a
minute of training: what does not show at this size is not thereby wrong.

What was trained apart may differ by the luck of its seed, which of one seed nobody knows: such a difference is not resolved by
one seed, whatever its interval over trials. Two sides of the same trained weights, or after and before a further training of
these, share that luck: of one seed their verdict stands, and speaks of this one trained model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import catalogue, interval
from harness.cell import OK, Record
from harness.claims import verdict

only_tells = True  # no record hangs on it

BY_ONE_SEED = "not resolved by one seed"
RULE = "what was trained apart is not resolved by one seed"  # as titles say it


@dataclass(frozen=True)
class Quantity:
    """What was measured of a model in a task: `of` is the subject of its records, and `keys` lead to it in their values."""

    of: str
    task: str
    keys: tuple[str, ...]
    told: str  # as a table says it

    def samples(self, values: Mapping[str, Any]) -> Any:
        """A number a trial, the same trials of all models; a sentence or nothing where it was not measured."""
        found: Any = values
        for key in self.keys:
            found = found.get(key, {})
        return found

    @property
    def trained(self) -> tuple[str, str]:
        """The training that its weights come from: whose, and in which task."""
        spec, _, name = self.of.partition("/")
        return catalogue.implementation(spec, name.partition(":")[0]).facts.get("weights_of", self.of), self.task


@dataclass(frozen=True)
class Claim:
    """That `more` exceeds `less` by over `margin`; or, where `by_less`, that it exceeds it by less than that."""

    sentence: str
    source: str
    more: Quantity
    less: Quantity
    margin: float = 0.0
    by_less: bool = False

    @property
    def trained_apart(self) -> bool:
        """Whether its two sides come from two trainings."""
        return self.more.trained != self.less.trained


def readings(records: Sequence[Record], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """A row for each claim whose two quantities were measured, in the same trials and with the same seeds."""
    measured: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for record in records:
        if record.outcome == OK:
            measured.setdefault((record.cell.case, record.cell.subject), {})[record.cell.seed] = record.values
    rows = []
    for claim in claims:
        if differences := _paired(claim, measured):
            middle, width = interval.of_trials_and_seeds(differences)
            bound = "below" if claim.by_less else "above"
            here = verdict(middle - width, middle + width, **{bound: claim.margin})
            rows.append(
                {
                    "claim": claim.sentence,
                    "arXiv": claim.source,
                    "compares": f"{claim.more.told}, less {claim.less.told}",
                    "claimed": f"{bound} {claim.margin:g}",
                    "difference": round(middle, 3),
                    "difference ±": round(width, 3),
                    "seeds": len(differences),
                    "here": BY_ONE_SEED if claim.trained_apart and len(differences) == 1 else here,
                }
            )
    return rows


def short(subject: str) -> str:
    """A model as pictures and sentences name it: `transformer_streaming/torch_blocks:no_sinks` is `streaming:no_sinks`.

    One of a person's own, which no paper names, is named by its file, as is whoever does it otherwise than plainly in torch.
    """
    spec, _, implementation = subject.partition("/")
    name, colon, variant = implementation.partition(":")
    paper = spec.removeprefix("transformer_")
    plain = name.startswith("torch_") and not name.endswith(".py")
    return (name if spec == "language_model" else paper if plain else f"{paper}/{name}") + colon + variant


def _paired(claim: Claim, measured: Mapping[tuple[str, str], Mapping[int, Any]]) -> list[list[float]]:
    """By seed, the difference in each trial."""
    more, less = (measured.get((quantity.task, quantity.of), {}) for quantity in (claim.more, claim.less))
    found = []
    for seed in sorted(more.keys() & less.keys()):
        one, other = claim.more.samples(more[seed]), claim.less.samples(less[seed])
        if isinstance(one, list) and isinstance(other, list):
            found.append([a - b for a, b in zip(interval.numbers(one), interval.numbers(other), strict=True)])
    return found
