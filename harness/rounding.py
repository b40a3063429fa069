"""The rounding budget: what honest arithmetic in a dtype may lose on this very input, found by stochastic arithmetic.

A function is run in float64 under a `Machine`, a dispatch mode in which every operation leaves behind the error that the
modelled hardware would: matrix products read operands rounded to the tested dtype and accumulate in float32, everything else
is float32, outputs are stored in the tested dtype. How far such runs land from the exact one is the budget. Nothing here
knows a spec, and nothing here judges: `compare` does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._functorch.eager_transforms import (
    _create_differentiable,
    _undo_create_differentiable,
    _wrap_all_tensors,
    grad_increment_nesting,
)
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

Function = Callable[[dict[str, Tensor]], dict[str, Tensor]]

# Loss of one float32 operation: a whole ulp rather than half of one, because exponentials, reciprocals and fused or reordered
# products are not correctly rounded. Honest float32 code (torch's fused attention with widths of 128, whose log-sum-exp is off
# by more) reached 3.4 budgets in a row at 2^-24; at 2^-23 see `compare`.
U32 = 2.0**-23
# Standard deviation of a number that is uniform over the 256 values of a byte.
DEVIATION_OF_A_BYTE = math.sqrt((256**2 - 1) / 12)
SAMPLES = 16
# Elements that one intermediate may have over all samples of a chunk: 2^20 float64 are 8 MiB.
CHUNK_ELEMENTS = 2**20


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations that read operands in the tested dtype and accumulate their products in float32.
CONTRACTIONS = _names("mm bmm addmm baddbmm addbmm mv addmv dot vdot linear convolution convolution_backward")

# Sums: in the backward phase they read their terms in the tested dtype.
SUMS = _names("sum mean cumsum")

# Sums at addresses: exact where nothing is added.
SCATTERS = _names("index_add scatter_add scatter_reduce index_put _unsafe_index_put embedding_dense_backward")

# Data movement, selection, constants, and arithmetic that never rounds. Views are recognised by their schema.
EXACT = _names(
    """
    abs absolute alias amax amin aminmax arange argmax argmin argsort as_strided bernoulli bucketize cat ceil celu_backward
    clamp clamp_max clamp_min clone constant_pad_nd contiguous copy copysign cummax cummin detach diag_embed diagonal_backward
    diagonal_scatter embedding empty empty_like empty_strided expand_copy eye fill flip floor fmax fmin fmod frac full
    full_like gather heaviside hardtanh hardtanh_backward imag index index_copy index_fill index_select isin kthvalue lift
    lift_fresh logical_and logical_not masked_fill masked_scatter masked_select max max_pool2d_with_indices maximum median min
    minimum mode narrow_copy neg new_empty new_empty_strided new_full new_ones new_zeros nonzero normal_functional ones
    ones_like permute_copy pixel_shuffle positive real reflection_pad1d relu repeat repeat_interleave replication_pad1d
    resolve_conj resolve_neg roll round scalar_tensor scatter searchsorted select_backward select_scatter sgn sign
    slice_backward slice_scatter sort split_with_sizes_copy stack take threshold threshold_backward topk tril tril_indices
    triu triu_indices trunc unfold_backward uniform unique_dim value_selecting_reduction_backward where zero zeros zeros_like
    _conj _conj_physical _local_scalar_dense _reshape_copy _to_copy _unsafe_index _unsafe_masked_index _unsafe_view
    """
)

# Compound operations are run as the simple ones they consist of, so their cancellations need no rule of their own.
DECOMPOSED = _names(
    """
    _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data logsumexp native_layer_norm
    native_layer_norm_backward native_group_norm native_group_norm_backward silu_backward gelu_backward softplus_backward
    log_sigmoid_backward elu_backward leaky_relu_backward sigmoid_backward tanh_backward mish_backward addcmul addcdiv lerp
    mse_loss mse_loss_backward nll_loss_forward nll_loss_backward std std_mean var_mean rsub _rms_norm _fused_rms_norm
    _fused_rms_norm_backward
    """
)


def _gain(terms: int) -> float:
    """Standard error of a float32 sum of so many terms, in units of u32 times the sum of their magnitudes.

    A sequential sum of positive terms loses 0.4 u32 of each partial sum, together sqrt(terms) / 4; blocked sums lose less."""
    return 1 + math.sqrt(terms) / 4


def _size(x: Any) -> Any:
    """Magnitudes of an argument."""
    if isinstance(x, Tensor):
        return x.abs() if x.is_floating_point() or x.is_complex() else x
    return abs(x) if isinstance(x, (int, float)) and not isinstance(x, bool) else x


def _length(x: Tensor, dim: Any) -> int:
    dims = range(x.dim()) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return math.prod(x.shape[i] for i in dims) if x.dim() else 1


def _pow(r: Tensor, x: Any, y: Any) -> Tensor:
    x = x if isinstance(x, Tensor) else torch.as_tensor(float(x), dtype=torch.float64, device=r.device)
    return r.abs() * (1 + (y * x.abs().log()).abs().nan_to_num(nan=0.0, posinf=0.0))


def _var(r: Tensor, x: Tensor, dim: Any = None, *rest: Any, **options: Any) -> Tensor:
    return r * _gain(_length(x, dim))


# Error in units of u32, given the result and the arguments, where it is not simply the result's magnitude. Angles and
# exponents: the argument was itself stored in float32 (times log2 e, modulo 2 pi). Kinds that saturate: absolute error.
POINTWISE: dict[str, Callable[..., Tensor]] = {
    "add": lambda r, a, b, alpha=1: torch.add(_size(a), _size(b), alpha=abs(alpha)),
    "sub": lambda r, a, b, alpha=1: torch.add(_size(a), _size(b), alpha=abs(alpha)),
    "exp": lambda r, x: r.abs() * (1 + _size(x)),
    "exp2": lambda r, x: r.abs() * (1 + _size(x)),
    "expm1": lambda r, x: r.abs() + _size(x) * r.exp(),
    "log": lambda r, x: 1 + _size(r),
    "log2": lambda r, x: 1 + _size(r),
    "log10": lambda r, x: 1 + _size(r),
    "pow": _pow,
    "sin": lambda r, x: 1 + _size(x),
    "cos": lambda r, x: 1 + _size(x),
    "tan": lambda r, x: (1 + _size(x)) * (1 + r * r),
    "sigmoid": lambda r, x: r * (1 + _size(x)),
    "silu": lambda r, x: r.abs() * (1 + _size(x)),
    "softplus": lambda r, x, *rest: r.abs() * (1 + _size(x)),
    "log_sigmoid_forward": lambda r, x: r.abs() * (1 + _size(x)),
    "logaddexp": lambda r, a, b: 1 + _size(a) + _size(b),
    "logcumsumexp": lambda r, x, dim: 1 + _size(r) + math.log(x.shape[dim]),
    "tanh": lambda r, x: torch.ones_like(r),
    "erf": lambda r, x: torch.ones_like(r),
    "gelu": lambda r, x, **options: _size(x),
    "cumprod": lambda r, x, dim: r.abs() * _gain(x.shape[dim]),
    "prod": lambda r, x, dim=None, *rest: r.abs() * _gain(_length(x, dim)),
    "var": _var,
    "linalg_vector_norm": lambda r, x, ord=2, dim=None, *rest: r * _gain(_length(x, dim)),
    "_fft_c2c": lambda r, x, dim, *rest: _fft(r, dim),
    "_fft_r2c": lambda r, x, dim, *rest: _fft(r, dim),
    "_fft_c2r": lambda r, x, dim, *rest: _fft(r, dim),
}

# Error u32 |result|: named so that KNOWN is complete; any operation outside KNOWN is treated like these.
RELATIVE = _names(
    """
    mul div reciprocal sqrt rsqrt square log1p erfc atan atan2 asin acos sinh cosh elu leaky_relu polar mish hypot remainder
    linspace logspace angle complex
    """
)

KNOWN = CONTRACTIONS | SUMS | SCATTERS | EXACT | DECOMPOSED | RELATIVE | frozenset(POINTWISE)


def _fft(r: Tensor, dim: Sequence[int]) -> Tensor:
    """A transform mixes all elements, so its error follows their norm."""
    size = r.abs()
    return math.log2(2 * _length(r, list(dim))) * size.square().mean(list(dim), keepdim=True).sqrt().expand_as(size)


def grid_error(x: Tensor, dtype: torch.dtype, average: bool = False) -> Tensor:
    """Standard deviation of stochastic rounding of float64 `x` to the grid of `dtype`, subnormals included; 0 on the grid.

    With `average`, what is off the grid gets the root mean square over all places between two neighbours."""
    info = torch.finfo(dtype)
    # The exponent bits alone are the power of two below |x|.
    power = (x.contiguous().view(torch.int64) & 0x7FF0_0000_0000_0000).view(torch.float64)
    power = power.clamp(min=info.tiny)
    if average:
        return power.mul_(info.eps / math.sqrt(6)).mul_(x != x.to(dtype)).nan_to_num_(nan=0.0, posinf=0.0)
    off = (x - x.to(dtype)).abs_()
    return power.mul_(info.eps).sub_(off).mul_(off).clamp(min=0).sqrt_().nan_to_num_(nan=0.0, posinf=0.0)


def _nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 `x` rounded to the grid of `dtype`; what overflows there stays."""
    rounded = x.to(dtype).double()
    return torch.where(rounded.isfinite(), rounded, x)


