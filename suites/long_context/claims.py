"""Claims of the papers, held against what was measured: each a difference of two rows, paired by windows of text or by trials.

A claim shows where the 95 % interval of the difference lies wholly on the claimed side of its margin, is refuted where it lies
wholly on the other, and is not resolved where it does neither. "Here" is a model of a few hundred thousand parameters and a
minute of training: what does not show at this size is not thereby wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import interval
from harness.cell import OK, Record

from . import pictures


@dataclass(frozen=True)
class Row:
    """Bits per byte of a model at so many training lengths; `of` is the subject of its records."""

    of: str
    times: int


@dataclass(frozen=True)
class Claim:
    """That `more` exceeds `less` by over `margin`; or, where `by_less`, that it exceeds it by less than that."""

    sentence: str
    source: str
    more: Row
    less: Row
    margin: float = 0.0
    by_less: bool = False


FLASH = "transformer_rope/triton_flash"
ROPE, ALIBI, RETNET = "transformer_rope/torch_sdpa", "transformer_alibi/torch_sdpa", "retnet/torch_parallel"
LM_INFINITE, STREAMING = "transformer_lm_infinite/torch_blocks", "transformer_streaming/torch_blocks"
INTERPOLATED, QUANTIZED = "transformer_interpolated/torch_sdpa", "transformer_quantized/torch_plain"
XPOS, WINDOW = "transformer_xpos/torch_sdpa", "transformer_window/torch_sdpa"
SINUSOIDAL, NOPE = "transformer_sinusoidal/torch_sdpa", "transformer_nope/torch_sdpa"
HOLDS = 0.05  # bits per byte: less than this is no rise worth the name

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


def readings(good: Sequence[Record], length: int) -> list[dict[str, Any]]:
    """A row for each claim whose two quantities were measured, on the same text and the same seeds."""
    by_subject: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in good:
        if record.outcome == OK:
            by_subject.setdefault(record.cell.subject, {})[record.cell.seed] = record.values
    rows = []
    for claim in CLAIMS:
        differences = _paired(claim, by_subject, length)
        if differences:
            middle, width = interval.of_trials_and_seeds(differences)
            rows.append(
                {
                    "claim": claim.sentence,
                    "arXiv": claim.source,
                    "compares": f"{_told(claim.more, length)}, less {_told(claim.less, length)}",
                    "claimed": f"{'below' if claim.by_less else 'above'} {claim.margin:g}",
                    "difference": round(middle, 3),
                    "difference ±": round(width, 3),
                    "here": _verdict(claim, middle, width),
                }
            )
    return rows


def _paired(claim: Claim, by_subject: Mapping[str, Mapping[int, Mapping[str, Any]]], length: int) -> list[list[float]]:
    """By seed, the difference in each window."""
    more, less = by_subject.get(claim.more.of, {}), by_subject.get(claim.less.of, {})
    found = []
    for seed in sorted(more.keys() & less.keys()):
        one, other = _samples(more[seed], claim.more, length), _samples(less[seed], claim.less, length)
        if isinstance(one, list) and isinstance(other, list):
            found.append([a - b for a, b in zip(one, other, strict=True)])
    return found


def _samples(values: Mapping[str, Any], row: Row, length: int) -> Any:
    return values["bits_per_byte"].get(str(row.times * length))


def _told(row: Row, length: int) -> str:
    return f"{pictures.short(row.of)} at {row.times * length}"


def _verdict(claim: Claim, middle: float, width: float) -> str:
    low, high = middle - width, middle + width
    above, below = low > claim.margin, high < claim.margin
    if not above and not below:
        return "not resolved"
    return "shows" if below == claim.by_less else "refuted"
