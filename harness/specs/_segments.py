"""What references of language models share that run transformer blocks over rows which are not all tokens of one sequence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from harness.specs._decoder import Mix, gelu, join, linear, norm, split
from harness.specs.attention import attention
from harness.specs.rotary import rotary


def blocks(x: Tensor, parameters: Mapping[str, Tensor], numbers: Iterable[int], mix: Mix) -> Tensor:
    """x[b n d] through the pre-norm blocks of these numbers: those of `_decoder`, without the norm that stands at the end."""
    for i in numbers:
        block = f"blocks.{i}."
        x = x + mix(norm(x, parameters, block + "norm1."), partial(linear, parameters=parameters, name=block + "mixer."))
        hidden = gelu(linear(norm(x, parameters, block + "norm2."), block + "up", parameters))
        x = x + linear(hidden, block + "down", parameters)
    return x


def causal_rotary(h: int) -> Mix:
    """Causal attention of h heads with rotary positions, counted from the first row."""

    def mix(x, project):
        position = torch.arange(x.shape[1], device=x.device)
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(rotary(q, position), rotary(k, position), v, visibility="causal")), "o")

    return mix


def short_first(ids: Tensor, size: int) -> Sequence[Tensor]:
    """Segments of `size` tokens, full from the right; the first has the rest, where there is one."""
    n = ids.shape[1]
    rest = n % size
    return ids.split([rest] * (rest > 0) + [size] * (n // size), 1)


def mistaken_mix(turn=rotary, place=torch.arange, visibility: str = "full") -> Callable[[int], Mix]:
    """Attention that differs from that with rotary positions in what is turned, by which place, or in what is seen."""

    def for_heads(h: int) -> Mix:
        def mix(x, project):
            q, k, v = (split(project(x, name), h) for name in "qkv")
            position = place(x.shape[1])
            return project(join(attention(turn(q, position), turn(k, position), v, visibility=visibility)), "o")

        return mix

    return for_heads


def as_it_is(x: Tensor, position: Tensor) -> Tensor:
    """In the place of `rotary`: nothing is turned."""
    return x
