"""What references of language models share whose mixers have parameters other than the matrices of attention."""

from functools import partial

from torch import Tensor

from harness.specs._decoder import PARAMETERS

# The parameters of the skeleton, without those of any mixer.
AROUND = "\n".join(line for line in PARAMETERS.splitlines() if ".mixer." not in line) + "\n"


def own(project: partial, name: str) -> Tensor:
    """The parameter of this name of the mixer whose matrices `project` applies."""
    return project.keywords["parameters"][project.keywords["name"] + name]
