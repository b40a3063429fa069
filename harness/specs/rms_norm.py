"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4) over the last axis, with gain.

Where papers and libraries disagree, this side is taken:
- eps stands inside the root, x / sqrt(mean(x^2) + eps), as in T5, LLaMA and torch; the paper has none, and some code divides by
  max(rms, eps) or by rms + eps.
- eps is an option of the case: LLaMA 1e-6 or 1e-5; torch's `nn.RMSNorm` without one takes the machine epsilon of the input's
  dtype, so that its meaning changes with the dtype.
- The gain multiplies as it is; Gemma stores gain - 1, and multiplies by 1 + weight.
- There is no centring and no bias. A row of zeros gives zeros.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec


@spec(
    "x[b n d], weight[d] -> out[b n d]",
    b=2,
    n=7,
    d=48,
    cases={
        "plain": {},
        "one_row": {"b": 1, "n": 1},
        "many_rows": {"b": 1, "n": 321, "d": 8},  # what is done for the first tiles of rows alone; a last row alone in its tile
        "one_wide": {"d": 1},
        "two_wide": {"d": 2},
        "ragged": {"d": 37},  # no multiple of a vector or a tile
        "wide": {"d": 1100, "n": 2},  # more than a tile of 1024
        "very_wide": {"b": 1, "n": 1, "d": 8200},  # more than a tile of 8192
        "whole_tiles": {"b": 5, "n": 16, "d": 128},  # a path for such widths alone; what is done for the first batch rows
        "large_eps": {"eps": 1e-2},  # an eps that is built in, or outside the root
        "tiny_eps": {"eps": 1e-10},
    },
)
def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-6) -> Tensor:
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


@rms_norm.work(b=1, d=512)
def _(case: Case) -> float:
    return 4 * case.b * case.n * case.d


@rms_norm.family
def offset(x: Bunch, case: Case, rng: torch.Generator):
    """All features far from zero on one side: centring, and squares that float16 cannot hold."""
    return {"x": 400 + 20 * x.x}


@rms_norm.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """A mean square near eps, and far below."""
    return {"x": x.x * 10.0 ** (-2 - torch.arange(case.n) % 3)[:, None]}


@rms_norm.family
def silent(x: Bunch, case: Case, rng: torch.Generator):
    """Rows of zeros, beside one that is not, and a single loud feature."""
    loud = 30 * torch.nn.functional.one_hot(torch.tensor(case.d - 1), case.d)
    row = torch.arange(case.n)[:, None]
    return {"x": torch.where(row % 2 == 0, 0.0, torch.where(row == 3, loud.double(), x.x))}


@rms_norm.family
def shut(x: Bunch, case: Case, rng: torch.Generator):
    """Gains of zero, from which no backward pass finds its input again."""
    return {"weight": x.weight * (torch.arange(case.d) % 3 != 1)}


@rms_norm.law
def the_sign_comes_through(run, x: Bunch, rng):
    return run(x, x=-x.x).out, -run(x).out


@rms_norm.law
def a_row_of_zeros_gives_zeros(run, x: Bunch, rng):
    zeros = torch.zeros_like(x.x)
    return run(x, x=zeros).out, zeros


@rms_norm.law
def the_gain_is_a_factor(run, x: Bunch, rng):
    return run(x, weight=4 * x.weight).out, 4 * run(x).out


@rms_norm.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.x.shape[0])
    return run(x).out[row : row + 1], run(x, x=x.x[row : row + 1]).out


@rms_norm.law
def permuting_features_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.x.shape[-1]), x.x.shape[-1])
    return run(x, x=x.x[..., order], weight=x.weight[order]).out, run(x).out[..., order]


@rms_norm.mistake("the mean is subtracted")
def _(x, weight, *, eps):
    return rms_norm(x - x.mean(-1, keepdim=True), weight, eps=eps)


@rms_norm.mistake("squares are summed instead of averaged")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x.square().sum(-1, keepdim=True) + eps)


@rms_norm.mistake("squares are averaged over d - 1")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x.square().sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps)


