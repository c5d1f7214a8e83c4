"""Reconstruction minus `beta` times the KL (Higgins et al. 2017); a bound if beta >= 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guides.objectives.objective import Objective
from zoo.errors import UsageError
from zoo.fields import NUMBER, checked


@dataclass(frozen=True, kw_only=True)
class Beta(Objective):
    """Reconstruction minus `beta` times the KL (Higgins et al. 2017); a bound if beta >= 1.

    Raises:
        UsageError: a weight that is not positive.
    """

    name: ClassVar[str] = "beta"
    formula: ClassVar[str] = "(1/k) sum_j [log p(x_i | u_ij) - beta (log q(u_ij) - r_ij)]"
    bounds: ClassVar[str] = "log p(x) where beta >= 1"
    ends_as_elbo: ClassVar[bool] = False
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Reject a weight that is not positive."""
        checked(self, beta=NUMBER)
        if not self.beta > 0:
            raise UsageError(
                f"The objective beta got beta={self.beta}; accepted: a positive number."
            )

    def kl_weight(self, step: int) -> float:
        """Return beta."""
        return self.beta


OBJECTIVE = Beta()
