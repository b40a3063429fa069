"""In-context linear regression (Garg et al. 2022, arXiv:2208.01066) for models that take tokens: x and y in steps of a grid.

    ids      x1 y1 x2 y2 x3 ...      y = w x + c; w, c and all x uniform in [-1, 1], another w and c in each row
    targets  y1    y2    y3 ...

The answer is the mean of the grid under the probabilities that the model gives to the tokens of y. Errors are squared and
divided by those of predicting the mean of all y, which is 0, on the same trials. Least squares reads the same grid as the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import NOTHING, Ask, Batch, dice, logits

REACH = 2.0  # |y| is at most this
RIDGE = 1e-6  # decides among equal fits where the points seen share one x


@dataclass(frozen=True)
class Regression:
    """Rows of so many points, x on a grid of x_bins steps and y of y_bins; measured after the numbers of points in `after`."""

    after: tuple[int, ...]
    x_bins: int
    y_bins: int
    trials: int
    seed: int = 0

    @property
    def v(self) -> int:
        return self.x_bins + self.y_bins

    @property
    def n(self) -> int:
        return 2 * max(self.after) + 1

    @property
    def x_grid(self) -> Tensor:
        return torch.linspace(-1, 1, self.x_bins, dtype=torch.float64)

    @property
    def y_grid(self) -> Tensor:
        return torch.linspace(-REACH, REACH, self.y_bins, dtype=torch.float64)

    def rows(self, count: int, rng: torch.Generator) -> Batch:
        x = torch.randint(self.x_bins, (count, max(self.after) + 1), generator=rng)
        w, c = 2 * torch.rand(2, count, 1, generator=rng, dtype=torch.float64) - 1
        y = ((w * self.x_grid[x] + c + REACH) / (2 * REACH) * (self.y_bins - 1)).round().long()
        ids = torch.stack([x, self.x_bins + y], 2).flatten(1)
        targets = torch.full_like(ids, NOTHING)
        targets[:, 0::2] = ids[:, 1::2]
        return Batch(ids[:, :-1], targets[:, :-1])

    def batches(self, size: int) -> Iterator[Batch]:
        """Training batches without end."""
        rng = dice("regression, training", self.seed)
        while True:
            yield self.rows(size, rng)

    def measure(self, ask: Ask) -> dict[str, list[float]]:
        """By number of points seen: the squared error of each trial, over the mean one of predicting the mean."""
        trials = self.rows(self.trials, dice("regression, trials", self.seed))
        weights = logits(ask, trials.ids)[:, 0::2, self.x_bins :].double().softmax(2)
        y = self.y_grid[trials.targets[:, 0::2] - self.x_bins]
        errors = (weights @ self.y_grid - y) ** 2 / (y**2).mean(0)
        return {f"{points} points": errors[:, points].tolist() for points in self.after}

    def score(self, found: dict[str, list[float]]) -> list[float]:
        """Of each trial after the most points, the share of the variance that is explained."""
        return [1 - error for error in found[f"{self.after[-1]} points"]]

    @property
    def chance(self) -> float:
        return 0.0

    def exact(self, ids: Tensor) -> Tensor:
        """Least squares over the points read so far; of fewer than two, the line of least norm."""
        x = torch.stack([self.x_grid[ids[:, 0::2]], torch.ones_like(ids[:, 0::2])], 2).double()  # [b k 2]
        y = self.y_grid[ids[:, 1::2] - self.x_bins]
        points = x[:, : y.shape[1]]
        # Sums over the points before each query: [b k 2 2] and [b k 2].
        gram = torch.cumsum(points[..., :, None] * points[..., None, :], 1)
        cross = torch.cumsum(points * y[..., None], 1)
        gram, cross = (torch.cat([torch.zeros_like(t[:, :1]), t], 1)[:, : x.shape[1]] for t in (gram, cross))
        line = torch.linalg.solve(gram + RIDGE * torch.eye(2, dtype=torch.float64), cross)
        return self._saying((line * x).sum(2), ids)

    def blind(self, ids: Tensor) -> Tensor:
        """Predicts the mean of all y, which is 0."""
        return self._saying(torch.zeros(ids[:, 0::2].shape, dtype=torch.float64), ids)

    def _saying(self, y: Tensor, ids: Tensor) -> Tensor:
        """Logits whose mean over the grid is y[b k], at the places of x: all weight on the two steps around it."""
        place = (y.clamp(-REACH, REACH) + REACH) / (2 * REACH) * (self.y_bins - 1)
        weights = (1 - (place[..., None] - torch.arange(self.y_bins)).abs()).clamp(min=1e-30)
        said = torch.zeros(*ids.shape, self.v, dtype=torch.float64)
        said[:, 0::2, self.x_bins :] = weights.log()
        return said
