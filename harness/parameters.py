"""How many numbers a model is made of, and what a table says where that, or its training, is not that of the others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness import memory

if TYPE_CHECKING:
    from torch import nn

UNEQUAL = 0.05  # of the parameters: less than this is about as many


def counted(model: "nn.Module", learned: Mapping[str, Any]) -> dict[str, int]:
    """Its parameters, and what else of numbers is in the trained state_dict that it was given."""
    own = dict(model.named_parameters(remove_duplicate=False))
    beside = {name: kept for name, kept in learned.items() if name not in own}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "beside_parameters": sum(kept.numel() for kept in memory.tensors(beside)),
    }


def note(values: Mapping[str, Any], wanted: int, training: Mapping[str, Any]) -> str:
    """Said of a record whose model was not trained as the others, has more or fewer parameters, or many numbers that are none."""
    notes = [f"weights of {training['weights_of']}"] if "weights_of" in training else []
    if tuned := training.get("fine_tuned"):
        notes.append(f"fine-tuned on {tuned['bytes']} bytes at {tuned['length']}")
    # Records of before 2026-11-22 do not say what is beside the parameters.
    parameters, beside = values["parameters"], values.get("beside_parameters", 0)
    off = parameters / wanted - 1
    if abs(off) > UNEQUAL:
        notes.append(f"{abs(off):.0%} {'over' if off > 0 else 'under'} the {wanted:,} parameters of the others")
    if beside > UNEQUAL * parameters:
        notes.append(f"beside its parameters {beside:,} numbers of its state_dict, which training may fill")
    return ", ".join(notes)
