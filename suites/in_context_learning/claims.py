"""Claims of the papers on learning in context, trial by trial; `harness.readings` reads them."""

from harness.readings import Claim, Quantity, short

from .baselines import EXACT
from .training import TRAINED, TUNED

only_tells = True  # no record hangs on it


ROPE, LSTM = "transformer_rope/torch_sdpa", "lstm_lm/torch_lstm"
RETNET, LINEAR = "retnet/torch_parallel", "linear_transformer/torch_chunks"
HYENA, NF4 = "hyena_lm/torch_fft", "transformer_quantized/torch_plain:nf4"
HOLDS = 0.05  # share right, or of the variance: less than this is no change worth the name
ORDINARY, FLIPPED, HELD_OUT = "prior, 0 %", "context, 100 %", "symbols, of two"


def score(of: str, task: str, whose: str = TRAINED) -> Quantity:
    """The one number of a probe, of a model or of a baseline that was asked the same trials."""
    return Quantity(of, task, ("score", whose), f"{short(of) if whose == TRAINED else whose} in {task}")


def labels(name: str, after: str = TRAINED) -> Quantity:
    """One column of the labels that are remapped, of RoPE after training or after symbol tuning."""
    return Quantity(ROPE, "remapping", ("found", after, name), f"{short(ROPE)} {after} ({name})")


CLAIMS = (
    Claim("attention recalls more than a long convolution", "2312.04927", score(ROPE, "mqar"), score(HYENA, "mqar")),
    Claim(
        "a long convolution recalls as attention does",
        "2302.10866",
        score(ROPE, "mqar"),
        score(HYENA, "mqar"),
        HOLDS,
        by_less=True,
    ),
    Claim("attention recalls more than linear attention", "2402.18668", score(ROPE, "mqar"), score(LINEAR, "mqar")),
    Claim("RetNet recalls as attention does", "2307.08621", score(ROPE, "mqar"), score(RETNET, "mqar"), HOLDS, by_less=True),
    Claim("NF4 keeps what is learned in context", "2305.14314", score(ROPE, "mqar"), score(NF4, "mqar"), HOLDS, by_less=True),
    Claim(
        "two layers of attention learn induction",
        "2209.11895",
        score(ROPE, "induction", EXACT),
        score(ROPE, "induction"),
        HOLDS,
        by_less=True,
    ),
    Claim(
        "a transformer comes near least squares",
        "2208.01066",
        score(ROPE, "regression", EXACT),
        score(ROPE, "regression"),
        HOLDS,
        by_less=True,
    ),
    Claim(
        "a transformer learns unseen automata better than an LSTM", "2401.12973", score(ROPE, "automata"), score(LSTM, "automata")
    ),
    Claim(
        "a transformer learns them better than RetNet",
        "2401.12973",
        score(ROPE, "automata"),
        score(RETNET, "automata"),
    ),
    Claim("who met flipped labels in training follows them", "2303.03846", labels(FLIPPED), labels("prior, 100 %")),
    Claim("symbol tuning teaches symbols that it did not show", "2305.08298", labels(HELD_OUT, TUNED), labels(HELD_OUT)),
    Claim("symbol tuning keeps ordinary labels", "2305.08298", labels(ORDINARY), labels(ORDINARY, TUNED), HOLDS, by_less=True),
    Claim(
        "symbol tuning keeps following flipped labels", "2305.08298", labels(FLIPPED), labels(FLIPPED, TUNED), HOLDS, by_less=True
    ),
)
