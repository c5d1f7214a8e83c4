"""The record of a guide family, from which tables, marks, advice and tests are derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from guides.types import FitConfig, Stop
from zoo.errors import UnknownNameError, UsageError
from zoo.fields import COUNT, FLAG, FUNCTION, MAPPING, NAMES, TEXT, checked

if TYPE_CHECKING:
    import torch
    from torch import nn

    from guides.base.flat import FlatGuide, Start
    from zoo.density.log_density import LogDensity

__all__ = ["Begin", "Family"]


class Begin(Protocol):
    """Finds the start of the optimization of a flat guide."""

    def __call__(
        self, density: LogDensity, generator: torch.Generator, *, radius: float = 0.1
    ) -> Start:
        """Return the start; raise FitError if no point has a finite density."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A way to approximate a posterior, registered by a file in `guides/families` or a plug-in.

    Attributes:
        name: the public name; the stem of its file.
        q: the family in one line, a noun phrase.
        blind_spot: what no member of it can represent, in one line.
        build: `(program, data, entry, *, density, **options) -> guide` makes an unfitted member:
            an autoguide, a `FlatGuide`, or a Pyro guide program.
        options: keywords of `build` that users may pass to a fit.
        defaults: fields of `FitConfig` that differ for this family.
        flat: `(guide, start) -> FlatGuide`, the guide over the flat vector in whitened
            coordinates; without it a guide that is not a `FlatGuide` itself is optimized as a Pyro
            program.
        solve: `(guide, density, generator) -> (Stop, gradients)`, replaces stochastic
            optimization.
        normal: whether `flat` returns a `NormalGuide`, which natural gradients can optimize.
        start: finds the start of a flat guide, the common search by default.
        amortized: whether one guide serves all units, including unseen ones.
        encoder: whether `build` needs the card's `amortize` hook.
        richer: families to try if this one is too restrictive, the first that the entry lists.
        slot: color, marker and dash in plots, 0 to 9; families without one take a free one.
        own: whether it is a guide of one entry.

    Raises:
        UsageError: a field of a wrong type, a name that is no identifier, an empty line, both
            `flat` and `solve`, a slot outside 0 to 9, or a default that `FitConfig` rejects.
    """

    name: str
    q: str
    blind_spot: str
    build: Callable[..., nn.Module]
    options: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    flat: Callable[[nn.Module, Start], FlatGuide] | None = None
    solve: Callable[[nn.Module, LogDensity, torch.Generator], tuple[Stop, int]] | None = None
    normal: bool = False
    start: Begin | None = None
    amortized: bool = False
    encoder: bool = False
    richer: tuple[str, ...] = ()
    slot: int | None = None
    own: bool = False

    def __post_init__(self) -> None:
        """Reject a record that would fail later."""
        checked(self, name=TEXT, q=TEXT, blind_spot=TEXT, build=FUNCTION, options=NAMES)
        checked(self, defaults=MAPPING, flat=FUNCTION | None, solve=FUNCTION | None)
        checked(self, start=FUNCTION | None, amortized=FLAG, encoder=FLAG, richer=NAMES)
        checked(self, slot=COUNT | None, own=FLAG, normal=FLAG)
        if not self.name.isidentifier():
            raise UsageError(f"A family is called {self.name!r}; accepted: letters, digits and _.")
        if not self.own and not (self.q.strip() and self.blind_spot.strip()):
            raise UsageError(
                f"Family {self.name!r} has no q or no blind spot; write one line each."
            )
        if self.flat is not None and self.solve is not None:
            raise UsageError(
                f"Family {self.name!r} has both flat and solve; give only one of them."
            )
        unknown = sorted(set(self.defaults) - set(FitConfig.__dataclass_fields__))
        if unknown:
            raise UnknownNameError(
                f"default of family {self.name!r}", unknown[0], FitConfig.__dataclass_fields__
            )
        try:
            FitConfig(**self.defaults)
        except UsageError as error:
            raise UsageError(f"Family {self.name!r} has defaults that fail: {error}") from error
        if self.slot is not None and not 0 <= self.slot <= 9:
            raise UsageError(
                f"Family {self.name!r} has slot={self.slot}; accepted: 0 to 9, or None for a free"
                " one."
            )

    @property
    def is_program(self) -> bool:
        """Whether its guides are Pyro programs, optimized by Pyro's own estimators."""
        return self.flat is None and self.solve is None

    @property
    def description(self) -> str:
        """The family and its blind spot in one line."""
        return f"{self.q}; {self.blind_spot}"
