"""Effective memory: by how much the next byte's distribution changes when the byte k places back is another one.

The last place of each window is asked twice, with the text as it is and with one byte exchanged: the divergence between the two
answers, in bits, is the influence of that byte. It is measured on the output, so it says of any model, whatever it carries.
Beside it stands the analytic decay, where a spec has one. Divergence goes with the square of a small change: what was worth b
bits at once is expected to be worth b times the square of the share that is left.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from harness.nn import room
from harness.spec import Case, Spec

from . import bits_per_byte

AT_ONCE = 4096  # bytes in a batch


def distances(context: int) -> list[int]:
    """1, 2, 4 ... places back, as far as the context goes."""
    return [2**i for i in range(context.bit_length()) if 2**i < context]


@torch.inference_mode()
def influence(
    model: Callable[[Tensor], Tensor], documents: Sequence[bytes], context: int, count: int, seed: int
) -> dict[int, list[float]]:
    """By distance k: bits of divergence of the answer at the end of each of `count` windows, which are evenly spread.

    `model` maps ids[b n] to logits[b n v]. What is put in is drawn from the documents' own bytes."""
    rng = random.Random(f"effective memory {seed}")
    far = distances(context)
    found: dict[int, list[float]] = {k: [] for k in far}
    for document, end in bits_per_byte.ends(documents, context, count):
        window = list(documents[document][end - context : end])
        rows = [window]
        for k in far:
            others = [byte for byte in documents[document] if byte != window[-1 - k]]
            rows.append([*window[: context - 1 - k], rng.choice(others), *window[context - k :]])
        parts = room.in_parts(model, torch.tensor(rows), AT_ONCE)
        said = torch.cat([logits[:, -1].double().log_softmax(-1) for logits in parts])
        divergence = (said[0].exp() * (said[0] - said[1:])).sum(-1) / math.log(2)
        for k, bits in zip(far, divergence.tolist(), strict=True):
            found[k].append(bits)
    return found


def decay(spec: Spec, case: Case, weights: Mapping[str, Tensor], context: int) -> dict[int, float]:
    """By distance k: the share of a token that is left by the formula of a spec; nothing where it has none."""
    if spec.decay is None:
        return {}
    far = distances(context)
    parameters = {name: tensor.detach().cpu().double() for name, tensor in weights.items()}
    return dict(zip(far, spec.decay(torch.tensor(far, dtype=torch.float64), case, parameters).tolist(), strict=True))


def expected(bits: float, shares: Mapping[int, float]) -> dict[int, float]:
    """By distance k: the influence that is expected of a byte, from what it is at the least distance and the shares left."""
    first = shares[min(shares)]
    return {k: bits * (shares[k] / first) ** 2 for k in sorted(shares)}
