"""One layer of long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

Hidden vector and cell go in as `past` and `past_cell`, and come out as `state` and `state_cell`.

Where papers and libraries disagree, this side is taken:
- Gates stand in the order i, f, g, o (torch, Keras); cuDNN's older names and openai's mLSTM have i, f, o, g. Here they have
  an axis of their own: torch's weight_ih [4e d] is `input_weight` [4 e d] flattened.
- No peepholes (Gers and Schmidhuber 2000 let the gates see the cell); the hidden vector is not projected.
- Two biases that are added (torch, cuDNN; Keras has one), and no constant 1 added to the forget gate (Keras and
  TensorFlow put it into the initial value, older TensorFlow into the sum).
- The cell that comes out is the one before the tanh.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._past import give_laws

WEIGHTS = ("input_weight", "hidden_weight", "input_bias", "hidden_bias")


@spec(
    "x[b n d], past[b e], past_cell[b e], input_weight[4 e d], hidden_weight[4 e e], input_bias[4 e], hidden_bias[4 e]"
    " -> out[b n e], state[b e], state_cell[b e]",
    b=2,
    n=19,
    d=7,
    e=5,
    cases={
        "plain": {},
        "one_step": {"n": 1},
        "two_steps": {"n": 2, "b": 1},
        "whole_tiles": {"b": 16, "n": 3, "d": 16, "e": 16},  # no ragged tile; a transposed weight has the right shape
        "long": {"n": 140, "e": 3},  # a state that is lost between chunks
        "wide": {"n": 3, "d": 133, "e": 140},  # tiles of widths beyond 64 and 128
        "many_rows": {"b": 70, "n": 3, "d": 4, "e": 3},  # what is done for the first tile of rows alone
        "narrow": {"d": 1, "e": 6},
        "one_unit": {"e": 1},
    },
)
def lstm(
    x: Tensor,
    past: Tensor,
    past_cell: Tensor,
    input_weight: Tensor,
    hidden_weight: Tensor,
    input_bias: Tensor,
    hidden_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    of_input = project(x, input_weight) + input_bias + hidden_bias
    hidden, cell, out = past, past_cell, []
    for of_input_n in of_input.unbind(1):
        i, f, g, o = (of_input_n + project(hidden, hidden_weight)).unbind(-2)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        out.append(hidden)
    return torch.stack(out, dim=1), hidden, cell


def project(x: Tensor, weight: Tensor) -> Tensor:
    """[... 4 e]: each gate's share of a vector [... d], for a weight [4 e d]."""
    return (x @ weight.flatten(0, 1).mT).unflatten(-1, weight.shape[:2])


def _scaled(x: Bunch, case: Case) -> dict[str, Tensor]:
    """Weights of a size that leaves gates half open, and a past that such a cell can have."""
    weights = {"input_weight": x.input_weight * case.d**-0.5, "hidden_weight": x.hidden_weight * case.e**-0.5}
    return {**weights, "past": torch.tanh(x.past)}


@lstm.work(step={"n": 1}, carried=("state", "state_cell"), b=4, d=128, e=128)
def _(case: Case) -> float:
    """The two products of the four gates."""
    return 8 * case.b * case.n * case.e * (case.d + case.e)


@lstm.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return _scaled(x, case)


