"""Evidence lower bound with the sticking-the-landing gradient, for all guides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from guides.objectives.objective import Objective


@dataclass(frozen=True, kw_only=True)
class ELBO(Objective):
    """Evidence lower bound with the sticking-the-landing gradient, for all guides."""

    name: ClassVar[str] = "elbo"
    formula: ClassVar[str] = "(1/k) sum_j w_ij, gradient without the score term"
    per_unit: ClassVar[bool] = False


OBJECTIVE = ELBO()
