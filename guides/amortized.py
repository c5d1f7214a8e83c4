"""Amortized: one encoder gives every unit's local approximation from what it sees of that unit's data.

    q(u) = Normal(u_global; m, L L^T) prod_i prod_k Normal(u_ik; m_k(x_i), s_k(x_i)^2),     (m, log s) = MLP(x_i)

over the unconstrained values; x_i is row i of `entry.amortize(tensors)`, standardized. It cannot represent dependence
between local and global values or among the locals of a unit, and the encoder may not reach every unit's own optimum
(the amortization gap). Works on minibatches: only the units of a step are encoded, their terms scaled by size / batch.
Source: Agrawal & Domke 2021, "Amortized variational inference for simple hierarchical models".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guides.flat import FlatGuide, Start, standard_normal_log_prob
from guides.full_rank import triangular
from zoo.errors import FitError, UsageError
from zoo.log_density import LogDensity, Site
from zoo.types import Data, ModelEntry, Program

NAME = "amortized"
DESCRIPTION = "an encoder network per unit, full-rank normal over global sites; no local-global dependence"
OPTIONS = ("hidden", "globals")
DEFAULTS = {"steps": 8000, "lr": 0.02, "num_particles": 32}

__all__ = ["DESCRIPTION", "NAME", "AmortizedGuide", "build", "flat"]


def build(
    program: Program, data: Data, entry: ModelEntry, *, density: LogDensity | None = None, hidden: int = 32, globals: str = "full_rank",
    encoder: nn.Module | None = None,
) -> nn.Module:  # fmt: skip
    """Build the guide; its encoder is a two-layer network of `hidden` units unless one is given.

    Args:
        program: the Pyro program.
        data: what it is conditioned on.
        entry: its card; `entry.amortize(tensors)` returns `[unit, feature]`.
        density: the program's log density if already made.
        hidden: width of the two hidden layers.
        globals: `full_rank` or `mean_field` over the global sites.
        encoder: a network `[unit, feature] -> [unit, 2 * local]` used in place of the built one.

    Raises:
        FitError: the entry has no `amortize` hook, or the program has no local site.
        UsageError: an unknown choice for `globals`.
    """
    if entry.amortize is None:
        raise FitError(f"Entry {entry.name!r} has no amortize hook; an encoder needs amortize=lambda tensors: ... [unit, feature].")
    if globals not in ("full_rank", "mean_field"):
        raise UsageError(f"globals is {globals!r}; accepted: full_rank, mean_field.")
    density = density or LogDensity(program, data, dtype=entry.dtype)
    return AmortizedGuide(density, features_of(entry, data.train), hidden=hidden, full=globals == "full_rank", encoder=encoder)


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Begin at the start: global moments as they are, local outputs centered and scaled over the units."""
    assert isinstance(guide, AmortizedGuide)
    guide.begin(start)
    return guide


def features_of(entry: ModelEntry, tensors: Mapping[str, Any]) -> Tensor:
    """Return the encoder's view of every unit `[unit, feature]`.

    Raises:
        FitError: the hook returns another shape or values that are not finite.
    """
    assert entry.amortize is not None
    features = torch.as_tensor(entry.amortize(tensors), dtype=entry.dtype)
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise FitError(
            f"The amortize hook of {entry.name!r} returned shape {tuple(features.shape)}; a finite matrix [unit, feature] is needed."
        )
    return features


