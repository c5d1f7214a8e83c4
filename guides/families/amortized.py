"""Amortized: an encoder maps the data of each unit to its local approximation.

    q(u) = Normal(u_global; m, L L^T) prod_i prod_k Normal(u_ik; m_k(x_i), s_k(x_i)^2),
    (m, log s) = MLP(x_i)

over the unconstrained values; x_i is row i of `entry.amortize(tensors)`, standardized. It cannot
represent dependence between local and global values or among the locals of a unit, and the encoder
may not reach every unit's own optimum (the amortization gap). In minibatches only the units of a
step are encoded, with their terms scaled by size / batch. `amortized_full` and `amortized_flow`
differ in the head (`guides.base.heads`).
Source: Agrawal & Domke 2021, "Amortized variational inference for simple hierarchical models".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.flat import FlatGuide, Start
from guides.base.initialize import find_start, plain_start
from guides.base.local import LocalGuide
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UsageError, described
from zoo.types import Data, ModelEntry, Program

LARGEST_SEARCH = 500  # dimensions up to which a start is searched for

__all__ = ["FAMILY", "AmortizedGuide", "build", "flat", "start"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    hidden: int = 32,
    globals: str = "full_rank",
    encoder: nn.Module | None = None,
    head: str = "diagonal",
) -> nn.Module:
    """Build the guide; the default encoder is a network with two layers of `hidden` units.

    Args:
        program: the Pyro program.
        data: what it is conditioned on.
        entry: its card; `entry.amortize(tensors)` returns `[unit, feature]`.
        density: the program's log density, if it exists already.
        hidden: width of the two hidden layers.
        globals: `full_rank` or `mean_field` over the global sites.
        encoder: a network `[unit, feature] -> [unit, numbers of the head]` that replaces the
            default one.
        head: `diagonal`, `full` or `flow`, see `guides.base.heads`.

    Raises:
        FitError: the entry has no `amortize` hook, or the program has no local site.
        UsageError: an unknown value of `globals`.
    """
    if entry.amortize is None:
        raise FitError(
            f"Entry {entry.name!r} has no amortize hook; an encoder needs amortize=lambda tensors:"
            " ... [unit, feature]."
        )
    if globals not in ("full_rank", "mean_field"):
        raise UsageError(f"globals is {described(globals)}; accepted: full_rank, mean_field.")
    density = density or LogDensity(program, data, dtype=entry.dtype)
    features = features_of(entry, data.train)
    return AmortizedGuide(
        density, features, hidden=hidden, full=globals == "full_rank", encoder=encoder, head=head
    )


def start(density: LogDensity, generator: torch.Generator, *, radius: float = 0.1) -> Start:
    """Return the start: the usual search, but standard normals in many dimensions."""
    return (
        find_start(density, generator, radius=radius)
        if density.dim <= LARGEST_SEARCH
        else plain_start(density)
    )


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Initialize the guide: global moments from the start, local outputs centered and scaled."""
    assert isinstance(guide, LocalGuide)
    guide.begin(start)
    return guide


def features_of(entry: ModelEntry, tensors: Mapping[str, Any]) -> Tensor:
    """Return the encoder input of every unit `[unit, feature]`.

    Raises:
        FitError: the hook returns another shape or non-finite values.
    """
    assert entry.amortize is not None
    features = torch.as_tensor(entry.amortize(tensors), dtype=entry.dtype)
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise FitError(
            f"The amortize hook of {entry.name!r} returned shape {tuple(features.shape)}; a finite"
            " matrix [unit, feature] is needed."
        )
    return features


class AmortizedGuide(LocalGuide):
    """The guide above over the flat vector of a log density."""

    features: Tensor
    feature_mean: Tensor
    feature_sd: Tensor
    base: Tensor

    def __init__(
        self,
        density: LogDensity,
        features: Tensor,
        *,
        hidden: int,
        full: bool,
        encoder: nn.Module | None,
        head: str,
    ) -> None:
        super().__init__(density, full=full, head=head)
        if len(features) != self.size:
            raise FitError(
                f"The amortize hook returned {len(features)} rows for {self.size} units; one row"
                " per unit is needed."
            )
        mean, sd = features.mean(0), features.std(0)
        # a feature that is constant here may vary in later units
        sd = torch.where(sd > 1e-12, sd, torch.ones_like(sd))
        self.register_buffer("features", (features - mean) / sd)
        self.register_buffer("feature_mean", mean)
        self.register_buffer("feature_sd", sd)
        self.register_buffer("base", features.new_zeros(self.head.numbers))
        self.encoder: nn.Module = (
            encoder
            if encoder is not None
            else _network(features.shape[1], hidden, self.head.numbers, density.dtype)
        )

    def begin_local(self, scale: Tensor, loc: Tensor) -> None:
        """Initialize the log scales at their mean over the units."""
        self.base[self.width : 2 * self.width].copy_((scale / self.spread).log().mean(0))

    def numbers(self, units: Tensor | None) -> Tensor:
        """Encode these units."""
        out: Tensor = self.encoder(self.features if units is None else self.features[units])
        return self.base + out

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale `[unit, local]` of unconstrained local values, before a flow.

        Args:
            features: encoder inputs `[unit, feature]`, not standardized.
        """
        out = self.base + self.encoder((features - self.feature_mean) / self.feature_sd)
        return (
            self.center + self.spread * out[:, : self.width],
            self.spread * out[:, self.width : 2 * self.width].exp(),
        )

    def transferred(self, density: LogDensity, features: Tensor) -> AmortizedGuide:
        """Return the guide, with the same encoder, for other units of the same program.

        Args:
            density: the log density of the other units.
            features: their encoder inputs `[unit, feature]`.

        Raises:
            FitError: the program has global sites, whose approximation depends on the fitted
                units.
        """
        if len(self.rest):
            raise FitError(
                "A guide with global sites cannot be applied to other units; fit these units."
            )
        other = AmortizedGuide(
            density, features, hidden=1, full=self.full, encoder=self.encoder, head="diagonal"
        )
        other.head = self.head
        other.features = (features - self.feature_mean) / self.feature_sd
        for name in ("feature_mean", "feature_sd", "base", "center", "spread"):
            other.register_buffer(name, getattr(self, name).clone())
        return other


def _network(inputs: int, hidden: int, outputs: int, dtype: torch.dtype) -> nn.Module:
    """Two hidden layers; the last layer starts near zero, so that all units start alike."""
    last = nn.Linear(hidden, outputs, dtype=dtype)
    network = nn.Sequential(
        nn.Linear(inputs, hidden, dtype=dtype),
        nn.Tanh(),
        nn.Linear(hidden, hidden, dtype=dtype),
        nn.Tanh(),
        last,
    )
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return network


FAMILY = Family(
    name="amortized",
    q="an encoder network per unit, full-rank normal over global sites",
    blind_spot="no dependence between local and global sites, independent local values",
    build=build,
    options=("hidden", "globals"),
    defaults={"steps": 8000, "lr": 0.02, "num_particles": 32},
    flat=flat,
    start=start,
    amortized=True,
    encoder=True,
    richer=("full_rank", "amortized_full"),
    slot=4,
)
