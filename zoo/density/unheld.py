"""Latent entries that no term of the density holds: they have no posterior of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from pyro.distributions import ImproperUniform
from torch import Tensor
from torch.distributions import constraints

from zoo.density.completion import entries_counted
from zoo.density.nodes import base_of
from zoo.distributions.supports import innermost
from zoo.errors import ProgramError

__all__ = ["masked_entries", "unheld_entries"]

POINTS = 3
_UNBOUNDED = (
    constraints._Real,
    constraints._GreaterThan,
    constraints._GreaterThanEq,
    constraints._LessThan,
)


class Density(Protocol):
    """What is needed of a log density."""

    dim: int
    dtype: torch.dtype
    data: Any

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Return named sites at a flat point."""

    def log_joint(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> Tensor:
        """Return the log joint density of named sites."""


def unheld_entries(density: Density, latent: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return which entries `[*batch]` of masked sites are held by no term, by site.

    An entry whose own log probability is masked is held by no term where the gradient of the log
    joint density by it is exactly zero at three points. A masked prior whose entries the data hold
    is a flat prior and stays one.

    Raises:
        ProgramError: a site with masked entries of both kinds, or a flat prior that no term holds.
    """
    masked = {n["name"]: m for n in latent if (m := masked_entries(n)) is not None}
    flat = {n["name"] for n in latent if _is_flat(n["fn"])}
    if not masked and not flat:
        return {}
    touched = _touched(density, sorted({*masked, *flat}))
    free = {}
    for node in latent:
        name = node["name"]
        if name in flat and not bool(touched[name].any()):
            raise ProgramError(
                f"Site {name!r} has a flat prior and no likelihood term depends on it, so the"
                " posterior is improper; give it a proper prior, or use its value in the"
                " likelihood."
            )
        if name not in masked:
            continue
        held = (
            touched[name].flatten(touched[name].ndim - node["fn"].event_dim)
            if node["fn"].event_dim
            else touched[name][..., None]
        )
        loose = masked[name] & ~held.any(-1)
        if not bool(loose.any()):
            continue
        if bool((masked[name] & held.any(-1)).any()):
            raise ProgramError(
                f"Site {name!r} is masked in {int(masked[name].sum())} entries, of which"
                f" {int(loose.sum())} enter no other term and so have no posterior; leave those"
                " out of the site, or give them a prior by unmasking them."
            )
        free[name] = loose
    return free


def masked_entries(node: dict[str, Any]) -> Tensor | None:
    """Return which entries `[*batch]` of a site are masked, None where there are none."""
    fn, counted = entries_counted(node["fn"], node["mask"])
    if counted is None:
        return None
    value = node["value"]
    shape = value.shape[: value.ndim - fn.event_dim]
    if counted is False:
        return torch.ones(shape, dtype=torch.bool)
    away = ~torch.as_tensor(counted).expand(shape)
    return away if bool(away.any()) else None


def _is_flat(fn: Any) -> bool:
    """Whether a prior is flat on an unbounded set."""
    fn = base_of(fn)
    if not isinstance(fn, ImproperUniform):
        return False
    return isinstance(innermost(fn.support), _UNBOUNDED)


def _touched(density: Density, names: Sequence[str]) -> dict[str, Tensor]:
    """Return by which values `[*site]` the log joint density changes anywhere."""
    generator = torch.Generator().manual_seed(31_337)
    out: dict[str, Tensor] = {}
    for _ in range(POINTS):
        u = 0.4 * torch.randn(density.dim, dtype=density.dtype, generator=generator)
        with torch.enable_grad():
            draws = {k: v.detach() for k, v in density.constrain(u).items()}
            asked = {k: draws[k].requires_grad_(True) for k in names}
            value = density.log_joint(draws, density.data.train)
            slopes: Sequence[Tensor | None] = (
                torch.autograd.grad(value, list(asked.values()), allow_unused=True)
                if value.requires_grad
                else [None] * len(asked)
            )
        for name, slope in zip(asked, slopes, strict=True):
            moved = (
                torch.zeros_like(draws[name], dtype=torch.bool) if slope is None else slope != 0
            )
            out[name] = out[name] | moved if name in out else moved
    return out
