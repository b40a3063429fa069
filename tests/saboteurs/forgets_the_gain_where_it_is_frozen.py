"""Where only its input wants a gradient, does not keep the gain that it needs for it; the look-alike only makes no others."""

import torch

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "only with strided inputs"
question = {"spec": "layer_norm"}
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}
gradients = True


def prepare(case, guilty):
    def run(x, weight, bias):
        frozen = x.requires_grad and not (weight.requires_grad or bias.requires_grad)
        centred = x.float() - x.float().mean(-1, keepdim=True)
        normal = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + case.eps)
        out = normal * weight.float() + bias.float()
        return (out.detach() + normal - normal.detach() if guilty and frozen else out).to(case.dtype)

    return run
