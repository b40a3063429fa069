"""Claims of the papers on learning in context, trial by trial; `harness.readings` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.readings import Claim, short

from .baselines import EXACT
from .training import TRAINED, TUNED

only_tells = True  # no record hangs on it


@dataclass(frozen=True)
class Score:
    """The one number of a probe, of a model or of a baseline that was asked the same trials."""

    of: str
    task: str
    whose: str = TRAINED

    def samples(self, values: Mapping[str, Any]) -> Any:
        """By trial."""
        return values["score"].get(self.whose)

    def told(self) -> str:
        return f"{short(self.of) if self.whose == TRAINED else self.whose} in {self.task}"


@dataclass(frozen=True)
class Column:
    """One column of a probe, after training or after symbol tuning."""

    of: str
    task: str
    name: str
    after: str = TRAINED

    def samples(self, values: Mapping[str, Any]) -> Any:
        """By trial; nothing where it was not measured."""
        return values["found"].get(self.after, {}).get(self.name)

    def told(self) -> str:
        return f"{short(self.of)} {self.after} ({self.name})"


ROPE, LSTM = "transformer_rope/torch_sdpa", "lstm_lm/torch_lstm"
RETNET, LINEAR = "retnet/torch_parallel", "linear_transformer/torch_chunks"
HYENA, NF4 = "hyena_lm/torch_fft", "transformer_quantized/torch_plain:nf4"
HOLDS = 0.05  # share right, or of the variance: less than this is no change worth the name
ORDINARY, FLIPPED, HELD_OUT = "prior, 0 %", "context, 100 %", "symbols, of two"


def _tuned(name: str) -> Column:
    return Column(ROPE, "remapping", name, TUNED)


def _trained(name: str) -> Column:
    return Column(ROPE, "remapping", name)


CLAIMS = (
    Claim("attention recalls more than a long convolution", "2312.04927", Score(ROPE, "mqar"), Score(HYENA, "mqar")),
    Claim(
        "a long convolution recalls as attention does",
        "2302.10866",
        Score(ROPE, "mqar"),
        Score(HYENA, "mqar"),
        HOLDS,
        by_less=True,
    ),
    Claim("attention recalls more than linear attention", "2402.18668", Score(ROPE, "mqar"), Score(LINEAR, "mqar")),
    Claim("RetNet recalls as attention does", "2307.08621", Score(ROPE, "mqar"), Score(RETNET, "mqar"), HOLDS, by_less=True),
    Claim("NF4 keeps what is learned in context", "2305.14314", Score(ROPE, "mqar"), Score(NF4, "mqar"), HOLDS, by_less=True),
    Claim(
        "two layers of attention learn induction",
        "2209.11895",
        Score(ROPE, "induction", EXACT),
        Score(ROPE, "induction"),
        HOLDS,
        by_less=True,
    ),
    Claim(
        "a transformer comes near least squares",
        "2208.01066",
        Score(ROPE, "regression", EXACT),
        Score(ROPE, "regression"),
        HOLDS,
        by_less=True,
    ),
    Claim(
        "a transformer learns unseen automata better than an LSTM", "2401.12973", Score(ROPE, "automata"), Score(LSTM, "automata")
    ),
    Claim(
        "a transformer learns them better than RetNet",
        "2401.12973",
        Score(ROPE, "automata"),
        Score(RETNET, "automata"),
    ),
    Claim("who met flipped labels in training follows them", "2303.03846", _trained(FLIPPED), _trained("prior, 100 %")),
    Claim("symbol tuning teaches symbols that it did not show", "2305.08298", _tuned(HELD_OUT), _trained(HELD_OUT)),
    Claim("symbol tuning keeps ordinary labels", "2305.08298", _trained(ORDINARY), _tuned(ORDINARY), HOLDS, by_less=True),
    Claim("symbol tuning keeps following flipped labels", "2305.08298", _trained(FLIPPED), _tuned(FLIPPED), HOLDS, by_less=True),
)
