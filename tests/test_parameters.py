"""What a model is made of: parameters once, and beside them what its state_dict carries; the note where that is unequal."""

import torch
from torch import nn

from harness import parameters


class Counts(nn.Module):
    """Two names of one parameter, a buffer that is kept and one that is not."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("kept", torch.zeros(100))
        self.register_buffer("made anew", torch.zeros(1000), persistent=False)

    def get_extra_state(self):
        return {"also": [torch.zeros(7)]}

    def set_extra_state(self, state):
        pass


def test_what_is_kept_beside_the_parameters_is_counted():
    counts = Counts()
    assert parameters.counted(counts, counts.state_dict()) == {"parameters": 16, "beside_parameters": 107}
    assert parameters.counted(counts, {"one.weight": counts.one.weight}) == {"parameters": 16, "beside_parameters": 0}, (
        "its own codes"
    )


def test_the_note_says_what_is_unequal():
    assert not parameters.note({"parameters": 104, "beside_parameters": 5}, 100, {})
    assert not parameters.note({"parameters": 100}, 100, {}), "an older record"
    assert parameters.note({"parameters": 1200}, 1000, {}) == "20% over the 1,000 parameters of the others"
    assert parameters.note({"parameters": 800}, 1000, {}) == "20% under the 1,000 parameters of the others"
    filled = parameters.note({"parameters": 100, "beside_parameters": 16_777_216}, 100, {})
    assert filled == "beside its parameters 16,777,216 numbers of its state_dict, which training may fill"
