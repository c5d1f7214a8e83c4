"""What the loop needs of an objective; `guides.objectives` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Evaluated", "Objective"]


class Objective(Protocol):
    """What the loop needs of an objective; see `guides.objectives.flat`."""

    parameters: dict[str, nn.Parameter]
    weights: dict[str, nn.Parameter]
    gradients_per_step: int
    eager: str

    @property
    def normal(self) -> tuple[int, int] | None:
        """Shape of the noise if it is one tensor of standard normals, else None."""

    def noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the randomness of one step."""

    def peek_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw such randomness without advancing the stream of minibatches."""

    @property
    def numbers(self) -> int:
        """Random numbers that are inputs of a step."""

    def observe(self, device: str) -> None:
        """Find what a step draws, where it may be compiled for a device."""

    def loss(self, noise: tuple[Tensor, ...]) -> Tensor:
        """Return the loss in nats at the parameters as they are."""

    def inputs(self, noise: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what a step takes for this randomness."""

    def prepare(self) -> None:
        """Prepare for a trace."""

    def gradients(
        self, values: Sequence[Tensor], *noise: Tensor
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the loss at given parameters and weights, and its gradients.

        Pure, unless `eager` gives the reason why not.
        """

    def watched(self) -> Tensor | None:
        """Return what the stopping rule watches besides the loss, in posterior sds."""

    def locate_nonfinite(self, noise: tuple[Tensor, ...]) -> str:
        """Name what made the loss or gradient of this noise non-finite."""


class Evaluated(Objective, Protocol):
    """An objective whose search is watched at mean parameters; see `guides.optimize.stopping`."""

    def evaluated(self, noise: tuple[Tensor, ...]) -> float:
        """Return the loss of this noise in evaluation mode, without gradients."""
