"""The subject of the checks: an entry with data, program and log density, made once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from torch import Tensor

from zoo.density.log_density import LogDensity, default_dtype, trace_program
from zoo.density.nodes import base_of
from zoo.density.sites import samples
from zoo.errors import ZooError
from zoo.types import Data, ModelEntry, Program

__all__ = ["EXACT_DRAWS", "Failed", "Skipped", "Subject"]

EXACT_DRAWS = 4000


class Skipped(Exception):
    """The check does not apply; the message is the reason."""


class Failed(Exception):
    """The check found a fault; the message says what it got, what it expects and what to do."""


class Subject:
    """An entry under examination."""

    def __init__(self, entry: ModelEntry) -> None:
        self.entry = entry

    @cached_property
    def data(self) -> Data:
        """The data with data seed 0."""
        try:
            return self.entry.load_data()
        except Exception as error:
            raise Skipped(
                f"The data cannot be made ({type(error).__name__}); see check data."
            ) from error

    @cached_property
    def program(self) -> Program:
        """One build of the program."""
        return self.entry.program(self.data)

    @cached_property
    def density(self) -> LogDensity:
        """The log density; checks that need it are skipped if it cannot be made."""
        try:
            return self.new_density()
        except ZooError as error:
            raise Skipped("There is no log density; see check log_density.") from error

    def new_density(self) -> LogDensity:
        """Make a log density from a fresh program."""
        return LogDensity(self.entry.program(self.data), self.data, dtype=self.entry.dtype)

    @cached_property
    def points(self) -> Tensor:
        """Six unconstrained points `[6, dim]`: five around 0 with sd 0.5, and one with sd 1.5."""
        generator = torch.Generator().manual_seed(4021)
        scale = torch.tensor([0.5] * 5 + [1.5], dtype=self.density.dtype)
        return scale[:, None] * torch.randn(
            6, self.density.dim, dtype=self.density.dtype, generator=generator
        )

    @cached_property
    def trace(self) -> poutine.Trace:
        """One run at jittered zeros with log probabilities."""
        with default_dtype(self.entry.dtype):
            trace = trace_program(self.program, self.data.train)
            trace.compute_log_prob()
        return trace

    @cached_property
    def exact_draws(self) -> Mapping[str, Tensor]:
        """Draws of the entry's closed form, which takes a second to draw for some entries."""
        exact = self.entry.exact(self.data)
        assert exact is not None
        return exact.sample(EXACT_DRAWS, 1)

    def sites(self, trace: poutine.Trace | None = None) -> list[dict[str, Any]]:
        """Sample statements of a run, without the index draws of plates."""
        return samples(self.trace if trace is None else trace)

    @property
    def observed(self) -> list[dict[str, Any]]:
        """Observed sites, without factors."""
        return [
            n
            for n in self.sites()
            if n["is_observed"] and type(n["fn"]).__name__ not in ("Unit", "Delta")
        ]

    @property
    def flat(self) -> list[str]:
        """Sites with an improper flat prior."""
        return [n["name"] for n in self.sites() if isinstance(base_of(n["fn"]), ImproperUniform)]

    def jacobian(self, u: Tensor) -> Tensor:
        """Log determinant of the map from a flat point `[dim]` to the constrained sites."""
        total = u.new_zeros(())
        for s in self.density.sites:
            raw = s.part(u)
            total = total + s.transform.log_abs_det_jacobian(raw, s.transform(raw)).sum()
        return total
