"""Amortized: one encoder gives every unit's local approximation from what it sees of that unit's data.

    q(u) = Normal(u_global; m, L L^T) prod_i prod_k Normal(u_ik; m_k(x_i), s_k(x_i)^2),     (m, log s) = MLP(x_i)

over the unconstrained values; x_i is row i of `entry.amortize(tensors)`, standardized. It cannot represent dependence
between local and global values or among the locals of a unit, and the encoder may not reach every unit's own optimum
(the amortization gap). Works on minibatches: only the units of a step are encoded, their terms scaled by size / batch.
`amortized_full` and `amortized_flow` are the same with another head (`guides.base.heads`).
Source: Agrawal & Domke 2021, "Amortized variational inference for simple hierarchical models".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guides.base.flat import FlatGuide, Start, standard_normal_log_prob
from guides.base.heads import Head, make_head
from guides.base.initialize import find_start, plain_start
from guides.families.full_rank import triangular
from zoo.density.log_density import LogDensity, Site
from zoo.errors import FitError, UsageError
from zoo.types import Data, ModelEntry, Program

NAME = "amortized"
DESCRIPTION = "an encoder network per unit, full-rank normal over global sites; no local-global dependence"
OPTIONS = ("hidden", "globals")
DEFAULTS = {"steps": 8000, "lr": 0.02, "num_particles": 32}

AMORTIZED = True  # one guide for all units, also for those it has not seen
LARGEST_SEARCH = 500  # dimensions up to which a start is searched for

__all__ = ["AMORTIZED", "DESCRIPTION", "NAME", "AmortizedGuide", "build", "flat", "start"]


def build(
    program: Program, data: Data, entry: ModelEntry, *, density: LogDensity | None = None, hidden: int = 32, globals: str = "full_rank",
    encoder: nn.Module | None = None, head: str = "diagonal",
) -> nn.Module:  # fmt: skip
    """Build the guide; its encoder is a two-layer network of `hidden` units unless one is given.

    Args:
        program: the Pyro program.
        data: what it is conditioned on.
        entry: its card; `entry.amortize(tensors)` returns `[unit, feature]`.
        density: the program's log density if already made.
        hidden: width of the two hidden layers.
        globals: `full_rank` or `mean_field` over the global sites.
        encoder: a network `[unit, feature] -> [unit, numbers of the head]` used in place of the built one.
        head: `diagonal`, `full` or `flow`, see `guides.base.heads`.

    Raises:
        FitError: the entry has no `amortize` hook, or the program has no local site.
        UsageError: an unknown choice for `globals`.
    """
    if entry.amortize is None:
        raise FitError(f"Entry {entry.name!r} has no amortize hook; an encoder needs amortize=lambda tensors: ... [unit, feature].")
    if globals not in ("full_rank", "mean_field"):
        raise UsageError(f"globals is {globals!r}; accepted: full_rank, mean_field.")
    density = density or LogDensity(program, data, dtype=entry.dtype)
    features = features_of(entry, data.train)
    return AmortizedGuide(density, features, hidden=hidden, full=globals == "full_rank", encoder=encoder, head=head)


def start(density: LogDensity, generator: torch.Generator, *, radius: float = 0.1) -> Start:
    """Return where to begin: the usual search, except in many dimensions, where the encoder begins at standard normals."""
    return find_start(density, generator, radius=radius) if density.dim <= LARGEST_SEARCH else plain_start(density)


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Begin at the start: global moments as they are, local outputs centered and scaled over the units."""
    assert isinstance(guide, LocalGuide)
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


