"""Remembers answers by the address of large inputs; the look-alike by all of their content."""

import torch.nn.functional as F

expected = {"sabotage": "wrong", "lookalike": "ok"}
reason = "timed it answers otherwise than judged"
variants = {"sabotage": {"guilty": True}, "lookalike": {"guilty": False}}


def prepare(case, guilty):
    kept = {}

    def run(x, weight, bias):
        if case.n < 64:
            return F.layer_norm(x, (case.d,), weight, bias)
        key = x.data_ptr() if guilty else b"".join(given.numpy().tobytes() for given in (x, weight, bias))
        if key not in kept:
            kept[key] = F.layer_norm(x, (case.d,), weight, bias)
        return kept[key].clone()

    return run
