"""LLM.int8() by masks: both products run over all features, each with zeros where the other has its own."""

from torch import Tensor

devices = ("cpu", "cuda")
gradients = False  # codes are constant almost everywhere
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    def run(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x, w = x.float(), w.float()
        outlier = x.abs().amax(0) >= case.threshold
        quiet = x.masked_fill(outlier, 0)
        x_scale, w_scale = (t.abs().amax(-1, keepdim=True) / 127 for t in (quiet, w))
        x_code, w_code = ((t / s.where(s > 0, 1)).round() for t, s in ((quiet, x_scale), (w, w_scale)))
        # Whole numbers below 2^24 are exact in float32.
        out = (x_code @ w_code.mT) * x_scale * w_scale.mT + (x - quiet) @ w.mT
        return out.to(case.dtype), x_code.to(case.dtype)

    return run