class LocalGuide(FlatGuide):
    """A guide whose units are independent given the global values; subclasses say where the numbers of a unit come from."""

    places: Tensor
    rest: Tensor
    origin: Tensor
    tril: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, density: LogDensity, *, full: bool, head: str) -> None:
        super().__init__()
        local = [s for s in density.sites if s.plate_axis is not None]
        if not local:
            raise FitError("The program has no local site in a minibatch plate; give Data(batched=..., size=...) and a plate of that size.")
        places = torch.cat([places_of(s) for s in local], -1)  # [unit, local]
        everywhere = torch.ones(density.dim, dtype=torch.bool)
        everywhere[places.reshape(-1)] = False
        self.dim = self.noise_dim = density.dim
        self.size, self.width, self.full = int(density.data.size or 0), places.shape[1], full
        self.register_buffer("places", places)
        self.register_buffer("rest", everywhere.nonzero().squeeze(-1))
        number = len(self.rest)
        flat, unit = torch.zeros(number, dtype=density.dtype), torch.zeros(self.width, dtype=density.dtype)
        self.register_buffer("origin", flat.clone())
        self.register_buffer("tril", torch.diag(flat + 1))
        self.register_buffer("center", unit.clone())
        self.register_buffer("spread", unit + 1)
        self.shift = nn.Parameter(flat.clone(), requires_grad=number > 0)
        self.log_scale = nn.Parameter(flat.clone(), requires_grad=number > 0)
        self.lower = nn.Parameter(torch.diag(flat), requires_grad=full and number > 1)
        self.head: Head = make_head(head, self.width, density.dtype)

    @abstractmethod
    def numbers(self, units: Tensor | None) -> Tensor:
        """Return the head's numbers `[unit, numbers]` of these units, of all where None."""

    def begin(self, start: Start) -> None:
        """Put the global part at the start's moments and scale the head's coordinates to the local ones."""
        local = start.loc[self.places]  # [unit, local]
        with torch.no_grad():
            self.origin.copy_(start.loc[self.rest])
            if len(self.rest):
                covariance = start.covariance(self.rest)
                self.tril.copy_(torch.linalg.cholesky(covariance) if self.full else torch.diag(start.scale[self.rest]))
            self.center.copy_(local.mean(0))
            self.spread.copy_(local.std(0, correction=0).clamp(min=float(start.scale.min())))
            self.begin_local(start.scale[self.places], local)

    def begin_local(self, scale: Tensor, loc: Tensor) -> None:
        """Begin every unit at the start's scales and locations `[unit, local]`, as far as the guide can."""

    def _globals(self, white: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(factor, (white - shift).T, upper=False).T
        return standard_normal_log_prob(z) - factor.diagonal().log().sum() - self.tril.diagonal().log().sum()

    def noise_for(self, units: int) -> int:
        """Return how many numbers a draw takes for the global values and so many units: a minibatch must not cost what all units do."""
        return len(self.rest) + units * self.width

    def sample_units(self, noise: Tensor, *, index: Tensor | None = None, stick: bool = False) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]`, or `[n, noise_for(units)]` with `index`, to points and the log q of each unit `[n, unit]`.

        The log q of the global sites is not in it.
        """
        units = torch.arange(self.size) if index is None else index
        out = self.numbers(index)
        rows = noise[:, len(self.rest) :].reshape(len(noise), -1, self.width)
        w = self.head.draw(out, rows if rows.shape[1] == len(units) else rows[:, units])  # [n, unit, local]
        u = noise.new_zeros(len(noise), self.dim)
        u = u.index_copy(1, self.places[units].reshape(-1), (self.center + self.spread * w).reshape(len(noise), -1))
        log_q = self.head.stuck(out, w) if stick else self.head.log_prob(out, w)
        return u, log_q - self.spread.log().sum()

    def sample(self, noise: Tensor, *, index: Tensor | None = None, stick: bool = False) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]` to points and their log q; without the units outside `index`, whose values stay 0."""
        u, log_q = self.sample_units(noise, index=index, stick=stick)
        total = (self.size / log_q.shape[1]) * log_q.sum(-1)
        if not len(self.rest):
            return u, total
        factor, shift = triangular(self.lower, self.log_scale), self.shift
        white = shift + noise[:, : len(self.rest)] @ factor.T
        u = u.index_copy(1, self.rest, self.origin + white @ self.tril.T)
        return u, self._globals(white, shift.detach() if stick else shift, factor.detach() if stick else factor) + total

    def log_prob_units(self, u: Tensor) -> Tensor:
        """Return log q of each unit `[n, unit]` at points `[n, dim]`."""
        return self.head.log_prob(self.numbers(None), (u[:, self.places] - self.center) / self.spread) - self.spread.log().sum()

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        total = self.log_prob_units(u).sum(-1)
        if not len(self.rest):
            return total
        white = torch.linalg.solve_triangular(self.tril, (u[:, self.rest] - self.origin).T, upper=False).T
        return self._globals(white, self.shift, triangular(self.lower, self.log_scale)) + total

    def watched(self) -> Tensor | None:
        """Return the whitened global parameters, None where there are none."""
        return torch.cat([self.shift.detach(), self.log_scale.detach()]) if len(self.rest) else None


class AmortizedGuide(LocalGuide):
    """The guide above over the flat vector of a log density."""

    features: Tensor
    feature_mean: Tensor
    feature_sd: Tensor
    base: Tensor

    def __init__(self, density: LogDensity, features: Tensor, *, hidden: int, full: bool, encoder: nn.Module | None, head: str) -> None:
        super().__init__(density, full=full, head=head)
        if len(features) != self.size:
            raise FitError(f"The amortize hook returned {len(features)} rows for {self.size} units; one row per unit is needed.")
        mean, sd = features.mean(0), features.std(0)
        sd = torch.where(sd > 1e-12, sd, torch.ones_like(sd))  # a feature without variation here may vary in units seen later
        self.register_buffer("features", (features - mean) / sd)
        self.register_buffer("feature_mean", mean)
        self.register_buffer("feature_sd", sd)
        self.register_buffer("base", features.new_zeros(self.head.numbers))
        self.encoder: nn.Module = encoder if encoder is not None else _network(features.shape[1], hidden, self.head.numbers, density.dtype)

    def begin_local(self, scale: Tensor, loc: Tensor) -> None:
        """Let the log scales begin at the mean over the units."""
        self.base[self.width : 2 * self.width].copy_((scale / self.spread).log().mean(0))

    def numbers(self, units: Tensor | None) -> Tensor:
        """Encode these units."""
        out: Tensor = self.encoder(self.features if units is None else self.features[units])
        return self.base + out

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale `[unit, local]` of the unconstrained local values for rows of features, before a flow."""
        out = self.base + self.encoder((features - self.feature_mean) / self.feature_sd)
        return self.center + self.spread * out[:, : self.width], self.spread * out[:, self.width : 2 * self.width].exp()

    def transferred(self, density: LogDensity, features: Tensor) -> AmortizedGuide:
        """Return the guide for other units of the same program, `[unit, feature]`: the encoder is the same.

        Raises:
            FitError: the program has global sites, whose approximation belongs to the units it was fitted to.
        """
        if len(self.rest):
            raise FitError("A guide with global sites belongs to the units it was fitted to; fit the other units.")
        other = AmortizedGuide(density, features, hidden=1, full=self.full, encoder=self.encoder, head="diagonal")
        other.head = self.head
        other.features = (features - self.feature_mean) / self.feature_sd
        for name in ("feature_mean", "feature_sd", "base", "center", "spread"):
            other.register_buffer(name, getattr(self, name).clone())
        return other


def places_of(site: Site) -> Tensor:
    """Return where each unit's values of a local site lie in the flat vector, `[unit, value]`."""
    assert site.plate_axis is not None
    events = len(site.unconstrained_shape) - (len(site.shape) - site.event_dim)
    axis = len(site.unconstrained_shape) - (site.plate_axis - site.event_dim + events)
    places = torch.arange(site.start, site.stop).reshape(site.unconstrained_shape).movedim(axis, 0)
    return places.reshape(len(places), -1)


def _network(inputs: int, hidden: int, outputs: int, dtype: torch.dtype) -> nn.Module:
    """Two hidden layers; the last one starts near zero, so that every unit begins at the common local moments."""
    last = nn.Linear(hidden, outputs, dtype=dtype)
    network = nn.Sequential(
        nn.Linear(inputs, hidden, dtype=dtype), nn.Tanh(), nn.Linear(hidden, hidden, dtype=dtype), nn.Tanh(),
        last,
    )  # fmt: skip
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return network
