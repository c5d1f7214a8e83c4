"""Guides whose units are independent given the global values.

    q(u) = Normal(u_global; m, L L^T) prod_i q_head(u_i; per-datum parameters of unit i)

The normal over the global values is full-rank or diagonal.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from guides.base.flat import FlatGuide, Start, standard_normal_log_prob, triangular
from guides.base.heads import Head, make_head
from zoo.density.log_density import LogDensity
from zoo.errors import FitError

__all__ = ["LocalGuide"]


class LocalGuide(FlatGuide):
    """A guide with units independent given the globals; subclasses give per-datum parameters."""

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
            raise FitError(
                "The program has no local site in a minibatch plate; give Data(batched=...,"
                " size=...) and a plate of that size."
            )
        places = torch.cat([s.unit_indices() for s in local], -1)  # [unit, local]
        everywhere = torch.ones(density.dim, dtype=torch.bool)
        everywhere[places.reshape(-1)] = False
        self.dim = self.noise_dim = density.dim
        self.size, self.width, self.full = int(density.data.size or 0), places.shape[1], full
        self.register_buffer("places", places)
        self.register_buffer("rest", everywhere.nonzero().squeeze(-1))
        number = len(self.rest)
        flat, unit = (
            torch.zeros(number, dtype=density.dtype),
            torch.zeros(self.width, dtype=density.dtype),
        )
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
        """Return the per-datum parameters `[unit, numbers]` of these units (None: of all)."""

    def begin(self, start: Start) -> None:
        """Initialize the global part at the start's moments, and scale the local coordinates."""
        local = start.loc[self.places]  # [unit, local]
        with torch.no_grad():
            self.origin.copy_(start.loc[self.rest])
            if len(self.rest):
                covariance = start.covariance(self.rest)
                self.tril.copy_(
                    torch.linalg.cholesky(covariance)
                    if self.full
                    else torch.diag(start.scale[self.rest])
                )
            self.center.copy_(local.mean(0))
            self.spread.copy_(local.std(0, correction=0).clamp(min=float(start.scale.min())))
            self.begin_local(start.scale[self.places], local)

    def begin_local(self, scale: Tensor, loc: Tensor) -> None:
        """Initialize units at the start's scales and locations `[unit, local]`, where possible."""

    def _globals(self, white: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(factor, (white - shift).T, upper=False).T
        return (
            standard_normal_log_prob(z)
            - factor.diagonal().log().sum()
            - self.tril.diagonal().log().sum()
        )

    def noise_for(self, units: int) -> int:
        """Return the noise dimension for the global values and this number of units.

        A minibatch must not need the noise of all units.
        """
        return len(self.rest) + units * self.width

    def sample_units(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise to points `[n, dim]` and the log q of each unit `[n, unit]`.

        The noise is `[n, dim]`, or `[n, noise_for(units)]` with `index`. The log q of the global
        sites is not included.
        """
        units = torch.arange(self.size) if index is None else index
        out = self.numbers(index)
        rows = noise[:, len(self.rest) :].reshape(len(noise), -1, self.width)
        w = self.head.draw(
            out, rows if rows.shape[1] == len(units) else rows[:, units]
        )  # [n, unit, local]
        u = noise.new_zeros(len(noise), self.dim)
        u = u.index_copy(
            1,
            self.places[units].reshape(-1),
            (self.center + self.spread * w).reshape(len(noise), -1),
        )
        log_q = self.head.log_prob_stl(out, w) if stl else self.head.log_prob(out, w)
        return u, log_q - self.spread.log().sum()

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]` to points and their log q; units outside `index` stay 0."""
        u, log_q = self.sample_units(noise, index=index, stl=stl)
        total = (self.size / log_q.shape[1]) * log_q.sum(-1)
        if not len(self.rest):
            return u, total
        factor, shift = triangular(self.lower, self.log_scale), self.shift
        white = shift + noise[:, : len(self.rest)] @ factor.T
        u = u.index_copy(1, self.rest, self.origin + white @ self.tril.T)
        return (
            u,
            self._globals(
                white, shift.detach() if stl else shift, factor.detach() if stl else factor
            )
            + total,
        )

    def log_prob_units(self, u: Tensor) -> Tensor:
        """Return log q of each unit `[n, unit]` at points `[n, dim]`."""
        return (
            self.head.log_prob(self.numbers(None), (u[:, self.places] - self.center) / self.spread)
            - self.spread.log().sum()
        )

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        total = self.log_prob_units(u).sum(-1)
        if not len(self.rest):
            return total
        white = torch.linalg.solve_triangular(
            self.tril, (u[:, self.rest] - self.origin).T, upper=False
        ).T
        return self._globals(white, self.shift, triangular(self.lower, self.log_scale)) + total

    def watched(self) -> Tensor | None:
        """Return the whitened global parameters, or None if there are none."""
        return (
            torch.cat([self.shift.detach(), self.log_scale.detach()]) if len(self.rest) else None
        )
