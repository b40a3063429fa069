"""Claims of the papers on long contexts, by windows of text, and on memory, by rows; `harness.readings` reads them."""

from harness.readings import Claim, Quantity, short

from .facts import DETECT, MEMORIZE, REASON

only_tells = True  # no record hangs on it


FLASH = "transformer_rope/triton_flash"
ROPE, ALIBI, RETNET = "transformer_rope/torch_sdpa", "transformer_alibi/torch_sdpa", "retnet/torch_parallel"
LM_INFINITE, STREAMING = "transformer_lm_infinite/torch_blocks", "transformer_streaming/torch_blocks"
INTERPOLATED, QUANTIZED = "transformer_interpolated/torch_sdpa", "transformer_quantized/torch_plain"
XPOS, WINDOW = "transformer_xpos/torch_sdpa", "transformer_window/torch_sdpa"
SINUSOIDAL, NOPE = "transformer_sinusoidal/torch_sdpa", "transformer_nope/torch_sdpa"
RMT, RMT_ENCODER = "rmt/torch_sdpa", "rmt_encoder/torch_sdpa"
HOLDS = 0.05  # bits per byte, or share right: less than this is no change worth the name


def bits(of: str, context: int) -> Quantity:
    """Bits per byte of a model at a context, by window of text."""
    return Quantity(of, "extrapolation", ("bits_per_byte", str(context)), f"{short(of)} at {context}")


def right(of: str, task: str, segments: int) -> Quantity:
    """Share right of a model in a memory task at so many segments, by row."""
    return Quantity(of, task, ("accuracy", str(segments)), f"{short(of)} in {task} at {segments} segments")


def on_text(length: int) -> tuple[Claim, ...]:
    """Claims on bits per byte, of models trained at this length."""
    near, far = length, 16 * length
    return (
        Claim("RoPE fails past its training length", "2306.15595, 2108.12409", bits(ROPE, far), bits(ROPE, near), HOLDS),
        Claim(
            "ALiBi holds at 16 times its training length", "2108.12409", bits(ALIBI, far), bits(ALIBI, near), HOLDS, by_less=True
        ),
        Claim("sinusoidal positions fail past it", "2108.12409", bits(SINUSOIDAL, far), bits(SINUSOIDAL, near), HOLDS),
        Claim("xPos extrapolates better than RoPE", "2212.10554", bits(ROPE, far), bits(XPOS, far)),
        Claim(
            "no positions extrapolate better than sinusoidal ones", "2305.19466", bits(SINUSOIDAL, 2 * near), bits(NOPE, 2 * near)
        ),
        Claim("LM-Infinite repairs RoPE without training", "2308.16137", bits(ROPE, far), bits(LM_INFINITE, far), HOLDS),
        Claim(
            "LM-Infinite holds at 16 times", "2308.16137", bits(LM_INFINITE, far), bits(LM_INFINITE, near), HOLDS, by_less=True
        ),
        Claim(
            "four sinks are better than none",
            "2309.17453",
            bits(f"{STREAMING}:no_sinks", far),
            bits(f"{STREAMING}:four_sinks", far),
        ),
        Claim(
            "a rolling cache holds at 16 times",
            "2309.17453",
            bits(f"{STREAMING}:four_sinks", far),
            bits(ROPE, near),
            HOLDS,
            by_less=True,
        ),
        Claim("interpolation is better than extrapolation", "2306.15595", bits(ROPE, far), bits(f"{INTERPOLATED}:by_16", far)),
        Claim(
            "a short fine-tune is what interpolation needs",
            "2306.15595",
            bits(f"{INTERPOLATED}:by_16", far),
            bits(f"{INTERPOLATED}:by_16_fine_tuned", far),
        ),
        Claim("a sliding window holds at 16 times", "2310.06825", bits(WINDOW, far), bits(WINDOW, near), HOLDS, by_less=True),
        Claim("RetNet holds at 16 times", "2307.08621", bits(RETNET, far), bits(RETNET, near), HOLDS, by_less=True),
        Claim("the Triton kernel gives torch's curve", "2307.08691", bits(FLASH, far), bits(ROPE, far), HOLDS, by_less=True),
        Claim(
            "LLM.int8() costs nothing", "2208.07339", bits(f"{QUANTIZED}:llm_int8", near), bits(ROPE, near), 0.01, by_less=True
        ),
        Claim(
            "... nor does keeping its codes alone",
            "2208.07339",
            bits(f"{QUANTIZED}:llm_int8_codes", near),
            bits(ROPE, near),
            0.01,
            by_less=True,
        ),
        Claim(
            "NF4 is better than 4-bit absmax",
            "2305.14314",
            bits(f"{QUANTIZED}:absmax_int4", near),
            bits(f"{QUANTIZED}:nf4", near),
        ),
        Claim(
            "quantizing NF4's magnitudes costs nothing",
            "2305.14314",
            bits(f"{QUANTIZED}:nf4_double", near),
            bits(f"{QUANTIZED}:nf4", near),
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
                f"{name} {does} beyond its curriculum", source, right(of, task, trained_on), right(of, task, longest), HOLDS, True
            )
            for name, of in models.items()
            for task, does in kept.items()
        ),
        *(
            Claim(f"{name} finds reasoning harder than detecting", source, right(of, DETECT, longest), right(of, REASON, longest))
            for name, of in models.items()
        ),
    )
