"""Log density of an entry with its data, and points to evaluate it at, for model tests."""

import torch
from torch import Tensor

from zoo.density.log_density import LogDensity
from zoo.types import Data, ModelEntry


def log_density(entry: ModelEntry) -> tuple[LogDensity, Data]:
    data = entry.load_data()
    return LogDensity(entry.program(data), data), data


def points(n: int, dim: int, *, seed: int = 0, scale: float = 0.5) -> Tensor:
    return scale * torch.randn(
        n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def normal(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    return torch.distributions.Normal(torch.as_tensor(mean, dtype=torch.float64), sd).log_prob(x)


def density_of(program, **train) -> LogDensity:
    """Return the log density of a program of tensors, all of them observed."""
    return LogDensity(program, Data(train=train, observed=tuple(train)))