class AmortizedGuide(FlatGuide):
    """The guide above over the flat vector of a log density."""

    places: Tensor
    rest: Tensor
    features: Tensor
    feature_mean: Tensor
    feature_sd: Tensor
    origin: Tensor
    tril: Tensor
    center: Tensor
    spread: Tensor
    base: Tensor

    def __init__(self, density: LogDensity, features: Tensor, *, hidden: int, full: bool, encoder: nn.Module | None) -> None:
        super().__init__()
        local = [s for s in density.sites if s.plate_axis is not None]
        if not local:
            raise FitError("The program has no local site in a minibatch plate; give Data(batched=..., size=...) and a plate of that size.")
        size = int(density.data.size or 0)
        if len(features) != size:
            raise FitError(f"The amortize hook returned {len(features)} rows for {size} units; one row per unit is needed.")
        places = torch.cat([_places(s) for s in local], -1)  # [unit, local]
        everywhere = torch.ones(density.dim, dtype=torch.bool)
        everywhere[places.reshape(-1)] = False
        self.dim = self.noise_dim = density.dim
        self.size, self.width, self.full = size, places.shape[1], full
        self.register_buffer("places", places)
        self.register_buffer("rest", everywhere.nonzero().squeeze(-1))
        self.register_buffer("features", (features - features.mean(0)) / features.std(0).clamp(min=1e-12))
        self.register_buffer("feature_mean", features.mean(0))
        self.register_buffer("feature_sd", features.std(0).clamp(min=1e-12))
        number = len(self.rest)
        flat, unit = features.new_zeros(number), features.new_zeros(self.width)
        self.register_buffer("origin", flat.clone())
        self.register_buffer("tril", torch.diag(flat + 1))
        self.register_buffer("center", unit.clone())
        self.register_buffer("spread", unit + 1)
        self.register_buffer("base", unit.clone())
        self.shift = nn.Parameter(flat.clone())
        self.log_scale = nn.Parameter(flat.clone())
        self.lower = nn.Parameter(torch.diag(flat), requires_grad=full and number > 1)
        self.encoder: nn.Module = encoder if encoder is not None else _network(features.shape[1], hidden, self.width, density.dtype)

    def begin(self, start: Start) -> None:
        """Put the global part at the start's moments and scale the encoder's outputs to the local ones."""
        covariance = start.tril @ start.tril.T
        local = start.loc[self.places]  # [unit, local]
        with torch.no_grad():
            self.origin.copy_(start.loc[self.rest])
            block = covariance[self.rest][:, self.rest]
            self.tril.copy_(torch.linalg.cholesky(block) if self.full else torch.diag(start.scale[self.rest]))
            self.center.copy_(local.mean(0))
            self.spread.copy_(local.std(0).clamp(min=float(start.scale.min())))
            self.base.copy_(start.scale[self.places].log().mean(0))

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale `[unit, local]` of the unconstrained local values for rows of features."""
        return self._encode((features - self.feature_mean) / self.feature_sd)

    def _encode(self, standardized: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(standardized)
        return self.center + self.spread * out[:, : self.width], (self.base + out[:, self.width :]).exp()

    def _globals(self, white: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(factor, (white - shift).T, upper=False).T
        return standard_normal_log_prob(z) - factor.diagonal().log().sum() - self.tril.diagonal().log().sum()

    def sample(self, noise: Tensor, *, index: Tensor | None = None, stick: bool = False) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]` to points and their log q; without the units outside `index`, whose values stay 0."""
        n, number = len(noise), len(self.rest)
        factor = triangular(self.lower, self.log_scale)
        white = self.shift + noise[:, :number] @ factor.T
        units = torch.arange(self.size) if index is None else index
        loc, scale = self._encode(self.features[units])
        local = loc + scale * noise[:, number:].reshape(n, self.size, self.width)[:, units]  # [n, unit, local]
        u = noise.new_zeros(n, self.dim)
        u = u.index_copy(1, self.rest, self.origin + white @ self.tril.T)
        u = u.index_copy(1, self.places[units].reshape(-1), local.reshape(n, -1))
        shift: Tensor = self.shift
        if stick:
            shift, factor, loc, scale = shift.detach(), factor.detach(), loc.detach(), scale.detach()
        return u, self._globals(white, shift, factor) + (self.size / len(units)) * _local_log_q(local, loc, scale)

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        white = torch.linalg.solve_triangular(self.tril, (u[:, self.rest] - self.origin).T, upper=False).T
        loc, scale = self._encode(self.features)
        return self._globals(white, self.shift, triangular(self.lower, self.log_scale)) + _local_log_q(u[:, self.places], loc, scale)

    def watched(self) -> Tensor:
        """Return the whitened global parameters."""
        return torch.cat([self.shift.detach(), self.log_scale.detach()])


def _local_log_q(local: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return standard_normal_log_prob(((local - loc) / scale).flatten(1)) - scale.log().sum()


def _places(site: Site) -> Tensor:
    """Return where each unit's values of a local site lie in the flat vector, `[unit, value]`."""
    assert site.plate_axis is not None
    events = len(site.unconstrained_shape) - (len(site.shape) - site.event_dim)
    axis = len(site.unconstrained_shape) - (site.plate_axis - site.event_dim + events)
    places = torch.arange(site.start, site.stop).reshape(site.unconstrained_shape).movedim(axis, 0)
    return places.reshape(len(places), -1)


def _network(inputs: int, hidden: int, width: int, dtype: torch.dtype) -> nn.Module:
    """Two hidden layers; the last one starts near zero, so that every unit begins at the common local moments."""
    last = nn.Linear(hidden, 2 * width, dtype=dtype)
    network = nn.Sequential(
        nn.Linear(inputs, hidden, dtype=dtype), nn.Tanh(), nn.Linear(hidden, hidden, dtype=dtype), nn.Tanh(),
        last,
    )  # fmt: skip
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return network