def floor(dtype: torch.dtype) -> float:
    """What a stored value may lose at least: half a subnormal of float16; the others may be flushed to zero below `tiny`."""
    info = torch.finfo(dtype)
    return info.smallest_normal if dtype != torch.float16 else info.tiny * info.eps / 2


class Machine(TorchDispatchMode):
    """Float64 arithmetic that leaves behind the rounding errors of a machine whose storage and matrix unit are `dtype`.

    Errors are uniform noise with the standard deviation of stochastic rounding, sqrt(f (1 - f)) ulp, not rounded values: a
    value just above the grid rounds up so rarely that a few true roundings would mostly show no error at all. It is never
    below the error of rounding to nearest, min(f, 1 - f) ulp, and it is zero for values that are representable.

    `intermediates` are what is stored in the tested dtype on the way: with noise, or, where they are `nearest`, truly rounded.
    Then large scores of a coarse grid are tied, where noise lets one of them win, and a sum to which ever less is added stands
    still, where noise lets it go on: honest code in a low precision may do either.

    An `exact` machine errs nowhere: it learns how large a run is (`largest`), and whether something is made of no input
    (`drawn_once`)."""

    def __init__(self, dtype: torch.dtype, generator: torch.Generator, intermediates: bool = False):
        super().__init__()
        self.dtype, self.generator, self.intermediates = dtype, generator, intermediates
        self.exact = self.nearest = False
        self.largest = 1
        self.drawn_once = False
        self.unknown: set[str] = set()
        self.start()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, a second, to keep it away from a function that nobody compiles

    def start(self) -> None:
        """Forget the tensors of the last run. What is remembered goes by the address of its storage, and is kept alive."""
        self.backward = False
        self.constants: dict[int, Tensor] = {}
        self.difference: tuple[Any, Any] = (None, None)
        self.weights: dict[int, tuple[Tensor, Tensor]] = {}

    # What becomes of one operation of the reference:
    #   1. a view is no arithmetic; a composed operation (softmax, layer norm) is taken apart, and its parts come here again;
    #   2. what comes from no input (a mask, a table of angles) is a constant, which nobody computes in the tested dtype;
    #   3. its operands are read: a weight of a softmax as fused kernels recompute it, a factor of a product in the tested dtype;
    #   4. it is computed in float64, and its result disturbed as hardware would round it, by `sizes` and `disturb`;
    #   5. what later operations must know of it is remembered: `note_weights`, `constants`.
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, mutable = op.overloadpacket.__name__, op._schema.is_mutable
        name = name.removesuffix("_") if mutable else name
        if op.is_view:
            return op(*args, **kwargs)
        if name in DECOMPOSED and op in decomposition_table:
            with self:
                return decomposition_table[op](*args, **kwargs)
        constant = self.note_constants(args, kwargs, mutable)
        if self.exact:
            return self.surveyed(op(*args, **kwargs), name, constant)
        if name not in EXACT:
            if not mutable:
                args = tuple(self.recomputed(arg) for arg in args)
            if name in CONTRACTIONS or (name in SUMS and self.backward):
                args = tuple(self.read(arg) for arg in args)
        before = (args[0].clone(), *args[1:]) if mutable and args and isinstance(args[0], Tensor) else args
        result = op(*args, **kwargs)
        results = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if _floating(r)]
        if name not in EXACT and results:
            sizes = self.sizes(op, name, result, before, kwargs)
            for r, size in zip(results, sizes, strict=True):
                self.disturb(r, name, size, before, constant)
            self.note_weights(name, results[0], sizes[0], args)
        if constant:
            self.constants.update((_address(r), r) for r in results)
        return result

    def surveyed(self, result: Any, name: str, constant: bool) -> Any:
        """The result of an operation, noted but left as it is."""
        for r in filter(_floating, _tensors(result if isinstance(result, (tuple, list)) else [result])):
            self.largest = max(self.largest, r.numel())
            if constant:
                self.drawn_once |= name not in EXACT
                self.constants[_address(r)] = r
        return result

    def noise(self, deviation: Tensor) -> Tensor:
        """Zero-mean noise of this standard deviation; what has none (an infinity's neighbourhood) gets none."""
        # A byte of randomness an element: uniform over 256 values is uniform enough, and four times as fast as torch.rand.
        words = torch.randint(
            -(2**63), 2**63 - 1, (deviation.numel() // 8 + 1,), generator=self.generator, device=deviation.device
        )
        bytes_ = words.view(torch.int8)[: deviation.numel()]
        uniform = bytes_.view(deviation.shape).add(0.5).div_(DEVIATION_OF_A_BYTE)
        return uniform.mul(deviation).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    def read(self, x: Any) -> Any:
        """An operand in the tested dtype. How far it is from the grid depends on how the formula is written (normalised weights
        or not), so all that is off the grid gets the average error, ulp / sqrt(6)."""
        if isinstance(x, Tensor) and x.is_complex():
            return torch.view_as_complex(self.read(torch.view_as_real(x)))
        return x + self.noise(grid_error(x, self.dtype, average=True)) if _floating(x) else x

    def note_constants(self, args: Any, kwargs: Any, mutable: bool) -> bool:
        """Whether the result comes from no input: angles, decays, masks. Nobody makes these in the tested dtype."""
        tensors = [t for t in _tensors((*args, *kwargs.values())) if _floating(t)]
        constant = not tensors or (bool(self.constants) and all(_address(t) in self.constants for t in tensors))
        if mutable and not constant and tensors:
            self.constants.pop(_address(tensors[0]), None)
        return constant

    def note_weights(self, name: str, result: Tensor, size: Tensor, args: Any) -> None:
        """Remember exp(score - top) together with the relative error that score and top had, for `recomputed`."""
        if name == "sub":
            self.difference = (result, size)
        elif name == "exp" and _same_elements(args[0], self.difference[0]):
            self.weights[_address(result)] = (result, torch.empty_like(result).copy_(self.difference[1]))
        elif name == "mul" and not self.backward and _floating(args[0]) and _address(args[0]) in self.weights:
            # Masked after the exponential.
            relative = self.weights[_address(args[0])][1]
            if relative.shape == result.shape:
                self.weights[_address(result)] = (result, torch.empty_like(result).copy_(relative))

    def recomputed(self, x: Any) -> Any:
        """Softmax weights as each reader may find them: kernels recompute them in the backward pass, and merge partial results,
        from a rounded log of the sum. Without this, the error cancels against that of the sum."""
        found = self.weights.get(_address(x)) if self.weights and _floating(x) else None
        if found is None or found[0].numel() != x.numel():
            return x
        relative = found[1].as_strided(x.size(), x.stride(), x.storage_offset())
        return x + x * self.noise(relative * U32)

    def sizes(self, op: Any, name: str, result: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """The error of each floating result, in units of u32."""
        if name in CONTRACTIONS | SUMS | SCATTERS:
            # On magnitudes the same operation gives the sum of the magnitudes of the terms; an in-place one writes into a copy.
            sums = op(*(_size(arg) for arg in args), **kwargs)
            gain = _gain(_terms(name, args, kwargs))
            if self.intermediates and not self.nearest:
                # Accumulating in the tested dtype loses about a third of its unit of the terms' magnitudes (random signs).
                gain += torch.finfo(self.dtype).eps / 6 / U32
            return [s * gain for s in (sums if isinstance(sums, (tuple, list)) else [sums]) if _floating(s)]
        results = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if _floating(r)]
        if name in POINTWISE:
            return [POINTWISE[name](results[0], *args, **kwargs), *map(_size, results[1:])]
        if name not in RELATIVE:
            self.unknown.add(name)
        return [_size(r) for r in results]

    def disturb(self, r: Tensor, name: str, size: Tensor, args: Any, constant: bool) -> None:
        """Add to `r`, in place, the error of float32, and of the tested dtype where that is what the value is stored in."""
        outer = name in ("mul", "mm", "bmm") and not constant and all(_floating(x) and x.numel() < r.numel() for x in args)
        if r.is_complex():
            r, size = torch.view_as_real(r), size.unsqueeze(-1)
        if name not in CONTRACTIONS | SUMS | SCATTERS:
            # One operation whose exact result float32 can hold gives that result: positions, counts and masks stay whole.
            whole = r == r.float()
            for x in args if name in ("add", "sub") else ():
                # Where both are: what cancels to a round number was off before.
                whole = whole & (x == x.float()) if _floating(x) and not x.is_complex() else whole
            size = size.masked_fill(whole, 0.0)
        r.add_(self.noise(size.expand_as(r)), alpha=U32)
        if outer:
            # An outer product is a step of a sum: chunked code multiplies whole chunks of (decayed, rounded) operands.
            r.add_(self.noise(grid_error(r, self.dtype, average=True)))
        if self.intermediates and not constant:
            r.copy_(_nearest(r, self.dtype)) if self.nearest else r.add_(self.noise(grid_error(r, self.dtype)))


def _tensors(args: Any) -> list[Tensor]:
    """The tensors among the arguments of an operation, and in the lists among them."""
    lists = [[x] if isinstance(x, Tensor) else x for x in args if isinstance(x, Tensor | list | tuple)]
    return [x for part in lists for x in part if isinstance(x, Tensor)]


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in (torch.float64, torch.complex128)


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _same_elements(x: Tensor, kept: Tensor | None) -> bool:
    return kept is not None and _address(x) == _address(kept) and x.numel() == kept.numel()


def _terms(name: str, args: Any, kwargs: Any) -> int:
    """How many terms one result sums; an upper estimate where it varies."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if name in SUMS:
        return _length(args[0], args[1] if len(args) > 1 else kwargs.get("dim"))
    if name == "linear":
        return int(args[0].shape[-1])
    if name.startswith("convolution"):
        return max(t.numel() // max(1, t.shape[1]) for t in tensors if t.dim() > 1)
    if name in SCATTERS:
        return max(t.numel() for t in tensors) // max(1, tensors[0].shape[-1])
    return int(tensors[-2].shape[-1])


def with_gradients(function: Function, wrt: Sequence[str]) -> Function:
    """The function that also pulls back: besides its outputs it returns `q.grad` for each q in `wrt`.

    Cotangents come as inputs named `out.grad`; a floating output without one gets zeros. Budgets of softmax gradients hold for
    formulas that normalise after the product with the values: in one that normalises before, the row sum of dO * O is summed
    in another order, its terms do not show, and honest fused kernels on sharp inputs look up to a hundred budgets off."""

    def both(x: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: value for name, value in x.items() if not name.endswith(".grad")}
        # torch.func.vjp does this, and imports torch's whole compiler, a second, to keep it away meanwhile.
        with grad_increment_nesting() as level, torch.enable_grad():
            leaves = _create_differentiable(_wrap_all_tensors({name: inputs[name] for name in wrt}, level), level)
            attached: Any = function({**inputs, **leaves})
            outputs = _undo_create_differentiable(attached, level)
        machines = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Machine)]
        for machine in machines:
            machine.backward = True
        smooth = {k: v for k, v in attached.items() if v.is_floating_point() and v.requires_grad}
        cotangents = [x[f"{k}.grad"] if f"{k}.grad" in x else torch.zeros_like(outputs[k]) for k in smooth]
        gradients = _pulled_back(list(smooth.values()), list(leaves.values()), cotangents)
        for machine in machines:
            machine.backward = False
        return {**outputs, **{f"{name}.grad": gradient for name, gradient in zip(leaves, gradients, strict=True)}}

    return both


def _pulled_back(outputs: list[Tensor], leaves: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
    """The gradient of each leaf, zeros where no output is made of it."""
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if outputs:
        found = torch.autograd.grad(outputs, leaves, cotangents, create_graph=torch.is_grad_enabled(), allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]


def stored(value: Tensor) -> Tensor:
    """`value` as it comes back from memory: rounded by the machine that is being modelled, if any is.

    For functions of several runs, each of which stores what it returns."""
    machines = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Machine)]
    return _stored(value, machines[-1]) if machines else value


def _double(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().double() if value.is_floating_point() else value for name, value in x.items()}


def truth(function: Function, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """The function in float64 on inputs that are already rounded to the tested dtype."""
    return {name: value.detach() for name, value in function(_double(x)).items()}


def spread(
    function: Function,
    x: dict[str, Tensor],
    dtype: torch.dtype,
    *,
    seed: int,
    samples: int = SAMPLES,
    intermediates: bool = False,
) -> dict[str, Tensor]:
    """[samples, ...] float64 per output: what the modelled machine may return. Infinite where `dtype` overflows."""
    x = _double(x)
    machine = _seeded(x, dtype, seed, intermediates)
    _surveyed(function, x, machine)
    return _drawn(function, x, samples, machine)


def _seeded(x: dict[str, Tensor], dtype: torch.dtype, seed: int, intermediates: bool) -> Machine:
    """A machine for these inputs."""
    return Machine(dtype, torch.Generator(next(iter(x.values())).device).manual_seed(seed), intermediates)


def _surveyed(function: Function, x: dict[str, Tensor], machine: Machine) -> dict[str, Tensor]:
    """What the function gives exactly; the machine learns from that run how it may draw."""
    machine.exact = True
    with machine:
        exact = {name: value.detach() for name, value in function(x).items()}
    machine.exact = False
    return exact


def _drawn(function: Function, x: dict[str, Tensor], samples: int, machine: Machine) -> dict[str, Tensor]:
    """So many runs on the machine, which has surveyed the function."""
    batched = {name: 0 if value.is_floating_point() else None for name, value in x.items()}
    # What the function makes without its inputs (angles, decays) is drawn once a chunk: then there are four chunks or more.
    size = max(1, min(samples // 4 if machine.drawn_once else samples, CHUNK_ELEMENTS // machine.largest))
    if not any(dim == 0 for dim in batched.values()):
        size = 1
    drawn = [_draw(function, x, batched, min(size, samples - done), machine) for done in range(0, samples, size)]
    return {name: torch.cat([part[name] for part in drawn]) for name in drawn[0]}


def _draw(
    function: Function, x: dict[str, Tensor], batched: dict[str, int | None], size: int, machine: Machine
) -> dict[str, Tensor]:
    machine.start()
    if any(dim == 0 for dim in batched.values()):
        x = {name: value.expand(size, *value.shape) if batched[name] == 0 else value for name, value in x.items()}
        with machine:
            outputs = torch.vmap(function, in_dims=(batched,), randomness="different")(x)
    else:
        with machine:
            outputs = {name: value.unsqueeze(0) for name, value in function(x).items()}
    return {name: _stored(value.detach(), machine) for name, value in outputs.items()}


def _stored(value: Tensor, machine: Machine) -> Tensor:
    if value.dtype != torch.float64:
        return value
    value = value + machine.noise(torch.hypot(grid_error(value, machine.dtype), torch.full_like(value, floor(machine.dtype))))
    return torch.where(value.abs() > torch.finfo(machine.dtype).max, value.sign() * math.inf, value)


def budget(function: Function, x: dict[str, Tensor], dtype: torch.dtype, **words: Any) -> dict[str, Tensor]:
    """Per element of each output, the RMS deviation of `spread` from `truth`, float64. Infinite where `dtype` overflows.

    Of code with intermediates in the tested dtype, whichever is larger: that with noise, or that with true rounding, of which a
    quarter of the samples is enough, since little of it is drawn. `words` are those of `truth_and_budget`."""
    return truth_and_budget(function, x, dtype, **words)[1]


def truth_and_budget(
    function: Function,
    x: dict[str, Tensor],
    dtype: torch.dtype,
    *,
    seed: int,
    samples: int = SAMPLES,
    intermediates: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`truth` and `budget`, with no more runs of the function than both together need."""
    x = _double(x)
    machine = _seeded(x, dtype, seed, intermediates)
    exact = _surveyed(function, x, machine)
    lost = _deviations(_drawn(function, x, samples, machine), exact)
    if intermediates:
        machine.nearest = True
        machine.generator.manual_seed(seed)
        rounded = _deviations(_drawn(function, x, samples // 4, machine), exact)
        # Where true rounding leaves 0 / 0, it says nothing.
        lost = {name: torch.fmax(lost[name], rounded[name]) for name in lost}
    return exact, lost


def _deviations(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: _deviation(found[name].double(), exact[name].double()) for name in exact}


def _deviation(found: Tensor, exact: Tensor) -> Tensor:
    return torch.where(found == exact, 0.0, found - exact).square().mean(0).sqrt()
