"""Evidence lower bound with `free_bits` free nats per unit, falling to 0 over the warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from guides.objectives.objective import Scheduled, Terms
from zoo.errors import UsageError
from zoo.fields import NUMBER, checked

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FreeBitsELBO(Scheduled):
    """Evidence lower bound with `free_bits` free nats per unit, falling to 0 over the warm-up."""

    name: ClassVar[str] = "elbo_free_bits"
    formula: ClassVar[str] = (
        "(1/k) sum_j log p(x_i | u_ij) - max(KL, free nats), the free nats falling to 0"
    )
    free_bits: float = 0.5

    def __post_init__(self) -> None:
        """Reject negative numbers."""
        checked(self, free_bits=NUMBER)
        Scheduled.__post_init__(self)
        if not self.free_bits >= 0:
            raise UsageError(
                f"The objective {self.name} got free_bits={self.free_bits}; accepted: a number of"
                " nats from 0."
            )

    def free_nats(self, step: int) -> float:
        """Return the remaining free nats."""
        return 0.0 if step >= self.warmup else self.free_bits * (1.0 - step / self.warmup)

    def value(self, terms: Terms) -> Tensor:
        """Return the likelihood minus the mean KL per unit, free up to the free nats.

        The free nats fall to 0, so that the final objective is the ELBO.
        """
        kl = (terms.log_q - terms.prior).mean()
        likelihood = terms.scale * terms.likelihood.mean(0).sum()
        return likelihood - terms.size * kl.maximum(terms.free.expand(()))


OBJECTIVE = FreeBitsELBO()
