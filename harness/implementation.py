"""An implementation, loaded: prepares itself for a case, takes named inputs, gives named outputs and gradients.

It is loaded in a worker only. What it returns is looked at before its values are: type, shape, dtype, device.
"""

import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from harness import Unsupported, asking, catalogue, cost
from harness.cell import Cell
from harness.contract import ContractError, Named
from harness.spec import DTYPES, GRADIENT, Bunch, Case, Spec, dtype_name


class Implementation:
    """One file that claims to compute a spec, under one of its variants."""

    def __init__(
        self,
        spec: Spec,
        prepare: Callable[..., Any],
        variant: Mapping[str, Any],
        gradients: bool,
        deterministic: bool = False,
        dtypes: Sequence[str] = tuple(DTYPES),
    ):
        self.spec = spec
        self.gradients = gradients  # whether it claims to compute them
        self.deterministic = deterministic  # whether it claims equal bits for equal inputs
        self.dtypes = dtypes  # by name, those it claims to take
        self._prepare = prepare
        self._variant = variant
        self._prepared: dict[Case, Any] = {}
        self._in_training = False

    @classmethod
    def of(cls, cell: Cell) -> "Implementation":
        """Load the implementation that a cell names; Unsupported where its facts exclude the cell."""
        claimed = claims(cell)
        _choose_triton(cell.device)
        item = catalogue.implementation(cell.spec, cell.implementation)
        module = catalogue.load(item.path)
        attribute = cell.implementation.partition(":")[2] or "prepare"
        if not callable(prepare := getattr(module, attribute, None)):
            raise ContractError(f"{item.path.name} has no function {attribute}(case)")
        variant = item.facts.get("variants", {}).get(cell.variant, {})
        dtypes = item.facts.get("dtypes", tuple(DTYPES))
        return cls(catalogue.load_spec(cell.spec), prepare, variant, **claimed, dtypes=dtypes)

    def ways(self, case: Case, family: str, seed: int, form: str) -> tuple[dict[str, Bunch], str]:
        """Its answers by the way of asking, see `asking.ways`."""
        return asking.ways(self, case, family, seed, form)

    def answered(self, x: Mapping[str, Tensor], case: Case, wrt: list[str]) -> Bunch:
        """Its answer to a question of a law, see `asking.answered`."""
        return asking.answered(self, x, case, wrt)

    def costed(self, kind: str, question: cost.Question, dice: int = 0) -> tuple[dict[str, Any], Bunch]:
        """What a question costs it, see `cost.costed`."""
        return cost.costed(self, kind, question, dice)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Modules are asked as they learn, not as they are measured."""
        self._in_training = True
        try:
            yield
        finally:
            self._in_training = False

    def prepare(self, case: Case) -> Any:
        """What the implementation made for this case: a function of the inputs, or an nn.Module."""
        if case not in self._prepared:
            self._prepared[case] = self._prepare(case, **self._variant)
        return self._prepared[case]

    def model(self, x: Mapping[str, Tensor], case: Case) -> nn.Module:
        """The module for this case with the parameters that stand in `x`."""
        if not self.spec.defined:
            return self._of_its_own(case)
        module = self._module(case)
        names = {t.name for t in self.spec.contract.inputs}
        wanted = {name: tensor for name, tensor in x.items() if name not in names and not name.endswith(GRADIENT)}
        _place(module, case)
        _check_untied(module, wanted)
        _same_names({name: p.shape for name, p in module.named_parameters()}, {name: t.shape for name, t in wanted.items()})
        module.load_state_dict(wanted, strict=False)
        return module

    def _of_its_own(self, case: Case) -> nn.Module:
        """The module with its own first values: the same ones in every dtype and at every batch size and length."""
        inputs = {axis for tensor in self.spec.contract.inputs for axis in tensor.axes}
        first = case.resized({axis: self.spec.sizes[axis] for axis in inputs}, dtype=torch.float32)
        if first not in self._prepared:
            torch.manual_seed(0)
            made_here = not case.values.get("model")  # a checkpoint is asked as it came
            for parameter in self._module(first).parameters():
                if made_here and parameter.numel() and not parameter.any():
                    # A matrix of zeros, or a gate, would hide what comes before it.
                    nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.dim() else 1.0)
        return _place(self._module(first), case)

    def _module(self, case: Case) -> nn.Module:
        module = self.prepare(case)
        if not isinstance(module, nn.Module):
            raise ContractError(
                f"{self.spec.name} is a model, so prepare(case) must return an nn.Module; got {type(module).__name__}"
            )
        if any(map(is_lazy, module.parameters())):
            raise ContractError("its parameters must be there when prepare returns: give lazy layers their sizes")
        for part in module.modules():
            # As it is measured, unless it is asked as it learns. cuDNN gives gradients of recurrent layers while training alone;
            # without dropout these are alike.
            part.training = self._in_training or (isinstance(part, nn.RNNBase) and not part.dropout)
        return module

    def outputs(self, x: Mapping[str, Tensor], case: Case) -> Bunch:
        """Outputs by name; ContractError where they are not what the contract says."""
        return self.named(self.answer(x, case), case)

    def answer(self, x: Mapping[str, Tensor], case: Case) -> Any:
        """Whatever it returns for these inputs; ContractError where it wrote into one, even if it put back what was there."""
        call = self.model(x, case) if self.spec.of_modules else self.prepare(case)
        given = [t for t in self.spec.given(case) if "." not in t.name]
        before = {t.name: _version(x[t.name]) for t in given}
        with asking.saying_how_to_end(x.get("ids"), case.values.get("t")):
            answer = _called(call, [t for t in given if not t.optional], [t for t in given if t.optional], x)
        if written := [name for name, version in before.items() if _version(x[name]) != version]:
            raise ContractError(f"it writes into its input {written[0]}")
        return answer

    def outputs_and_gradients(
        self,
        x: Mapping[str, Tensor],
        case: Case,
        wanted: Sequence[str],
        between: Callable[[], object] = lambda: None,
        times: int = 1,
    ) -> Bunch:
        """Outputs by name, and `q.grad` for each of the wanted inputs q, for the cotangents `out.grad` in `x`.

        Inputs keep their memory and strides. `between` is called before the way back, of which the last counts, of `times`.
        Outputs whose cotangents are all zeros are read by nobody: the way back does not begin there.
        """
        leaves = {name: x[name].detach().requires_grad_() for name in wanted}
        outputs = self.outputs({**x, **leaves}, case)
        if self.spec.parameters:
            parameters = dict(self.prepare(case).named_parameters())
            leaves = {name: parameters.get(name, leaf) for name, leaf in leaves.items()}
        attached = [name for name, tensor in outputs.items() if tensor.requires_grad]
        if not attached:
            raise ContractError(
                "it claims gradients, but no output is connected to its inputs (detached, or computed under no_grad)"
            )
        between()
        read = [name for name in attached if x[name + GRADIENT].any()] or attached
        cotangents = [x[name + GRADIENT].to(outputs[name].dtype) for name in read]
        ends, starts = [outputs[name] for name in read], list(leaves.values())
        for left in reversed(range(times)):
            found = torch.autograd.grad(ends, starts, cotangents, allow_unused=True, retain_graph=left > 0)
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
            outputs[name + GRADIENT] = torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
        return Bunch({name: tensor.detach() for name, tensor in outputs.items()})

    def named(self, answer: Any, case: Case) -> Bunch:
        """What it returned as outputs by name; ContractError where they are not what the contract says."""
        contract = self.spec.contract.outputs
        if isinstance(answer, Mapping):
            if set(answer) != {t.name for t in contract}:
                raise ContractError(
                    f"returned outputs named {', '.join(answer)}; the contract names {', '.join(t.name for t in contract)}"
                )
            answer = [answer[t.name] for t in contract]
        answers = list(answer) if isinstance(answer, tuple | list) else [answer]
        if len(answers) != len(contract):
            raise ContractError(
                f"returned {len(answers)} outputs; the contract has {len(contract)}: {', '.join(map(str, contract))}"
            )
        for tensor, got in zip(contract, answers, strict=True):
            _check_output(tensor, got, case)
        return Bunch(zip((t.name for t in contract), answers, strict=True))


def claims(cell: Cell) -> dict[str, bool]:
    """Whether the implementation of a cell claims gradients and determinism; Unsupported where its facts exclude the cell."""
    facts = catalogue.implementation(cell.spec, cell.implementation).facts
    _check_facts(facts, cell)
    gradients = facts.get("gradients", False)
    return {
        "gradients": gradients if isinstance(gradients, bool) else cell.device in gradients,
        "deterministic": facts.get("deterministic", False),
    }


def _check_facts(facts: Mapping[str, Any], cell: Cell) -> None:
    devices = facts.get("devices", ("cpu", "cuda"))
    if cell.device not in devices:
        raise Unsupported(f"runs on {' and '.join(devices)}, not on {cell.device}")
    if cell.dtype and cell.dtype not in (dtypes := facts.get("dtypes", tuple(DTYPES))):
        raise Unsupported(f"takes {', '.join(dtypes)}, not {cell.dtype}")
    absent = [library for library in facts.get("requires", ()) if importlib.util.find_spec(library) is None]
    if absent:
        raise Unsupported(f"needs {' and '.join(absent)}, which is not installed (harness doctor says how to get it)")
    if cell.variant and cell.variant not in facts.get("variants", {}):
        raise ContractError(f"no variant {cell.variant!r}.{catalogue.suggestion(cell.variant, facts.get('variants', {}))}")


def check_compiled(cell: Cell) -> None:
    """Unsupported where the kernels of an implementation would be interpreted: there nothing is trained and nothing timed."""
    requires = catalogue.implementation(cell.spec, cell.implementation).facts.get("requires", ())
    if cell.device == "cpu" and "triton" in requires:
        raise Unsupported("its kernels are interpreted on the CPU: there they are judged, not trained or timed")


def _choose_triton(device: str) -> None:
    """Kernels are interpreted on the CPU: Triton wants to know before it is imported."""
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)


def _called(call: Any, inputs: Sequence[Named], optional: Sequence[Named], x: Mapping[str, Tensor]) -> Any:
    """What a function says of the inputs, given in order, and of the optional ones, given by name."""
    said = ", ".join([t.name for t in inputs] + [f"{t.name}=" for t in optional])
    if not callable(call):
        raise ContractError(f"prepare(case) returned a {type(call).__name__}, but should return a function of {said}")
    in_order, by_name = [x[t.name] for t in inputs], {t.name: x[t.name] for t in optional}
    try:
        return call(*in_order, **by_name)
    except TypeError as error:
        if not _takes(call, in_order, by_name):
            error.add_note(f"it is called with {said}, as the contract has them")
        raise


def _takes(call: Any, in_order: Sequence[Tensor], by_name: Mapping[str, Tensor]) -> bool:
    """Whether a function has parameters for these arguments, as far as its signature tells."""
    with suppress(ValueError):  # some builtins have none
        try:
            inspect.signature(getattr(call, "forward", call)).bind(*in_order, **by_name)
        except TypeError:
            return False
    return True


def _place(module: nn.Module, case: Case) -> nn.Module:
    """A module on the device and in the dtype of a case. Complex buffers, tables of turns, keep theirs: `to` drops their
    imaginary part."""
    return module.to(case.device)._apply(lambda t: t.to(case.dtype) if t.is_floating_point() else t)


def _check_output(tensor: Any, got: Any, case: Case) -> None:
    if type(got) is not Tensor:
        raise ContractError(f"{tensor} is a {type(got).__module__}.{type(got).__name__}, not a torch.Tensor")
    expected = tensor.shape(case.values)
    if tuple(got.shape) != expected:
        sizes = ", ".join(f"{axis} = {case.values[axis]}" for axis in tensor.axes if not axis.isdigit())
        raise ContractError(f"{tensor} has shape {list(got.shape)}, but should have {list(expected)} ({sizes})")
    in_float64 = case.dtype == torch.float64
    if got.dtype != case.dtype and not (in_float64 and got.dtype == torch.float32):
        asked = "\n  laws are judged in float64: a part of it computes in less" if in_float64 else ""
        raise ContractError(f"{tensor} is {dtype_name(got.dtype)}, but should be {dtype_name(case.dtype)}{asked}")
    if got.device.type != case.device or got.layout is not torch.strided:
        raise ContractError(f"{tensor} is on {got.device.type} as {got.layout}, but should be a strided tensor on {case.device}")


def _check_untied(module: nn.Module, wanted: Mapping[str, Any]) -> None:
    """ContractError where two parameters of the reference are one tensor: torch names it once, so the other seems absent."""
    named = {id(tensor): name for name, tensor in module.named_parameters()}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        if {name, of := named[id(tensor)]} <= set(wanted) and name != of:
            raise ContractError(f"parameter {name} is tied to {of}; in the reference it is one of its own")


def _same_names(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Parameters must have the names and shapes of the reference, all of them and no others."""
    absent, extra = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    if absent or extra:
        compiled = all(name.startswith("_orig_mod.") for name in extra) and extra
        raise ContractError(
            f"parameters do not match the reference; absent: {', '.join(absent) or 'none'}; unknown: {', '.join(extra) or 'none'}"
            + ("\n  torch.compile(model) renames them; compile it in place: model.compile()" if compiled else "")
        )
    for name, shape in wanted.items():
        if tuple(got[name]) != tuple(shape):
            raise ContractError(f"parameter {name} has shape {list(got[name])}, but should have {list(shape)}")


def _version(tensor: Tensor) -> int:
    """How often torch has written into a tensor; one of inference mode does not count."""
    return 0 if tensor.is_inference() else tensor._version
