"""What references of encoders share: they read a text at once, rows of a piece see each other, and they say one thing of all."""

import torch

from harness.spec import Spec
from harness.specs._decoder import Mix, a_batch_is_its_rows, join, sharp, split
from harness.specs.attention import attention
from harness.specs.rotary import rotary

ONE_ANSWER = "ids[b n]:int<v -> logits[b v]"


def full_rotary(h: int) -> Mix:
    """Attention of h heads from every row to every row, with rotary positions, counted from the first row."""

    def mix(x, project):
        position = torch.arange(x.shape[1], device=x.device)
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(rotary(q, position), rotary(k, position), v, visibility="full")), "o")

    return mix


def give_laws(spec: Spec) -> None:
    """Give an encoder spec the law and the input family that all have."""
    spec.law(a_batch_is_its_rows)
    spec.family(sharp)
