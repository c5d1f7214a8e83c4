"""The objectives of fits as records: formula, requirements on the guide, and parameters.

With log weights w_ij = log p(x_i, u_ij) - log q(u_ij | x_i) of draw j = 1..k of unit i, and r_ij
the log prior with its Jacobian, every objective is a sum over units, in nats, and is maximized;
losses are minus it.

A record is identified by its `spec`, such as `beta[beta=4.0]`, which is what configurations and
files hold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zoo.errors import UnknownNameError, UsageError
from zoo.fields import COUNT, NUMBER, checked

__all__ = [
    "ELBO",
    "IWAE",
    "OBJECTIVES",
    "Beta",
    "CyclicalELBO",
    "DReGIWAE",
    "FreeBitsELBO",
    "LinearELBO",
    "Objective",
    "PlainELBO",
    "Scheduled",
    "objective_of",
]

CYCLES = 4
RISE = 0.5  # share of a cycle in which the weight rises (Fu et al. 2019)
_SPEC = re.compile(r"(\w+)(?:\[([^\[\]]*)\])?")


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

    @property
    def spec(self) -> str:
        """The name with the parameters that differ from their defaults."""
        own = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        changed = ",".join(f"{name}={value!r}" for name, value, default in own if value != default)
        return f"{self.name}[{changed}]" if changed else self.name

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
class ELBO(Objective):
    """Evidence lower bound with the sticking-the-landing gradient, for all guides."""

    name: ClassVar[str] = "elbo"
    formula: ClassVar[str] = "(1/k) sum_j w_ij, gradient without the score term"
    per_unit: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class PlainELBO(Objective):
    """Evidence lower bound with the plain reparameterization gradient."""

    name: ClassVar[str] = "elbo_plain"
    formula: ClassVar[str] = "(1/k) sum_j w_ij"
    per_unit: ClassVar[bool] = False
    stl: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class IWAE(Objective):
    """Importance-weighted bound of `num_particles` draws per unit (Burda et al. 2016)."""

    name: ClassVar[str] = "iwae"
    formula: ClassVar[str] = "log (1/k) sum_j exp w_ij"
    stl: ClassVar[bool] = False
    mirrored: ClassVar[bool] = False
    ends_as_elbo: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class DReGIWAE(IWAE):
    """Importance-weighted bound with the doubly reparameterized gradient for the guide."""

    name: ClassVar[str] = "iwae_dreg"
    stl: ClassVar[bool] = True
    doubly: ClassVar[bool] = True


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
                f"The objective {self.name} got warmup={self.warmup}; accepted: a number of steps"
                " from 1."
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


OBJECTIVES: Mapping[str, type[Objective]] = {
    kind.name: kind
    for kind in (ELBO, PlainELBO, IWAE, DReGIWAE, Beta, LinearELBO, CyclicalELBO, FreeBitsELBO)
}


def objective_of(spec: str) -> Objective:
    """Return the objective of a spec such as `elbo` or `elbo_linear[warmup=2000]`.

    Raises:
        UnknownNameError: an unknown objective, or a parameter it does not have, with the nearest
            guess.
        UsageError: a value that is no number, or one that the objective rejects.
    """
    found = _SPEC.fullmatch(spec)
    if found is None or found[1] not in OBJECTIVES:
        raise UnknownNameError("objective", spec, OBJECTIVES)
    kind = OBJECTIVES[found[1]]
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, float] = {}
    for part in filter(None, (found[2] or "").split(",")):
        name, _, text = (x.strip() for x in part.partition("="))
        if name not in fields:
            raise UnknownNameError(f"parameter of the objective {kind.name}", name, fields)
        try:
            values[name] = int(text) if isinstance(fields[name].default, int) else float(text)
        except ValueError:
            raise UsageError(
                f"The objective {kind.name} got {name}={text!r}; accepted: a number."
            ) from None
    return kind(**values)
