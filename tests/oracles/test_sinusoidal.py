"""The reference of the sinusoidal encoding against a second formula in NumPy, and against numbers worked out by hand.

The formula turns a pair from one position to the next by complex powers, where the reference takes a sine of each angle.
"""

from typing import Any

import numpy as np
import pytest
import torch

from harness.specs.sinusoidal import sinusoidal


@pytest.mark.parametrize("name", sinusoidal.cases)
def test_powers_of_a_complex_number(name: str, agree: Any) -> None:
    case = sinusoidal.case(name, torch.float64)
    x = sinusoidal.inputs(case)
    step = np.exp(1j * np.power(np.sqrt(float(case.base)), -4 * np.arange(case.d // 2) / case.d))
    turned = np.power(step, x.position.numpy()[:, None])
    theirs = np.empty((case.n, case.d))
    theirs[:, 0::2], theirs[:, 1::2] = turned.imag, turned.real
    agree(sinusoidal.reference(x, case).out, torch.from_numpy(theirs))


def test_the_second_row_of_eight_features(agree: Any) -> None:
    """Position 1, d = 8: angles 1, 0.1, 0.01, 0.001."""
    expected = [[f(10.0**-i) for i in range(4) for f in (np.sin, np.cos)]]
    agree(sinusoidal(torch.tensor([1]), d=8), torch.tensor(expected, dtype=torch.float64))
