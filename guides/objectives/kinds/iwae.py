"""Importance-weighted bound of `num_particles` draws per unit (Burda et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from guides.objectives.bounds import iwae_bound_nats
from guides.objectives.objective import Objective, Terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class IWAE(Objective):
    """Importance-weighted bound of `num_particles` draws per unit (Burda et al. 2016)."""

    name: ClassVar[str] = "iwae"
    formula: ClassVar[str] = "log (1/k) sum_j exp w_ij"
    stl: ClassVar[bool] = False
    mirrored: ClassVar[bool] = False
    ends_as_elbo: ClassVar[bool] = False

    def value(self, terms: Terms) -> Tensor:
        """Return the bound."""
        return terms.scale * iwae_bound_nats(terms.log_weights).sum()


OBJECTIVE = IWAE()
