"""Objectives of programs with only per-unit latents: sums of bounds on log p(x_i).

With log weights w_ij = log p(x_i, u_ij) - log q(u_ij | x_i) of draw j = 1..k of unit i, and r_ij
the log prior with its Jacobian, in nats:

    elbo_nats        sum_i (1/k) sum_j w_ij
    iwae_bound_nats  sum_i log (1/k) sum_j exp w_ij      <= log p(x), increasing in k (Burda et al.
                                                         2016)
    beta_elbo_nats   sum_i (1/k) sum_j [log p(x_i | u_ij) - b (log q(u_ij) - r_ij)]

All are maximized; losses are minus them. Minibatches scale the sum by size / batch. An
importance-weighted bound of the joint vector would be a different, far looser one: with local
latents the logarithm belongs inside the sum over units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guides.base.local import LocalGuide
from guides.objectives.flat import FlatObjective, Minibatches
from guides.objectives.records import Terms, objective_of
from guides.types import FitConfig
from zoo.density.log_density import LogDensity
from zoo.density.unit_terms import is_local, many_unit_terms
from zoo.errors import FitError

__all__ = ["LocalObjective", "unit_log_weights"]

SNAPSHOT = 256  # units whose reconstruction and KL are recorded during training


def unit_log_weights(
    density: LogDensity,
    guide: LocalGuide,
    draws: int,
    generator: torch.Generator,
    *,
    chunk: int = 64,
) -> Tensor:
    """Return log p(x_i, u_ij) - log q(u_ij) of independent draws, `[draw, unit]`, in nats."""
    parts = []
    with torch.no_grad():
        for begin in range(0, draws, chunk):
            noise = torch.randn(
                min(chunk, draws - begin),
                guide.noise_dim,
                dtype=density.dtype,
                generator=generator,
            )
            u, log_q = guide.sample_units(noise)
            terms = many_unit_terms(density, u)
            parts.append(terms.likelihood + terms.prior - log_q)
    return torch.cat(parts)


class LocalObjective(FlatObjective):
    """Minus one of the bounds above, for guides that know the log q of each unit.

    Args:
        density: the log density of the program.
        guide: the guide in the optimized coordinates.
        weights: the program's own trainable weights.
        config: `objective`, `num_particles` and `batch_size` are used.

    Raises:
        FitError: the program has global or discrete sites, or the guide has no log q per unit.
    """

    def __init__(
        self,
        density: LogDensity,
        guide: Any,
        weights: Mapping[str, nn.Parameter],
        config: FitConfig,
    ) -> None:
        self.goal, self.step = objective_of(config.objective), 0
        if not is_local(density):
            raise FitError(
                f"The objective {config.objective} needs every latent site in the minibatch plate;"
                " use elbo."
            )
        if not isinstance(guide, LocalGuide):
            raise FitError(
                f"The objective {config.objective} needs a guide with units, such as amortized or"
                " block_full_rank; use elbo."
            )
        super().__init__(
            density,
            guide,
            weights,
            num_particles=config.num_particles,
            batch_size=config.batch_size,
            stl=self.goal.stl,
        )

    @property
    def normal(self) -> None:
        """None: the noise of a step also holds the weight of the KL."""
        return None

    @property
    def warmup(self) -> int:
        """Steps before which the search must not end."""
        return self.goal.settles_after

    @property
    def final_weight(self) -> float:
        """Weight of the KL in the last step taken."""
        return self.goal.kl_weight(self.step)

    def noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the noise of one step, unit indices, and `[KL weight, free nats]`."""
        self.step += 1
        return self._noise(generator, self.batches)

    def _noise(self, generator: torch.Generator, batches: Minibatches) -> tuple[Tensor, ...]:
        rows = (
            self.num_particles // 2
            if self.goal.mirrored and self.num_particles % 2 == 0
            else self.num_particles
        )
        half = torch.randn(rows, self.noise_width, dtype=self.density.dtype, generator=generator)
        step = max(1, self.step)
        knobs = torch.tensor(
            [self.goal.kl_weight(step), self.goal.free_nats(step)], dtype=half.dtype
        )
        index = batches.draw(generator)
        return (half, knobs) if index is None else (half, knobs, index)

    def mirrored(self, noise: Tensor) -> Tensor:
        """Return noise for every particle, in antithetic pairs unless importance-weighted."""
        return super().mirrored(noise) if self.goal.mirrored else noise

    def _estimate(self, noise: Tensor, knobs: Tensor, index: Tensor | None = None) -> Tensor:  # type: ignore[override]
        guide = self.guide
        assert isinstance(guide, LocalGuide)
        u, log_q = guide.sample_units(self.mirrored(noise), index=index, stl=self.stl)
        doubly = _Scaled() if self.goal.doubly and u.requires_grad else None
        tensors = None if index is None else self.batches.tensors(index)
        if doubly is not None:
            values = u[
                :, guide.places if index is None else guide.places[index]
            ]  # [draw, unit, local]
            values.register_hook(doubly)
            u = u.detach().index_copy(
                1,
                (guide.places if index is None else guide.places[index]).reshape(-1),
                values.flatten(1),
            )
            out = guide.numbers(index)
            log_q = (
                guide.head.log_prob_stl(out, (values - guide.center) / guide.spread)
                - guide.spread.log().sum()
            )
        terms = many_unit_terms(self.density, u, tensors)
        drawn = Terms(
            likelihood=terms.likelihood,
            prior=terms.prior,
            log_q=log_q,
            weight=knobs[0],
            free=knobs[1],
            size=guide.size,
        )
        if doubly is not None:
            doubly.share = drawn.log_weights.detach().softmax(0)[..., None]
        return -self.goal.value(drawn)

    def locate_nonfinite(self, noise: tuple[Tensor, ...]) -> str:
        """Repeat the draw and name the site whose log density is not finite there."""
        return super().locate_nonfinite((noise[0], *noise[2:]))

    def snapshot(self) -> dict[str, float]:
        """Return reconstruction and KL per unit in nats, over the first units at fixed noise."""
        generator = torch.Generator().manual_seed(7)
        index = (
            torch.arange(min(SNAPSHOT, self.batches.size))
            if self.batches.batch_size is not None
            else None
        )
        with torch.no_grad():
            noise = torch.randn(
                2, self.guide.noise_dim, dtype=self.density.dtype, generator=generator
            )
            assert isinstance(self.guide, LocalGuide)
            u, log_q = self.guide.sample_units(torch.cat([noise, -noise]), index=index)
            terms = many_unit_terms(
                self.density, u, None if index is None else self.batches.tensors(index)
            )
        return {
            "reconstruction_nats": float(-terms.likelihood.mean()),
            "kl_nats": float((log_q - terms.prior).mean()),
        }


class _Scaled:
    """Multiplies gradients of draws by their normalized weights (DReG, Tucker et al. 2019)."""

    share: Tensor

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.share