@lstm.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Inputs and cells far beyond where gates are shut."""
    return {**_scaled(x, case), "x": 4 * x.x + 3, "past_cell": 40 * x.past_cell + 30}


@lstm.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """Gates wide open or shut, by weights eight times as big."""
    scaled = _scaled(x, case)
    return {**scaled, **{name: 8 * scaled[name] for name in ("input_weight", "hidden_weight")}}


@lstm.family
def open_forget(x: Bunch, case: Case, rng: torch.Generator):
    """Cells that forget nothing and add up to the end: what is off by one step, or at an edge, stays in them."""
    gates = torch.tensor([0.0, 6.0, 0.0, 2.0], dtype=torch.float64)[:, None]
    return {**_scaled(x, case), "input_bias": x.input_bias / 4 + gates, "past_cell": 3 * x.past_cell}


@lstm.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """Only the first token, the last, and those at the edges of chunks are heard, by cells that forget nothing."""
    step = torch.arange(case.n)
    heard = (step % 16 == 0) | (step % 16 == 15) | (step == case.n - 1)
    return {**open_forget(x, case, rng), "x": 3 * x.x * heard[:, None]}


give_laws(lstm)


@lstm.law
def the_last_output_is_the_state(run, x: Bunch, rng):
    found = run(x)
    return found.out[:, -1], found.state


@lstm.law
def only_the_sum_of_the_biases_counts(run, x: Bunch, rng):
    return tuple(run(x).values()), tuple(run(x, input_bias=x.hidden_bias, hidden_bias=x.input_bias).values())


@lstm.law(when=lambda case: case.e > 1)
def permuting_units_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.past.shape[1]), x.past.shape[1])
    changes = {name: x[name][:, order] for name in ("past", "past_cell", *WEIGHTS)}
    changes["hidden_weight"] = changes["hidden_weight"][:, :, order]
    permuted, whole = run(x, **changes), run(x)
    return tuple(whole[name][..., order] for name in whole), tuple(permuted.values())


@lstm.law
def a_large_cell_puts_out_its_gate(run, x: Bunch, rng):
    """A tanh of 200 is 1: e^200 is infinite in float32. With the output gate half open, that leaves a half."""
    gates = torch.tensor([200.0, 200.0, 200.0, 0.0], dtype=x.input_bias.dtype, device=x.x.device)[:, None]
    nothing = {name: torch.zeros_like(x[name]) for name in WEIGHTS}
    biased = {**nothing, "input_bias": gates.expand_as(x.input_bias).contiguous()}
    return run(x, **biased, past_cell=torch.full_like(x.past_cell, 200.0)).out, torch.full_like(run(x).out, 0.5)


@lstm.law
def a_shut_input_gate_and_an_open_forget_gate_keep_the_cell(run, x: Bunch, rng):
    gates = torch.tensor([-200.0, 200.0, 0.0, 0.0], dtype=x.input_bias.dtype, device=x.x.device)[:, None]
    nothing = {name: torch.zeros_like(x[name]) for name in WEIGHTS}
    kept = run(x, **{**nothing, "input_bias": gates.expand_as(x.input_bias).contiguous()})
    return kept.state_cell, x.past_cell


def _cells(name: str, step) -> None:
    """A mistake of one step: `step(i, f, g, o, cell, n) -> (hidden, cell)` on the sums that go into the gates."""

    def wrong(x, past, past_cell, input_weight, hidden_weight, input_bias, hidden_bias):
        of_input = project(x, input_weight) + input_bias + hidden_bias
        hidden, cell, out = past, past_cell, []
        for n, of_input_n in enumerate(of_input.unbind(1)):
            hidden, cell = step(*(of_input_n + project(hidden, hidden_weight)).unbind(-2), cell, n)
            out.append(hidden)
        return torch.stack(out, 1), hidden, cell

    lstm.mistake(name)(wrong)


def _step(i, f, g, o, cell, n=0):
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _peephole(i, f, g, o, cell, n):
    return _step(i + cell, f + cell, g, o, cell)


def _output_of_the_old_cell(i, f, g, o, cell, n):
    return torch.sigmoid(o) * torch.tanh(cell), _step(i, f, g, o, cell)[1]


def _no_tanh_of_the_cell(i, f, g, o, cell, n):
    new = _step(i, f, g, o, cell)[1]
    return torch.sigmoid(o) * new, new


def _cell_after_tanh(i, f, g, o, cell, n):
    new = torch.tanh(_step(i, f, g, o, cell)[1])
    return torch.sigmoid(o) * new, new


def _forget_what_is_not_written(i, f, g, o, cell, n):
    new = (1 - torch.sigmoid(i)) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(new), new


def _sigmoid_candidate(i, f, g, o, cell, n):
    new = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.sigmoid(g)
    return torch.sigmoid(o) * torch.tanh(new), new


def _hard(x):
    return (x / 6 + 0.5).clamp(0, 1)


def _hard_gates(i, f, g, o, cell, n):
    new = _hard(f) * cell + _hard(i) * torch.tanh(g)
    return _hard(o) * torch.tanh(new), new


_cells("gates stand in the order i, f, o, g", lambda i, f, g, o, cell, n: _step(i, f, o, g, cell))
_cells("input and forget gate are swapped", lambda i, f, g, o, cell, n: _step(f, i, g, o, cell))
_cells("gates see the cell through peepholes", _peephole)
_cells("1 is added to the forget gate", lambda i, f, g, o, cell, n: _step(i, f + 1, g, o, cell))
_cells("the output reads the cell before it is written", _output_of_the_old_cell)
_cells("the cell is put out without tanh", _no_tanh_of_the_cell)
_cells("the cell is kept after tanh", _cell_after_tanh)
_cells("the forget gate is what the input gate leaves", _forget_what_is_not_written)
_cells("the candidate goes through a sigmoid", _sigmoid_candidate)
_cells("sigmoids are piecewise linear", _hard_gates)
_cells("the cell is clipped to 3", lambda i, f, g, o, cell, n: _step(i, f, g, o, cell.clamp(-3, 3)))
_cells("the cell is clipped to 50", lambda i, f, g, o, cell, n: _step(i, f, g, o, cell.clamp(-50, 50)))
_cells(
    "the cell starts anew at each edge of 16",
    lambda i, f, g, o, cell, n: _step(i, f, g, o, cell if n % 16 or n == 0 else 0 * cell),
)
_cells(
    "the cell fades once too often at each edge of 16",
    lambda i, f, g, o, cell, n: _step(i, f, g, o, cell if n % 16 or n == 0 else torch.sigmoid(f) * cell),
)
_cells("backward stops at the cell of the step before", lambda i, f, g, o, cell, n: _step(i, f, g, o, cell.detach()))


@lstm.mistake("the hidden bias is dropped")
def _(x, past, past_cell, input_weight, hidden_weight, input_bias, hidden_bias):
    return lstm(x, past, past_cell, input_weight, hidden_weight, input_bias, 0 * hidden_bias)


@lstm.mistake("the hidden weight is transposed")
def _(x, past, past_cell, input_weight, hidden_weight, input_bias, hidden_bias):
    return lstm(x, past, past_cell, input_weight, hidden_weight.mT, input_bias, hidden_bias)


@lstm.mistake("the past is ignored")
def _(x, past, past_cell, **weights):
    return lstm(x, 0 * past, 0 * past_cell, **weights)


@lstm.mistake("the cell of the past is ignored")
def _(x, past, past_cell, **weights):
    return lstm(x, past, 0 * past_cell, **weights)


@lstm.mistake("hidden vector and cell of the past are swapped")
def _(x, past, past_cell, **weights):
    return lstm(x, past_cell, past, **weights)


@lstm.mistake("hidden vector and cell of the state are swapped")
def _(x, past, past_cell, **weights):
    out, state, cell = lstm(x, past, past_cell, **weights)
    return out, cell, state


@lstm.mistake("the final state misses the last token")
def _(x, past, past_cell, **weights):
    out, _, _ = lstm(x, past, past_cell, **weights)
    return out, *(lstm(x[:, :-1], past, past_cell, **weights)[1:] if x.shape[1] > 1 else (past, past_cell))


@lstm.mistake("a last ragged chunk of 16 is dropped")
def _(x, past, past_cell, **weights):
    whole = max(1, x.shape[1] // 16 * 16)
    out, *state = lstm(x[:, :whole], past, past_cell, **weights)
    return torch.cat([out, out[:, -1:].expand(-1, x.shape[1] - whole, -1)], 1), *state


@lstm.mistake("backward stops at the past")
def _(x, past, past_cell, **weights):
    return lstm(x, past.detach(), past_cell.detach(), **weights)


@lstm.mistake("backward stops at the final cell")
def _(x, past, past_cell, **weights):
    out, state, cell = lstm(x, past, past_cell, **weights)
    return out, state, cell.detach()


@lstm.mistake("backward through time stops after 16 steps")
def _(x, past, past_cell, **weights):
    out: list[Tensor] = []
    state, cell = past, past_cell
    for part in x.split(16, 1):
        one, state, cell = lstm(part, state.detach() if out else state, cell.detach() if out else cell, **weights)
        out.append(one)
    return torch.cat(out, 1), state, cell


@lstm.mistake("all rows start from the past of the first")
def _(x, past, past_cell, **weights):
    return lstm(x, past[:1].expand_as(past), past_cell[:1].expand_as(past_cell), **weights)


@lstm.mistake("units beyond the 64th are not handed on")
def _(x, past, past_cell, hidden_weight, **weights):
    read = torch.arange(past.shape[1]) < 64
    return lstm(x, past, past_cell, hidden_weight=hidden_weight * read, **weights)


@lstm.mistake("inputs beyond the 128th are not read")
def _(x, past, past_cell, **weights):
    return lstm(x * (torch.arange(x.shape[2]) < 128), past, past_cell, **weights)


@lstm.mistake("rows beyond the 64th start from nothing")
def _(x, past, past_cell, **weights):
    first = (torch.arange(len(past)) < 64)[:, None]
    return lstm(x, past * first, past_cell * first, **weights)


@lstm.mistake("the final state is that after the padding to a whole chunk of 16")
def _(x, past, past_cell, **weights):
    out, *state = lstm(x, past, past_cell, **weights)
    short = -x.shape[1] % 16
    return out, *(lstm(0 * x[:, :1].expand(-1, short, -1), *state, **weights)[1:] if short else state)


@lstm.mistake("the gradient of the past misses the final state")
def _(x, past, past_cell, **weights):
    out, _, _ = lstm(x, past, past_cell, **weights)
    return out, *lstm(x, past.detach(), past_cell.detach(), **weights)[1:]


@lstm.mistake("the gradient of the past misses the outputs")
def _(x, past, past_cell, **weights):
    out, _, _ = lstm(x, past.detach(), past_cell.detach(), **weights)
    return out, *lstm(x, past, past_cell, **weights)[1:]


@lstm.mistake("backward gives the hidden weight the gradient of the last step alone")
def _(x, past, past_cell, hidden_weight, **weights):
    if x.shape[1] == 1:
        return lstm(x, past, past_cell, hidden_weight=hidden_weight, **weights)
    out, *state = lstm(x[:, :-1], past, past_cell, hidden_weight=hidden_weight.detach(), **weights)
    last, *state = lstm(x[:, -1:], *state, hidden_weight=hidden_weight, **weights)
    return torch.cat([out, last], 1), *state


@lstm.mistake("the last tile of 16 units is not handed on where it is whole")
def _(x, past, past_cell, hidden_weight, **weights):
    e = past.shape[1]
    read = (torch.arange(e) < e - 16) | (e % 16 != 0)
    return lstm(x, past, past_cell, hidden_weight=hidden_weight * read, **weights)


@lstm.mistake("the input weight is read transposed where it is square")
def _(x, past, past_cell, input_weight, **weights):
    square = input_weight.shape[1] == input_weight.shape[2]
    return lstm(x, past, past_cell, input_weight=input_weight.mT if square else input_weight, **weights)


@lstm.mistake("backward leaves out the hidden weight in a batch of one")
def _(x, past, past_cell, hidden_weight, **weights):
    return lstm(x, past, past_cell, hidden_weight=hidden_weight if len(x) > 1 else hidden_weight.detach(), **weights)
