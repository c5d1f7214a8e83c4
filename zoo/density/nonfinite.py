"""Which sites of a program have no finite value or density at a point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pyro import poutine
from torch import Tensor

from zoo.density.per_value import PerValue
from zoo.density.sites import Site, no_validation
from zoo.errors import one_line
from zoo.types import Data

__all__ = ["nonfinite_sites"]


class Density(Protocol):
    """What is needed of a log density."""

    data: Data
    sites: tuple[Site, ...]
    per_value: PerValue | None

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Map a flat point to named sites."""

    def trace(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> poutine.Trace:
        """Run the program at named sites, discrete ones enumerated."""


def nonfinite_sites(density: Density, u: Tensor) -> str:
    """Name the sites of non-finite value or density at a point `[dim]`, as `site 'x'`."""
    try:
        trace = density.trace(density.constrain(u.detach()), density.data.train)
        with no_validation():
            trace.compute_log_prob()
    except Exception as error:  # whatever the author's code raises there
        if density.per_value is not None:
            return "a site of the program"
        return f"the program itself ({one_line(error)})"
    names = [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and "log_prob" in node and not _finite(node["log_prob"])
    ]
    for site in density.sites:
        if site.name not in names and not _finite(trace.nodes[site.name]["value"]):
            names.append(site.name)
    if not names:
        return "a Jacobian or a gradient"
    return "site " + ", ".join(repr(n) for n in names[:3])


def _finite(value: Tensor | float) -> bool:
    return bool(torch.isfinite(torch.as_tensor(value)).all())
