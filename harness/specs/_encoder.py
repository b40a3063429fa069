"""What references of encoders share: they read a text at once, rows of a piece see each other, and they say one thing of all."""

from collections.abc import Callable

import torch

from harness.spec import Bunch, Spec
from harness.specs._decoder import Mix, a_batch_is_its_rows, join, sharp, split
from harness.specs.attention import attention
from harness.specs.rotary import rotary

ONE_ANSWER = "ids[b n]:int<v -> logits[b v]"
ROWS_OF_THE_BATCH = {"_with: segments[0] -> segments[-1]": "every segment has the rows of the batch, and only those are counted"}


def full_rotary(h: int) -> Mix:
    """Attention of h heads from every row to every row, with rotary positions, counted from the first row."""

    def mix(x, project):
        position = torch.arange(x.shape[1], device=x.device)
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(rotary(q, position), rotary(k, position), v, visibility="full")), "o")

    return mix


def give_laws(spec: Spec, segments: Callable[[Bunch], int]) -> None:
    """Give an encoder spec the laws and the input family that all have; a text of t tokens is so many segments."""
    spec.law(a_batch_is_its_rows)
    spec.family(sharp)

    @spec.law
    def what_fits_into_one_segment_does_not_know_how_long_it_could_be(run, x: Bunch, rng):
        n, count = x.ids.shape[1], segments(x)
        return run(x, t=count * n).logits, run(x, t=count * n + rng.randrange(count, 9 * count)).logits
