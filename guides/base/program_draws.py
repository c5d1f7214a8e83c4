"""Draws of a guide that is a Pyro program, with log q over the unconstrained vector.

    log q(u) = sum of the log probabilities of its sites + log |det dT/du|,    z = T(u)

Discrete sites drawn last do not enter. Where a continuous site z is drawn after a discrete one y,
the guide's q(z) = sum_y q(y) q(z given y) is needed: the guide is then treated like a program
without observations, and y is summed out of it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from zoo.density.faults import unless_it_raises
from zoo.density.guide_density import summed_out
from zoo.density.log_density import LogDensity
from zoo.density.sites import samples
from zoo.errors import FitError

__all__ = ["program_draws"]

PLATE = "_draws_of_the_guide"
BLOCK = 100_000  # coordinates drawn by one run
CHECKED = 3  # vectorized draws whose log q is compared with that of single runs
SAME = {torch.float64: 1e-6}  # relative; else as much as single precision can hold
Drawn = tuple[dict[str, Tensor], Tensor]  # named sites `[draw, *site]`, and log q `[draw]`


def program_draws(guide: nn.Module, density: LogDensity, n: int) -> tuple[Tensor, Tensor]:
    """Return n points `[n, dim]` and log q `[n]` in nats.

    Draws come from runs inside a further plate if that gives what single runs give. Such a run
    has a fixed number of draws, so that memory does not grow with n.

    Raises:
        ProgramError: a discrete site before a continuous one cannot be summed out.
        FitError: an angle that counts turns.
    """
    marginal = summed_out(guide, density)
    names = [s.name for s in density.sites]
    together = _together(guide, density, n)
    if together is None:
        found = [_values(_run(guide, density), names, density) for _ in range(n)]
        draws = {name: torch.stack([d[name] for d, _ in found]) for name in names}
        total = torch.stack([q for _, q in found])
    else:
        draws, total = together
    _refuse_turns(draws, density)
    u = density.unconstrain(draws)
    if marginal is not None:  # its coordinates may be others: a support, or the cut of an angle
        theirs = marginal.unconstrain(draws)
        total = marginal.batch(theirs) - _log_jacobian(marginal, theirs, draws)
    return u, total + _log_jacobian(density, u, draws)


def _log_jacobian(density: LogDensity, u: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Return log |det dT/du| `[n]` at points `[n, dim]` with the sites T(u)."""
    terms = [s.transform.log_abs_det_jacobian(s.part(u), draws[s.name]) for s in density.sites]
    return torch.stack([t.reshape(len(u), -1).sum(-1) for t in terms]).sum(0)


def _refuse_turns(draws: dict[str, Tensor], density: LogDensity) -> None:
    for name in density.completion.centers:
        if bool((draws[name].abs() > math.pi * (1 + 1e-6)).any()):
            raise FitError(
                f"The guide draws the angle {name!r} outside [-pi, pi]: it counts turns, so its"
                " density is not that of an angle; wind it around the circle by"
                " zoo.distributions.circular.WrappedNormal, or fit an autoguide here."
            )


def _run(guide: nn.Module, density: LogDensity, n: int = 0) -> poutine.Trace:
    """Run the guide once, inside a plate of n draws if n is not 0."""
    completed = density.completed(guide)
    tensors: Any = density.data.train

    def call(**given: Any) -> Any:
        if not n:
            return completed(**given)
        with pyro.plate(PLATE, n, dim=-1 - density.max_plate_nesting):
            return completed(**given)

    trace = poutine.block(poutine.trace(call).get_trace)(**tensors)
    trace.compute_log_prob()
    return trace


def _values(
    trace: poutine.Trace, names: list[str], density: LogDensity
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the continuous sites of a run, and log q without the program's discrete sites."""
    nodes = {n["name"]: n for n in samples(trace)}
    kept = [n["log_prob_sum"] for name, n in nodes.items() if name not in density.discrete]
    total = sum(kept, torch.zeros(()))
    return {name: nodes[name]["value"] for name in names}, total


def _together(guide: nn.Module, density: LogDensity, n: int) -> Drawn | None:
    """Return n draws of runs in a plate, None if they are not what single runs would draw."""
    if n <= CHECKED:
        return None
    most = max(CHECKED + 1, BLOCK // density.dim)
    blocks: list[Drawn] = []
    for start in range(0, n, most):
        number, first = min(most, n - start), start == 0
        block = unless_it_raises(partial(_block, guide, density, number, check=first), None)
        if block is None:  # the guide's statements take one draw at a time
            return None
        blocks.append(block)
    draws = {s.name: torch.cat([rows[s.name] for rows, _ in blocks]) for s in density.sites}
    return draws, torch.cat([log_q for _, log_q in blocks])


def _block(guide: nn.Module, density: LogDensity, n: int, *, check: bool) -> Drawn | None:
    """Return n draws of one run in a plate, None if they are not what single runs would draw."""
    nodes = {node["name"]: node for node in samples(_run(guide, density, n))}
    rows, log_q = {}, {}
    for name, node in nodes.items():
        value = _by_draw(node["value"], node, density, n)
        term = _by_draw(node["log_prob"], node, density, n, event=0)
        if value is None or term is None:
            return None
        rows[name], log_q[name] = value, term
    for i in range(CHECKED if check else 0):
        again = poutine.condition(guide, data={name: value[i] for name, value in rows.items()})
        one = {m["name"]: m for m in samples(_run(again, density))}
        if one.keys() != rows.keys():
            return None
        for name, term in log_q.items():
            single, many = float(one[name]["log_prob_sum"]), float(term[i].sum())
            near = abs(single - many) <= SAME.get(density.dtype, 1e-4) * max(1.0, abs(single))
            # a value that the single run would not draw has -inf there, near to anything
            if one[name]["value"].shape != rows[name][i].shape or not (
                near and math.isfinite(single)
            ):
                return None
    kept = [name for name in nodes if name not in density.discrete]
    total = sum((log_q[name].reshape(n, -1).sum(-1) for name in kept), torch.zeros(n))
    return {s.name: rows[s.name] for s in density.sites}, total


def _by_draw(
    value: Tensor, node: dict[str, Any], density: LogDensity, n: int, *, event: int | None = None
) -> Tensor | None:
    """Return `[n, *site]` of a tensor with the draws on the axis of their plate.

    It is None for a site that was drawn once for all draws, or that has an axis without a plate.
    """
    event = node["fn"].event_dim if event is None else event
    plates = max((-f.dim for f in node["cond_indep_stack"] if f.name != PLATE), default=0)
    axis = value.ndim - event - 1 - density.max_plate_nesting
    if axis != 0 or value.shape[0] != n:
        return None
    between = value.shape[1 : 1 + density.max_plate_nesting - plates]
    if any(size != 1 for size in between):
        return None
    return value.reshape(n, *value.shape[1 + len(between) :])
