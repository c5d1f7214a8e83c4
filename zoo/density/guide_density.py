"""The density of a guide that draws a continuous site after a discrete one.

Its q(z) = sum_y q(y) q(z given y): the guide is treated like a program without observations, and
the discrete site is summed out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

from zoo.density.faults import is_own_fault
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, samples
from zoo.errors import ProgramError, ZooError, one_line
from zoo.seeds import seeded

__all__ = ["enumerated", "order_of", "summed_out"]


def enumerated(guide: Callable[..., Any], density: LogDensity) -> Callable[..., Any]:
    """Return a guide in whose ELBO discrete sites before continuous ones are summed out.

    Their values come on an axis of their own, expanded to the rows, as Pyro's example of a
    semi-supervised autoencoder has them. Any other guide is only completed.
    """
    run = density.completed(guide)
    if order_of(guide, density) is None:
        return run
    made: Callable[..., Any] = config_enumerate(run, default="parallel", expand=True)
    return made


def order_of(guide: Callable[..., Any], density: LogDensity) -> tuple[str, str] | None:
    """Return a discrete site of the program and a continuous one that the guide draws after it."""
    if not density.discrete:
        return None
    with default_dtype(density.dtype), seeded(0), torch.no_grad():
        trace = poutine.block(poutine.trace(density.completed(guide)).get_trace)(
            **density.data.train
        )
    names, first = {s.name for s in density.sites}, ""
    for node in samples(trace):
        if node["name"] in density.discrete:
            first = first or node["name"]
        elif first and node["name"] in names:
            return first, node["name"]
    return None


def summed_out(guide: Callable[..., Any], density: LogDensity) -> LogDensity | None:
    """Return the log density of a guide whose continuous sites come after a discrete one.

    It is None for all others. It reads the weights of the guide at every call, so that that of
    the last guide is kept with the density of the program.

    Args:
        guide: a guide program.
        density: the log density of its program.

    Raises:
        ProgramError: the discrete site cannot be summed out of the guide.
    """
    if density.of_guide is None or density.of_guide[0] is not guide:
        density.of_guide = guide, _summed_out(guide, density)
    return density.of_guide[1]


def _summed_out(guide: Callable[..., Any], density: LogDensity) -> LogDensity | None:
    order = order_of(guide, density)
    if order is None:
        return None
    first, later = order
    why = ""
    cause: Exception | None = None
    try:
        found = LogDensity(guide, density.data, dtype=density.dtype)
        with default_dtype(density.dtype), torch.no_grad():
            found.batch(torch.zeros(2, found.dim, dtype=found.dtype))
        _try_elbo(guide, density)
        extra = {s.name for s in found.sites} ^ {s.name for s in density.sites}
        why = f"it has the further site {min(extra)!r}" if extra else ""
    except ZooError as error:
        why, cause = str(error).rstrip("."), error
    except Exception as error:  # of the author's statements
        if is_own_fault(error):
            raise
        why, cause = one_line(error), error
    if why:
        raise ProgramError(
            f"The guide draws {later!r} after the discrete site {first!r}, which cannot be summed"
            f" out of it: {why}. Draw discrete sites last, or give {first!r} a distribution whose"
            " values can be enumerated and statements that take all of them at once, such as"
            f" torch.cat([x.expand(*{first}.shape[:-1], -1), {first}], -1) in place of"
            f" torch.cat([x, {first}], -1)."
        ) from cause
    return found


def _try_elbo(guide: Callable[..., Any], density: LogDensity) -> None:
    """Evaluate the ELBO that a fit would maximize once, so that it fails before any training."""
    model = config_enumerate(density.completed(density.program), default="parallel")
    elbo = TraceEnum_ELBO(max_plate_nesting=density.max_plate_nesting)
    draw = enumerated(guide, density)
    with (
        default_dtype(density.dtype),
        seeded(0),
        torch.no_grad(),
        poutine.block(),
        pyro.validation_enabled(False),
    ):
        elbo.loss(model, draw, **density.data.train)