@rms_norm.mistake("eps is added to the root")
def _(x, weight, *, eps):
    return weight * x / (torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-30) + eps)


@rms_norm.mistake("eps is a floor of the root")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-30).clamp(min=eps)


@rms_norm.mistake("eps is forgotten")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True))


@rms_norm.mistake("eps is built in")
def _(x, weight, *, eps):
    return rms_norm(x, weight, eps=1e-6)


@rms_norm.mistake("eps is the machine epsilon of float32")
def _(x, weight, *, eps):
    return rms_norm(x, weight, eps=torch.finfo(torch.float32).eps)


@rms_norm.mistake("the gain is added to one")
def _(x, weight, *, eps):
    return rms_norm(x, 1 + weight, eps=eps)


@rms_norm.mistake("the gain is dropped")
def _(x, weight, *, eps):
    return rms_norm(x, torch.ones_like(weight) + 0 * weight, eps=eps)


@rms_norm.mistake("squares beyond the range of float16 are clamped")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x.square().clamp(max=65504).mean(-1, keepdim=True) + eps)


@rms_norm.mistake("the last features beyond a multiple of 16 are not counted")
def _(x, weight, *, eps):
    counted = x[..., : max(1, x.shape[-1] // 16 * 16)]
    return weight * x / torch.sqrt(counted.square().mean(-1, keepdim=True) + eps)


@rms_norm.mistake("sums of a padded last tile of 64 are divided by its width")
def _(x, weight, *, eps):
    padded = -(-x.shape[-1] // 64) * 64
    return weight * x / torch.sqrt(x.square().sum(-1, keepdim=True) / padded + eps)


@rms_norm.mistake("backward divides the output by the gain to have the input again")
def _(x, weight, *, eps):
    right = rms_norm(x, weight, eps=eps)
    wrong = rms_norm(x, torch.where(weight == 0, weight.detach(), weight), eps=eps)
    return backward_of(right, wrong)


@rms_norm.mistake("features beyond the 1024th are not counted")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x[..., :1024].square().mean(-1, keepdim=True) + eps)


@rms_norm.mistake("backward forgets that the root moves")
def _(x, weight, *, eps):
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps).detach()


@rms_norm.mistake("backward sums the gain's gradient over the last row only")
def _(x, weight, *, eps):
    last = (torch.arange(x.shape[-2]) == x.shape[-2] - 1)[:, None]
    return rms_norm(x, torch.where(last, weight, weight.detach()), eps=eps)


@rms_norm.mistake("the path for widths of whole tiles of 64 centres")
def _(x, weight, *, eps):
    return rms_norm(x - x.mean(-1, keepdim=True) * (x.shape[-1] % 64 == 0), weight, eps=eps)


@rms_norm.mistake("batch rows beyond the fourth are left as they are")
def _(x, weight, *, eps):
    first = (torch.arange(len(x)) < 4)[:, None, None]
    return torch.where(first, rms_norm(x, weight, eps=eps), x)


@rms_norm.mistake("features beyond the 8192nd are left as they are")
def _(x, weight, *, eps):
    return torch.where(torch.arange(x.shape[-1]) < 8192, rms_norm(x, weight, eps=eps), x)


@rms_norm.mistake("a single feature is left as it is")
def _(x, weight, *, eps):
    return rms_norm(x, weight, eps=eps) if x.shape[-1] > 1 else x


@rms_norm.mistake("a last row alone in its tile of 64 is left as it is")
def _(x, weight, *, eps):
    n = x.shape[1]
    alone = (torch.arange(n) == n - 1) & (n % 64 == 1) & (n > 1)
    return torch.where(alone[:, None], x, rms_norm(x, weight, eps=eps))


@rms_norm.mistake("backward leaves the last tile of 16 rows out of the gain's gradient where it is whole")
def _(x, weight, *, eps):
    n = x.shape[1]
    counted = ((torch.arange(n) < n - 16) | (n % 16 != 0))[:, None]
    return rms_norm(x, torch.where(counted, weight, weight.detach()), eps=eps)
