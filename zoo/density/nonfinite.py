"""Which sites of a program have no finite value or density at a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.density.sites import no_validation
from zoo.errors import one_line

if TYPE_CHECKING:
    from zoo.density.log_density import LogDensity

__all__ = ["nonfinite_sites"]


def nonfinite_sites(density: LogDensity, u: Tensor) -> str:
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
