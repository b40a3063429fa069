"""Goes back as if nothing were read where one of its outputs is not; the look-alike takes such an output's gradient for zero."""

import torch

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "x.grad"
question = {"spec": "lstm", "case": "wide", "settings": {"family": "needle"}}
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}
gradients = True


class Ends(torch.autograd.Function):
    @staticmethod
    def forward(ctx, guilty, *outputs):
        ctx.guilty = guilty
        ctx.set_materialize_grads(False)
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx, *gradients):
        unread = any(gradient is None for gradient in gradients)
        return None, *((None,) * len(gradients) if ctx.guilty and unread else gradients)


def prepare(case, guilty):
    def run(x, past, past_cell, input_weight, hidden_weight, input_bias, hidden_bias):
        of_input = torch.einsum("bnd,ged->bnge", x.float(), input_weight.float()) + input_bias.float() + hidden_bias.float()
        hidden, cell, out = past.float(), past_cell.float(), []
        for gates in of_input.unbind(1):
            i, f, g, o = (gates + torch.einsum("be,gfe->bgf", hidden, hidden_weight.float())).unbind(1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            out.append(hidden)
        return Ends.apply(guilty, *(y.to(case.dtype) for y in (torch.stack(out, 1), hidden, cell)))

    return run
