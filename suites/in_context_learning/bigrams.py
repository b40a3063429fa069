"""Bigrams of a row and what came after them before: the look-up that solves induction and automata."""

import torch
from torch import Tensor
from torch.nn import functional as F


def earlier(ids: Tensor) -> Tensor:
    """[b n n]: whether the two tokens that end at i also stood at u, for u < i."""
    same = ids[:, :, None] == ids[:, None, :]
    both = torch.zeros_like(same)
    both[:, 1:, 1:] = same[:, 1:, 1:] & same[:, :-1, :-1]
    return both.tril(-1)


def followers(ids: Tensor, v: int) -> Tensor:
    """[b n v]: how often each token came next, at the earlier places of the two tokens that end here; reads no later token."""
    after = F.one_hot(ids.roll(-1, 1), v).double()  # the token after u stands at u + 1 <= i: it has been read
    return earlier(ids).double() @ after
