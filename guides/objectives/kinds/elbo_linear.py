"""Evidence lower bound whose KL weight rises from 0 to 1 over the warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guides.objectives.objective import Scheduled


@dataclass(frozen=True, kw_only=True)
class LinearELBO(Scheduled):
    """Evidence lower bound whose KL weight rises from 0 to 1 over the warm-up."""

    name: ClassVar[str] = "elbo_linear"
    formula: ClassVar[str] = (
        "(1/k) sum_j [log p(x_i | u_ij) - b (log q(u_ij) - r_ij)], b = min(1, step / warmup)"
    )

    def kl_weight(self, step: int) -> float:
        """Return the elapsed share of the warm-up."""
        return 1.0 if step >= self.warmup else step / self.warmup


OBJECTIVE = LinearELBO()
