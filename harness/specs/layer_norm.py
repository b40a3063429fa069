"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450, eq. 4) over the last axis, with gain and bias.

Where papers and libraries disagree, this side is taken:
- The variance is the biased one, the mean of squared distances (1/d), as in the paper, torch and JAX; Keras' and numpy's
  `ddof=1` habits divide by d - 1.
- eps stands inside the root, 1 / sqrt(var + eps), as in torch and TensorFlow; the Annotated Transformer divides by std + eps.
- eps is an option of the case, for no two families of models agree: BERT 1e-12, torch and GPT-2 1e-5, ViT 1e-6.
- A row of equal values gives the bias.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec


@spec(
    "x[b n d], weight[d], bias[d] -> out[b n d]",
    b=2,
    n=7,
    d=48,
    cases={
        "plain": {},
        "one_row": {"b": 1, "n": 1},
        "many_rows": {"b": 1, "n": 321, "d": 8},  # what is done for the first tiles of rows alone; a last row alone in its tile
        "one_wide": {"d": 1},
        "two_wide": {"d": 2},  # the biased variance is half of the other
        "ragged": {"d": 37},  # no multiple of a vector or a tile
        "wide": {"d": 1100, "n": 2},  # more than a tile of 1024
        "very_wide": {"b": 1, "n": 1, "d": 8200},  # more than a tile of 8192
        "whole_tiles": {"b": 5, "n": 16, "d": 128},  # a path for such widths alone; what is done for the first batch rows
        "large_eps": {"eps": 1e-2},  # an eps that is built in, or outside the root
        "tiny_eps": {"eps": 1e-7},  # an eps that is built in; 1e-12 makes gradients of flat rows that float16 cannot hold
    },
)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


@layer_norm.work(b=1, d=512)
def _(case: Case) -> float:
    return 8 * case.b * case.n * case.d


@layer_norm.family
def offset(x: Bunch, case: Case, rng: torch.Generator):
    """One feature a little above all others, far from zero: a variance that is a difference of large squares is lost.

    1000 and 1004 are numbers of every dtype, neighbours in bfloat16."""
    above = torch.nn.functional.one_hot(torch.randint(case.d, (case.b, case.n), generator=rng), case.d)
    return {"x": 1000 + 4.0 * above.double()}


@layer_norm.family
def loud(x: Bunch, case: Case, rng: torch.Generator):
    """Distances from the mean whose squares float16 cannot hold."""
    return {"x": 2000 * x.x}


@layer_norm.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """A variance near eps, and far below."""
    return {"x": x.x * 10.0 ** (-2 - torch.arange(case.n) % 3)[:, None]}


@layer_norm.family
def flat(x: Bunch, case: Case, rng: torch.Generator):
    """Rows of equal values, beside one that is not."""
    return {"x": torch.where(torch.arange(case.n)[:, None] == 3, x.x, 2.0)}


@layer_norm.family
def shut(x: Bunch, case: Case, rng: torch.Generator):
    """Gains of zero, from which no backward pass finds its input again."""
    return {"weight": x.weight * (torch.arange(case.d) % 3 != 1)}


@layer_norm.law
def an_offset_changes_nothing(run, x: Bunch, rng):
    # Whole eighths, to which a small whole number is added without rounding in every dtype.
    eighths = (x.x * 8).round().clamp(-16, 16) / 8
    return run(x, x=eighths + rng.choice([-2, -1, 1, 2])).out, run(x, x=eighths).out


@layer_norm.law
def a_row_of_equal_values_gives_the_bias(run, x: Bunch, rng):
    same = torch.full_like(x.x, rng.choice([-4.0, 0.0, 0.5, 2.0]))
    return run(x, x=same).out, x.bias.expand_as(x.x)


@layer_norm.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.x.shape[0])
    return run(x).out[row : row + 1], run(x, x=x.x[row : row + 1]).out


