"""Evidence lower bound whose KL weight rises four times over the warm-up (Fu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guides.objectives.objective import Scheduled

CYCLES = 4
RISE = 0.5  # share of a cycle in which the weight rises (Fu et al. 2019)


@dataclass(frozen=True, kw_only=True)
class CyclicalELBO(Scheduled):
    """Evidence lower bound whose KL weight rises four times over the warm-up (Fu et al. 2019)."""

    name: ClassVar[str] = "elbo_cyclical"
    formula: ClassVar[str] = (
        "(1/k) sum_j [log p(x_i | u_ij) - b (log q(u_ij) - r_ij)], b rises from 0 to 1 four times"
    )

    def kl_weight(self, step: int) -> float:
        """Return the weight, which rises over the first half of each cycle and then stays at 1."""
        if step >= self.warmup:
            return 1.0
        return min(1.0, (step * CYCLES / self.warmup) % 1.0 / RISE)


OBJECTIVE = CyclicalELBO()
