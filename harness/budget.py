"""How many numbers a model is made of, and what a table says where that is not the same for all that were trained alike."""

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


def note(values: Mapping[str, Any], budget: int) -> str:
    """Said of a record whose model has more or fewer parameters than the others, or many numbers that are none."""
    # Records of before 2026-11-22 do not say what is beside the parameters.
    parameters, beside = values["parameters"], values.get("beside_parameters", 0)
    off, notes = parameters / budget - 1, []
    if abs(off) > UNEQUAL:
        notes.append(f"{abs(off):.0%} {'over' if off > 0 else 'under'} the {budget:,} parameters of the others")
    if beside > UNEQUAL * parameters:
        notes.append(f"beside its parameters {beside:,} numbers of its state_dict, which training may fill")
    return ", ".join(notes)
