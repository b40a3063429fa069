"""Works in the memory that it kept for its way back, which is then spent; the look-alike works in a copy."""

import torch
from honest import turn

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "only where it goes back twice"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}
gradients = True


def prepare(case, guilty):
    class Turn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, position):
            ctx.kept = -position
            return turn(x, position, case.base)

        @staticmethod
        def backward(ctx, gradient):
            back = ctx.kept if guilty else ctx.kept.clone()
            turned = turn(gradient, back, case.base)
            back.zero_()  # a workspace of another kernel
            return turned, None

    return Turn.apply
