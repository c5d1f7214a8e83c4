"""The record of an objective, and schedules of its KL term.

With log weights w_ij = log p(x_i, u_ij) - log q(u_ij | x_i) of draw j = 1..k of unit i, and r_ij
the log prior with its Jacobian, every objective is a sum over units, in nats, and is maximized;
losses are minus it. `value` computes it.

A record is identified by its `spec`, such as `beta[beta=4.0]`, which is what configurations and
files hold.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from guides.objectives.bounds import beta_elbo_nats
from zoo.errors import UsageError
from zoo.fields import COUNT, checked

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DEFINED", "Objective", "Scheduled", "Terms"]

DEFINED: dict[str, type[Objective]] = {}  # by name, every objective of this process


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an objective per unit is computed from.

    Attributes:
        likelihood: log p(x_i | u_ij), `[draw, unit]`, in nats.
        prior: log prior of u_ij with its Jacobian, `[draw, unit]`, in nats.
        log_q: log q(u_ij | x_i), `[draw, unit]`, in nats.
        weight: weight of the KL at this step, a scalar.
        free: free nats of KL per unit at this step, a scalar.
        size: number of units of all data.
    """

    likelihood: Tensor
    prior: Tensor
    log_q: Tensor
    weight: Tensor
    free: Tensor
    size: int

    @property
    def log_weights(self) -> Tensor:
        """Log weights w_ij, `[draw, unit]`, in nats."""
        return self.likelihood + self.prior - self.log_q

    @property
    def scale(self) -> float:
        """Size / batch."""
        return self.size / self.log_q.shape[1]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One objective; its fields are its parameters.

    Attributes:
        name: the public name.
        formula: the term of one unit, in plain notation.
        bounds: what it is a lower bound on.
        per_unit: whether every latent value must belong to a unit, with a guide that has the log q
            of each unit.
        stl: whether the score term is omitted from the gradient (sticking the landing, Roeder et
            al. 2017).
        doubly: whether the gradient of the guide is doubly reparameterized (Tucker et al. 2019).
        mirrored: whether noise comes in antithetic pairs; not for bounds that are defined for
            independent draws.
        ends_as_elbo: whether the last steps maximize the ELBO, so that losses are minus it.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    bounds: ClassVar[str] = "log p(x)"
    per_unit: ClassVar[bool] = True
    stl: ClassVar[bool] = True
    doubly: ClassVar[bool] = False
    mirrored: ClassVar[bool] = True
    ends_as_elbo: ClassVar[bool] = True

    def __init_subclass__(cls, **given: Any) -> None:
        """Remember an objective by its name, so that a spec finds one defined anywhere.

        Raises:
            UsageError: another class has this name.
        """
        super().__init_subclass__(**given)
        if "name" not in cls.__dict__:
            return
        place = f"{cls.__module__}.{cls.__qualname__}"
        taken = DEFINED.get(cls.name)
        if taken is not None and f"{taken.__module__}.{taken.__qualname__}" != place:
            raise UsageError(
                f"The objective name {cls.name!r} of {place} is taken by"
                f" {taken.__module__}.{taken.__qualname__}; give it another name."
            )
        DEFINED[cls.name] = cls

    @property
    def spec(self) -> str:
        """The name with the parameters that differ from their defaults."""
        own = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        changed = ",".join(f"{name}={value!r}" for name, value, default in own if value != default)
        return f"{self.name}[{changed}]" if changed else self.name

    def value(self, terms: Terms) -> Tensor:
        """Return the objective in nats over all units, estimated from one batch of them.

        By default the sum over units of the mean over draws of log likelihood - weight (log q -
        log prior), times size / batch. Only objectives per unit are asked; the others are the
        ELBO of the joint vector and differ in its gradient.
        """
        kl = terms.log_q - terms.prior
        return terms.scale * beta_elbo_nats(terms.likelihood, kl, terms.weight).sum()

    def kl_weight(self, step: int) -> float:
        """Return the weight of log q - log prior at a step counted from 1."""
        return 1.0

    def free_nats(self, step: int) -> float:
        """Return the nats of KL per unit that are free at a step."""
        return 0.0

    @property
    def settles_after(self) -> int:
        """Steps after which the objective is final, before which the search must not end."""
        return 0

    def check(self, steps: int, annealing: int) -> None:
        """Reject a budget in which the objective is not final before the learning rate falls."""


@dataclass(frozen=True, kw_only=True)
class Scheduled(Objective):
    """An ELBO whose KL term is reduced over the first `warmup` steps, and complete afterwards.

    A schedule that has not ended when training ends leaves an unintended beta-VAE: `check` rejects
    it.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        """Reject a negative number of steps."""
        checked(self, warmup=COUNT)
        if self.warmup < 0:
            raise UsageError(
                f"The objective {self.name} got warmup={self.warmup}; accepted: a whole number"
                " of steps, 1 or more."
            )

    @property
    def settles_after(self) -> int:
        """The length of the warm-up."""
        return self.warmup

    def check(self, steps: int, annealing: int) -> None:
        """Reject a missing warm-up, or one longer than the search.

        Raises:
            UsageError: the warm-up is outside 1 to steps - annealing.
        """
        search = steps - annealing
        if not 1 <= self.warmup <= search:
            raise UsageError(
                f"The objective {self.name} got warmup={self.warmup}; accepted: 1 to {search} of"
                f" the {steps} steps, so that the weight of the KL is 1 before the learning rate"
                " falls."
            )
