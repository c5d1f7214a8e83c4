"""Evidence lower bound with the plain reparameterization gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guides.objectives.objective import Objective


@dataclass(frozen=True, kw_only=True)
class PlainELBO(Objective):
    """Evidence lower bound with the plain reparameterization gradient."""

    name: ClassVar[str] = "elbo_plain"
    formula: ClassVar[str] = "(1/k) sum_j w_ij"
    per_unit: ClassVar[bool] = False
    stl: ClassVar[bool] = False


OBJECTIVE = PlainELBO()
