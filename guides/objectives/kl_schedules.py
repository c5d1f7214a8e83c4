"""Schedules of the weight of the KL term: how it rises, and the promise that it ends at 1.

A schedule that has not ended when training ends leaves a beta-VAE that nobody asked for; `check_schedule` refuses it
before the first step, and the last weight is asserted after the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import UsageError

if TYPE_CHECKING:
    from guides.types import FitConfig

__all__ = ["SCHEDULED", "check_schedule", "free_nats", "kl_weight"]

SCHEDULED = ("elbo_linear", "elbo_cyclical", "elbo_free_bits")
CYCLES = 4
RISE = 0.5  # share of a cycle in which the weight rises (Fu et al. 2019)


def kl_weight(objective: str, step: int, config: FitConfig) -> float:
    """Return the weight of the KL at a step counted from 1.

    `elbo_linear` rises to 1 over `warmup` steps; `elbo_cyclical` does so four times, each time staying at 1 for half of a
    cycle; `beta` has the weight `beta` throughout; every other objective has 1.
    """
    if objective == "beta":
        return config.beta
    if objective not in ("elbo_linear", "elbo_cyclical") or step >= config.warmup:
        return 1.0
    if objective == "elbo_linear":
        return step / config.warmup
    place = (step * CYCLES / config.warmup) % 1.0
    return min(1.0, place / RISE)


def free_nats(objective: str, step: int, config: FitConfig) -> float:
    """Return the nats per unit that `elbo_free_bits` leaves free: `free_bits` falling to 0 over `warmup` steps."""
    if objective != "elbo_free_bits" or step >= config.warmup:
        return 0.0
    return config.free_bits * (1.0 - step / config.warmup)


def check_schedule(config: FitConfig, annealing: int) -> None:
    """Refuse a schedule that could not end before the annealing of the learning rate begins.

    Raises:
        UsageError: no warm-up, or one that is longer than the search.
    """
    if config.objective not in SCHEDULED:
        return
    search = config.steps - annealing
    if not 1 <= config.warmup <= search:
        raise UsageError(
            f"The objective {config.objective} got warmup={config.warmup}; accepted: 1 to {search} of the {config.steps} steps, so that "
            "the weight of the KL is 1 before the learning rate falls."
        )
