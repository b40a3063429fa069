"""Claims of the papers, held against what was measured: each a difference of two rows, paired by windows of text or by trials.

A claim shows where the 95 % interval of the difference lies wholly on the claimed side of its margin, is refuted where it lies
wholly on the other, and is not resolved where it does neither. "Here" is a model of a few hundred thousand parameters and a
minute of training: what does not show at this size is not thereby wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness import interval
from harness.cell import OK, Record

from . import pictures
from .facts import DETECT, MEMORIZE, REASON


@dataclass(frozen=True)
class Row:
    """Bits per byte of a model at so many training lengths; `of` is the subject of its records."""

    of: str
    times: int
    task: ClassVar = "extrapolation"

    def samples(self, values: Mapping[str, Any], length: int) -> Any:
        """By window of text; a sentence or nothing where it was not measured."""
        return values["bits_per_byte"].get(str(self.times * length))

    def told(self, length: int) -> str:
        return f"{pictures.short(self.of)} at {self.times * length}"


@dataclass(frozen=True)
class Right:
    """Share right of a model in a memory task at so many segments."""

    of: str
    task: str
    segments: int

    def samples(self, values: Mapping[str, Any], length: int) -> Any:
        """By row; a sentence or nothing where it was not measured."""
        return values["accuracy"].get(str(self.segments))

    def told(self, length: int) -> str:
        return f"{pictures.short(self.of)} in {self.task} at {self.segments} segments"


@dataclass(frozen=True)
class Claim:
    """That `more` exceeds `less` by over `margin`; or, where `by_less`, that it exceeds it by less than that."""

    sentence: str
    source: str
    more: Row | Right
    less: Row | Right
    margin: float = 0.0
    by_less: bool = False


FLASH = "transformer_rope/triton_flash"
ROPE, ALIBI, RETNET = "transformer_rope/torch_sdpa", "transformer_alibi/torch_sdpa", "retnet/torch_parallel"
LM_INFINITE, STREAMING = "transformer_lm_infinite/torch_blocks", "transformer_streaming/torch_blocks"
INTERPOLATED, QUANTIZED = "transformer_interpolated/torch_sdpa", "transformer_quantized/torch_plain"
XPOS, WINDOW = "transformer_xpos/torch_sdpa", "transformer_window/torch_sdpa"
SINUSOIDAL, NOPE = "transformer_sinusoidal/torch_sdpa", "transformer_nope/torch_sdpa"
RMT, RMT_ENCODER = "rmt/torch_sdpa", "rmt_encoder/torch_sdpa"
HOLDS = 0.05  # bits per byte, or share right: less than this is no change worth the name

CLAIMS = (
    Claim("RoPE fails past its training length", "2306.15595, 2108.12409", Row(ROPE, 16), Row(ROPE, 1), HOLDS),
    Claim("ALiBi holds at 16 times its training length", "2108.12409", Row(ALIBI, 16), Row(ALIBI, 1), HOLDS, by_less=True),
    Claim("sinusoidal positions fail past it", "2108.12409", Row(SINUSOIDAL, 16), Row(SINUSOIDAL, 1), HOLDS),
    Claim("xPos extrapolates better than RoPE", "2212.10554", Row(ROPE, 16), Row(XPOS, 16)),
    Claim("no positions extrapolate better than sinusoidal ones", "2305.19466", Row(SINUSOIDAL, 2), Row(NOPE, 2)),
    Claim("LM-Infinite repairs RoPE without training", "2308.16137", Row(ROPE, 16), Row(LM_INFINITE, 16), HOLDS),
    Claim("LM-Infinite holds at 16 times", "2308.16137", Row(LM_INFINITE, 16), Row(LM_INFINITE, 1), HOLDS, by_less=True),
    Claim("four sinks are better than none", "2309.17453", Row(f"{STREAMING}:no_sinks", 16), Row(f"{STREAMING}:four_sinks", 16)),
    Claim(
        "a rolling cache holds at 16 times", "2309.17453", Row(f"{STREAMING}:four_sinks", 16), Row(ROPE, 1), HOLDS, by_less=True
    ),
    Claim("interpolation is better than extrapolation", "2306.15595", Row(ROPE, 16), Row(f"{INTERPOLATED}:by_16", 16)),
    Claim(
        "a short fine-tune is what interpolation needs",
        "2306.15595",
        Row(f"{INTERPOLATED}:by_16", 16),
        Row(f"{INTERPOLATED}:by_16_fine_tuned", 16),
    ),
    Claim("a sliding window holds at 16 times", "2310.06825", Row(WINDOW, 16), Row(WINDOW, 1), HOLDS, by_less=True),
    Claim("RetNet holds at 16 times", "2307.08621", Row(RETNET, 16), Row(RETNET, 1), HOLDS, by_less=True),
    Claim("the Triton kernel gives torch's curve", "2307.08691", Row(FLASH, 16), Row(ROPE, 16), HOLDS, by_less=True),
    Claim("LLM.int8() costs nothing", "2208.07339", Row(f"{QUANTIZED}:llm_int8", 1), Row(ROPE, 1), 0.01, by_less=True),
    Claim(
        "... nor does keeping its codes alone",
        "2208.07339",
        Row(f"{QUANTIZED}:llm_int8_codes", 1),
        Row(ROPE, 1),
        0.01,
        by_less=True,
    ),
    Claim("NF4 is better than 4-bit absmax", "2305.14314", Row(f"{QUANTIZED}:absmax_int4", 1), Row(f"{QUANTIZED}:nf4", 1)),
    Claim(
        "quantizing NF4's magnitudes costs nothing",
        "2305.14314",
        Row(f"{QUANTIZED}:nf4_double", 1),
        Row(f"{QUANTIZED}:nf4", 1),
        0.01,
        by_less=True,
    ),
)


def on_memory(trained_on: int, longest: int) -> tuple[Claim, ...]:
    """Claims on the memory tasks, where the curriculum ends at so many segments and so many are measured."""
    source, kept = "2304.11062", {MEMORIZE: "memorizes", DETECT: "detects and memorizes", REASON: "reasons"}
    models = {"RMT": RMT, "an RMT encoder": RMT_ENCODER}
    return (
        *(
            Claim(
                f"{name} {does} beyond its curriculum", source, Right(of, task, trained_on), Right(of, task, longest), HOLDS, True
            )
            for name, of in models.items()
            for task, does in kept.items()
        ),
        *(
            Claim(f"{name} finds reasoning harder than detecting", source, Right(of, DETECT, longest), Right(of, REASON, longest))
            for name, of in models.items()
        ),
    )


def readings(records: Sequence[Record], length: int, claims: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """A row for each claim whose two quantities were measured, on the same text and the same seeds."""
    measured: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for record in records:
        if record.outcome == OK:
            measured.setdefault((record.cell.case, record.cell.subject), {})[record.cell.seed] = record.values
    rows = []
    for claim in claims:
        if differences := _paired(claim, measured, length):
            middle, width = interval.of_trials_and_seeds(differences)
            rows.append(
                {
                    "claim": claim.sentence,
                    "arXiv": claim.source,
                    "compares": f"{claim.more.told(length)}, less {claim.less.told(length)}",
                    "claimed": f"{'below' if claim.by_less else 'above'} {claim.margin:g}",
                    "difference": round(middle, 3),
                    "difference ±": round(width, 3),
                    "here": verdict(middle, width, claim.margin, claim.by_less),
                }
            )
    return rows


def verdict(middle: float, width: float, margin: float, by_less: bool) -> str:
    """On a claim that a difference is above a margin, or below it: of the middle of its interval and the half width."""
    above, below = middle - width > margin, middle + width < margin
    if not above and not below:
        return "not resolved"
    return "shows" if below == by_less else "refuted"


def _paired(claim: Claim, measured: Mapping[tuple[str, str], Mapping[int, Any]], length: int) -> list[list[float]]:
    """By seed, the difference in each window or row."""
    more, less = (measured.get((row.task, row.of), {}) for row in (claim.more, claim.less))
    found = []
    for seed in sorted(more.keys() & less.keys()):
        one, other = claim.more.samples(more[seed], length), claim.less.samples(less[seed], length)
        if isinstance(one, list) and isinstance(other, list):
            found.append([a - b for a, b in zip(one, other, strict=True)])
    return found
