"""The prior itself as a part of the base of tempered SMC.

With a share w of the base q drawn from the prior, the importance weights are bounded,

    p(x) L(x) / q(x) <= max L / w,

L the likelihood: nothing that the prior covers can be missed by more than noise, however narrow it
is (Hesterberg 1995, defensive mixtures). The density is that of the draws exactly: every latent
site's own log density at its value, without weights and masks, which change a joint density but
not what a program draws,

    log pi(u) = sum_sites log p(site | sites before) + log |d site / d u|      [nats].

Where data are few, as with the groups of a hierarchy, this reaches the narrow places that a guide
and chains miss. Where they are many, hardly a draw of the prior has any weight, and the part is of
no use; `direct` shows which it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.mcmc.base_mixture import Mixture
from benchmarks.mcmc.batched_hmc import Path, Streams
from benchmarks.trust.judged import prior_draw, prior_draws
from zoo.compiler.vectorize import Compiled, batched, value_and_gradient
from zoo.density.completion import entries_counted
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.density.sites import default_dtype
from zoo.seeds import derive_seed
from zoo.types import Data

__all__ = ["PRIOR", "Direct", "PriorPart", "direct", "prior_part"]

PRIOR = "prior"
CHECKED = 200  # draws that have to be finite
POINTS = 8192  # of the base, for `direct`
ENOUGH, AGREE = 100, 4.0  # effective points, and errors within which both evidences lie


@dataclass(frozen=True, kw_only=True)
class PriorPart:
    """The prior of a program over its unconstrained vector.

    Attributes:
        share: its share of the points of an island.
        density: of the posterior, whose program is run.
        data: what the program is conditioned on.
        function: the log prior at points `[n, dim]`, in nats.
        name: `prior`.
    """

    share: float
    density: LogDensity
    data: Data
    function: Compiled
    name: str = PRIOR

    def draw(self, streams: Streams, count: int) -> Tensor:
        """Return draws `[island * count, dim]`, one run of the program each."""
        # one number of an island's own stream names its runs
        names = (streams.uniform(1, torch.float64) * 2**52).long().tolist()
        return torch.stack(
            [
                prior_draw(self.density, self.data, derive_seed("prior part", name, i))
                for name in names
                for i in range(count)
            ]
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density `[n]` at points `[n, dim]`, in nats."""
        with torch.no_grad():
            return self.function(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density `[n]` at `[n, dim]`, in nats, and its gradients."""
        return value_and_gradient(self.function, x)


def prior_part(density: LogDensity, data: Data, share: float) -> PriorPart | None:
    """Return the prior as a part of a base; None where its density is not that of its draws.

    That is so with a flat prior, with latent sites that are summed out, on circles or completed,
    with draws that are not finite, and where the program runs at one point at a time.

    Args:
        density: the log density of the posterior.
        data: what the program is conditioned on.
        share: of the points of an island.
    """
    completion = density.completion
    if density.discrete or completion.free or completion.centers or flat_sites(density):
        return None
    if len(prior_draws(density, data, CHECKED)) < CHECKED:
        return None

    def log_prior(u: Tensor) -> Tensor:
        sites, total = {}, u.new_zeros(())
        for s in density.sites:
            raw = s.part(u)
            sites[s.name] = s.transform(raw)
            total = total + s.transform.log_abs_det_jacobian(raw, sites[s.name]).sum()
        with default_dtype(density.dtype):
            nodes = density.trace(sites, data.train).nodes
            for s in density.sites:
                fn, _ = entries_counted(nodes[s.name]["fn"], None)
                total = total + fn.log_prob(sites[s.name]).sum()
        return total

    function = batched(log_prior, dim=density.dim, dtype=density.dtype)
    if not function.vectorized:
        return None
    return PriorPart(share=share, density=density, data=data, function=function)


@dataclass(frozen=True, kw_only=True)
class Direct:
    """The evidence by importance sampling from a base alone.

    Attributes:
        value: log Z-hat in nats.
        ess: effective sample size of the weights.
        se: standard error of log Z-hat.
    """

    value: float
    ess: float
    se: float

    @property
    def enough(self) -> bool:
        """Whether the weights leave a hundred points."""
        return self.ess >= ENOUGH

    def confirms(self, value: float, se: float) -> bool:
        """Whether another estimate of log Z lies within four errors."""
        return self.enough and abs(value - self.value) <= AGREE * math.hypot(se, self.se)


def direct(density: LogDensity, base: Mixture, seed: int, points: int = POINTS) -> Direct:
    """Return the evidence by the weights of fresh points of a base.

    Args:
        density: the log density of the posterior, compiled or not.
        base: a base with the prior as a part, so that weights are bounded.
        seed: of the points.
        points: at least, in whole islands.
    """
    islands = -(-points // base.particles)
    streams = Streams([derive_seed(seed, "prior part", "direct", i) for i in range(islands)])
    state = Path(density, base)(base.draw(streams))
    assert state.log_q is not None
    logs = (state.log_p - state.log_q).double()
    log_sum = float(logs.logsumexp(0))
    ess = math.exp(2 * log_sum - float((2 * logs).logsumexp(0))) if math.isfinite(log_sum) else 0.0
    n = len(logs)
    se = math.sqrt(max(1 / ess - 1 / n, 0.0)) if ess > 0 else math.inf
    return Direct(value=log_sum - math.log(n), ess=ess, se=se)