@layer_norm.law
def permuting_features_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.x.shape[-1]), x.x.shape[-1])
    return run(x, **{name: x[name][..., order] for name in ("x", "weight", "bias")}).out, run(x).out[..., order]


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the mean, and the biased variance."""
    distance = x - x.mean(-1, keepdim=True)
    return distance, distance.square().mean(-1, keepdim=True)


@layer_norm.mistake("the variance is divided by d - 1")
def _(x, weight, bias, *, eps):
    distance, variance = _spread(x)
    d = x.shape[-1]
    return weight * distance / torch.sqrt(variance * d / (d - 1) + eps) + bias


@layer_norm.mistake("eps is added to the standard deviation")
def _(x, weight, bias, *, eps):
    distance, variance = _spread(x)
    return weight * distance / (torch.sqrt(variance + 1e-30) + eps) + bias


@layer_norm.mistake("eps is forgotten")
def _(x, weight, bias, *, eps):
    distance, variance = _spread(x)
    return weight * distance / torch.sqrt(variance) + bias


@layer_norm.mistake("eps is built in")
def _(x, weight, bias, *, eps):
    return layer_norm(x, weight, bias, eps=1e-5)


@layer_norm.mistake("the variance is a difference of large squares in float32")
def _(x, weight, bias, *, eps):
    small = x.float()
    mean = small.mean(-1, keepdim=True)
    variance = (small.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0).double()
    return weight * (x - mean.double()) / torch.sqrt(variance + eps) + bias


@layer_norm.mistake("the mean is not subtracted")
def _(x, weight, bias, *, eps):
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) + bias


@layer_norm.mistake("the mean is taken from the variance only")
def _(x, weight, bias, *, eps):
    return weight * x / torch.sqrt(_spread(x)[1] + eps) + bias


@layer_norm.mistake("the gain is added to one")
def _(x, weight, bias, *, eps):
    return layer_norm(x, 1 + weight, bias, eps=eps)


@layer_norm.mistake("the gain scales the bias too")
def _(x, weight, bias, *, eps):
    return layer_norm(x, weight, weight * bias, eps=eps)


@layer_norm.mistake("the bias is dropped")
def _(x, weight, bias, *, eps):
    return layer_norm(x, weight, 0 * bias, eps=eps)


@layer_norm.mistake("the last features beyond a multiple of 16 are not counted")
def _(x, weight, bias, *, eps):
    counted = x[..., : max(2, x.shape[-1] // 16 * 16)]
    mean = counted.mean(-1, keepdim=True)
    variance = (counted - mean).square().mean(-1, keepdim=True)
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


@layer_norm.mistake("sums of a padded last tile of 64 are divided by its width")
def _(x, weight, bias, *, eps):
    padded = -(-x.shape[-1] // 64) * 64
    mean = x.sum(-1, keepdim=True) / padded
    variance = (x - mean).square().sum(-1, keepdim=True) / padded
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


@layer_norm.mistake("the rows of a batch are normalised together")
def _(x, weight, bias, *, eps):
    mean = x.mean((-2, -1), keepdim=True)
    variance = (x - mean).square().mean((-2, -1), keepdim=True)
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


@layer_norm.mistake("backward forgets that the mean moves")
def _(x, weight, bias, *, eps):
    distance = x - x.mean(-1, keepdim=True).detach()
    variance = distance.square().mean(-1, keepdim=True)
    return backward_of(layer_norm(x, weight, bias, eps=eps), weight * distance / torch.sqrt(variance + eps) + bias)


@layer_norm.mistake("backward forgets that the variance moves")
def _(x, weight, bias, *, eps):
    distance, variance = _spread(x)
    return weight * distance / torch.sqrt(variance.detach() + eps) + bias


@layer_norm.mistake("backward divides the output by the gain to have the input again")
def _(x, weight, bias, *, eps):
    right, shut = layer_norm(x, weight, bias, eps=eps), weight == 0
    wrong = layer_norm(x, torch.where(shut, weight.detach(), weight), bias, eps=eps)
    return backward_of(right, wrong)


@layer_norm.mistake("features beyond the 1024th are not counted")
def _(x, weight, bias, *, eps):
    mean = x[..., :1024].mean(-1, keepdim=True)
    variance = (x[..., :1024] - mean).square().mean(-1, keepdim=True)
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


@layer_norm.mistake("backward forgets the gain")
def _(x, weight, bias, *, eps):
    right = layer_norm(x, weight, bias, eps=eps)
    of_x = layer_norm(x, torch.ones_like(weight), bias.detach(), eps=eps)
    of_gain = layer_norm(x.detach(), weight, bias, eps=eps)
    return backward_of(right, of_x + of_gain)


@layer_norm.mistake("backward sums the gain's gradient over the last batch row only")
def _(x, weight, bias, *, eps):
    last = (torch.arange(x.shape[-2]) == x.shape[-2] - 1)[:, None]
    return layer_norm(x, torch.where(last, weight, weight.detach()), bias, eps=eps)


@layer_norm.mistake("the path for widths of whole tiles of 64 forgets the bias")
def _(x, weight, bias, *, eps):
    return layer_norm(x, weight, bias * (x.shape[-1] % 64 != 0), eps=eps)


@layer_norm.mistake("batch rows beyond the fourth are left as they are")
def _(x, weight, bias, *, eps):
    first = (torch.arange(len(x)) < 4)[:, None, None]
    return torch.where(first, layer_norm(x, weight, bias, eps=eps), x)


@layer_norm.mistake("features beyond the 8192nd are left as they are")
def _(x, weight, bias, *, eps):
    return torch.where(torch.arange(x.shape[-1]) < 8192, layer_norm(x, weight, bias, eps=eps), x)


@layer_norm.mistake("a single feature is left as it is")
def _(x, weight, bias, *, eps):
    return layer_norm(x, weight, bias, eps=eps) if x.shape[-1] > 1 else x


@layer_norm.mistake("a last row alone in its tile of 64 is left as it is")
def _(x, weight, bias, *, eps):
    n = x.shape[1]
    alone = (torch.arange(n) == n - 1) & (n % 64 == 1) & (n > 1)
    return torch.where(alone[:, None], x, layer_norm(x, weight, bias, eps=eps))


@layer_norm.mistake("backward leaves the last tile of 16 rows out of the gain's gradient where it is whole")
def _(x, weight, bias, *, eps):
    n = x.shape[1]
    counted = ((torch.arange(n) < n - 16) | (n % 16 != 0))[:, None]
    return layer_norm(x, torch.where(counted, weight, weight.detach()), bias, eps=eps)


@layer_norm.mistake("squares beyond the range of float16 are clamped")
def _(x, weight, bias, *, eps):
    distance = x - x.mean(-1, keepdim=True)
    variance = distance.square().clamp(max=65504).mean(-1, keepdim=True)
    return weight * distance / torch.sqrt(variance + eps) + bias
