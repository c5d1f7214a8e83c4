"""The second engine: Pyro's NUTS on the same flat log density, with per-draw statistics.

`RecordingNUTS` overrides one private method, the leaf of the tree, and only reads what passes
through it. Its draws are bit for bit those of Pyro's kernel (a test compares them).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from benchmarks.mcmc.engine_nutpie import Chain, Density, starting_point

__all__ = ["RecordingNUTS", "potential", "pyro_chain"]


class _Potential(torch.autograd.Function):
    """Minus the log density, with its gradient from the same evaluation."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, density: Density) -> Tensor:
        """Return -log p(u) in nats."""
        with torch.enable_grad():  # off in forward; the density needs autograd
            value, gradient = density(u.detach().numpy())
        ctx.gradient = torch.from_numpy(-gradient)
        return u.new_tensor(-value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the potential."""
        return grads[0] * ctx.gradient, None


def potential(density: Density) -> Any:
    """Return Pyro's `potential_fn` of the density: `{"u": [dim]}` to minus log density in nats."""

    def potential_fn(params: dict[str, Tensor]) -> Tensor:
        value: Tensor = _Potential.apply(params["u"], density)
        density.raise_failure()
        return value

    return potential_fn


class RecordingNUTS(NUTS):
    """Pyro's NUTS, recording leaves, acceptance, energy and divergence of each tree."""

    def clear(self) -> None:
        """Reset the records of the last tree."""
        self.leaves, self.accepted, self.diverged, self.energy = 0, 0.0, False, math.nan

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw once, after resetting the records."""
        self.clear()
        drawn: dict[str, Tensor] = super().sample(params)
        return drawn

    def _build_basetree(
        self, z: Any, r: Any, z_grads: Any, log_slice: Any, direction: int, energy_current: Tensor
    ) -> Any:
        leaf = super()._build_basetree(z, r, z_grads, log_slice, direction, energy_current)
        self.leaves += 1
        self.energy = float(energy_current)
        self.accepted += float(leaf.sum_accept_probs)
        self.diverged = self.diverged or bool(leaf.diverging)
        return leaf

    def record(self) -> dict[str, float]:
        """Return the statistics of the last draw under this project's names."""
        _, energy, _ = self._fetch_from_cache()
        return {
            "diverging": float(self.diverged),
            "energy": self.energy,
            "lp": -float(energy),
            "n_steps": float(self.leaves),
            "tree_depth": float(math.floor(math.log2(self.leaves)) + 1) if self.leaves else 0.0,
            "acceptance_rate": self.accepted / self.leaves if self.leaves else math.nan,
            "step_size": float(self.step_size),
        }


def pyro_chain(
    density: Density,
    seed: int,
    tune: int,
    draws: int,
    target_accept: float,
    start: np.ndarray[Any, Any] | None = None,
) -> Chain:
    """Run one chain of Pyro's NUTS with its default diagonal mass matrix; `start` as nutpie's."""
    start = starting_point(density, seed) if start is None else start
    kernel = RecordingNUTS(potential_fn=potential(density), target_accept_prob=target_accept)
    rows: list[dict[str, float]] = []

    def record(kernel: RecordingNUTS, params: dict[str, Tensor], stage: str, index: int) -> None:
        if stage == "Sample":
            rows.append(kernel.record())

    torch.manual_seed(seed)
    mcmc = MCMC(
        kernel,
        num_samples=draws,
        warmup_steps=tune,
        initial_params={"u": torch.from_numpy(start)},
        hook_fn=record,
        disable_progbar=True,
        disable_validation=True,
    )
    mcmc.run()
    u = mcmc.get_samples()["u"].numpy().astype(np.float64)
    stats = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Chain(unconstrained=u, stats=stats, gradients=density.calls)
