"""Checks of the program alone: support, normalization, Jacobians, evidence, plates, order."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pyro
import torch
from torch import Tensor

from benchmarks.audit.quadrature import LARGEST_DIM
from benchmarks.audit.sites import auto_jacobian, integral, log_joint, run_at
from benchmarks.audit.subject import Audited
from zoo.contract.check import Rule, rules
from zoo.contract.subject import Failed, Skipped
from zoo.density.log_density import default_dtype, trace_program
from zoo.density.nodes import base_of
from zoo.density.sites import samples

__all__ = ["CHECKS"]

ROUNDING = 1e-8  # relative; sums of some hundred float64 terms in another order
TOO_LONG_FOR_TRACES = 400


def observed_in_support(audited: Audited) -> str:
    """Every observed value is in the support of its distribution, whatever validation says."""
    with default_dtype(audited.entry.dtype), pyro.validation_enabled(False):
        trace = trace_program(audited.program, audited.data.train)
    seen = 0
    for node in audited.sites(trace):
        support = getattr(node["fn"], "support", None)
        if (
            not node["is_observed"]
            or support is None
            or not isinstance(node["value"], Tensor)
            or type(node["fn"]).__name__ == "Unit"
        ):
            continue
        seen += 1
        inside = support.check(node["value"])
        if not bool(inside.all()):
            bad, kind = int((~inside).sum()), type(base_of(node["fn"])).__name__
            raise Failed(
                f"{bad} of {inside.numel()} observed values of {node['name']!r} lie outside the"
                f" support of {kind}: its log probability of them is no likelihood; binarize the"
                " data or choose a likelihood for their scale."
            )
    if not seen:
        raise Skipped("Nothing is observed.")
    return f"All observed values of {seen} sites lie in their supports."


def sites_normalized(audited: Audited) -> str:
    """The density of each univariate site, latent or observed, integrates or sums to 1."""
    nodes = {n["name"]: n for n in audited.sites()}
    worst, done, left = 0.0, 0, []
    for name, node in nodes.items():
        total = None
        with contextlib.suppress(
            ArithmeticError, RuntimeError, TypeError, ValueError, NotImplementedError
        ):
            total = integral(node)
        if total is None:
            left.append(name)
            continue
        done += 1
        error = float((total - 1).abs().max())
        if not error < 1e-3:
            raise Failed(
                f"The density of site {name!r} integrates to"
                f" {float(total.reshape(-1)[(total - 1).abs().argmax()]):.5g}, not 1: a constant"
                " or a Jacobian of its distribution is wrong, and the evidence with it."
            )
        worst = max(worst, error)
    if not done:
        raise Skipped("No site is univariate with a density.")
    rest = f"; not covered: {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}" if left else ""
    return f"{done} sites integrate to 1 within {worst:.1g}{rest}."


def jacobians(audited: Audited) -> str:
    """The Jacobian term of every bijection equals the determinant of its derivative."""
    density = audited.density
    if density.dim > TOO_LONG_FOR_TRACES:
        raise Skipped(f"Determinants of {density.dim} columns take too long.")
    worst = 0.0
    for u in audited.points[:3]:
        stated, found = audited.jacobian(u), auto_jacobian(density, u)
        worst = max(worst, float((stated - found).abs() / (1 + found.abs())))
    if not worst < 1e-6:
        raise Failed(
            f"The Jacobian of the transforms is off by {worst:.3g} (relative) from automatic"
            " differentiation; check its sign."
        )
    return (
        f"Log determinants of {len(density.sites)} bijections equal automatic differentiation"
        f" within {worst:.1g}."
    )


def density_from_sites(audited: Audited) -> str:
    """The log density is the sum of log p over all sites, each once, plus the Jacobian."""
    density = audited.density
    if density.discrete:
        raise Skipped(
            "Discrete sites are summed out; zoo check compares that sum with brute force."
        )
    worst = 0.0
    for u in audited.points[:3]:
        found = density.evaluate(u).detach()
        expected = log_joint(audited, density.constrain(u)) + (
            audited.jacobian(u) if density.dim > 60 else auto_jacobian(density, u)
        )
        worst = max(worst, float((found - expected).abs() / (1 + expected.abs())))
    if not worst < ROUNDING:
        raise Failed(
            f"The log density is off by {worst:.3g} (relative) from the sum over its sites: a term"
            " is missing, counted twice or scaled."
        )
    return f"The log density is the sum over {len(audited.sites())} sites within {worst:.1g}."


def evidence(audited: Audited) -> str:
    """The program's density integrates to the independently known evidence."""
    known = audited.known
    if known is None:
        raise Skipped(
            "The evidence of the entry is not known independently;"
            " give analytic= or log_evidence=."
        )
    free = audited.density.dim > LARGEST_DIM and audited.free_classes > 1
    found = audited.sampled if free else audited.integrated
    gap, tolerance = found.value - known.value, 1e-4 + found.error + known.error
    numberings = math.factorial(audited.free_classes) if free else 1
    for reached in range(1, numberings):
        share = math.log(reached / numberings)
        if abs(gap - share) < tolerance:
            return (
                f"log evidence {known.value:.5f} nats ({known.route}); {found.route} around"
                f" {reached} of the {numberings} numberings of the classes gives"
                f" {found.value:.5f}, off from their share by {gap - share:+.1g}."
            )
    if not abs(gap) < tolerance:
        bits = found.value / math.log(2)
        hint = (
            " (it equals it in bits)"
            if abs(bits - known.value) < tolerance
            or abs(found.value - known.value * math.log(2)) < tolerance
            else ""
        )
        raise Failed(
            f"The density integrates to exp({found.value:.6f}) by {found.route}, the log evidence"
            f" is {known.value:.6f} nats by {known.route}: off by {gap:+.4g} nats{hint}; a term of"
            " prior or likelihood, a constant or a scale is wrong."
        )
    return (
        f"log evidence {known.value:.5f} nats ({known.route}); {found.route} gives"
        f" {found.value:.5f}, off by {gap:+.1g}."
    )


def plate_scaling(audited: Audited) -> str:
    """Sites count size / batch times, and minibatches average to the full log density.

    With all units every site counts once.
    """
    for name, scale in _scales(audited, None).items():
        if not abs(scale - 1) < 1e-12:
            raise Failed(
                f"Site {name!r} counts {scale:.6g} times although all data are used; check the"
                " size of its plate."
            )
    size = audited.size
    order = torch.randperm(size, generator=torch.Generator().manual_seed(21))
    few = order[: max(1, size // 3)]
    inside = {name for name, scale in _scales(audited, few).items() if abs(scale - 1) > 1e-12}
    for name, scale in _scales(audited, few).items():
        if name in inside and not abs(scale - size / len(few)) < 1e-9 * size:
            raise Failed(
                f"With {len(few)} of {size} units site {name!r} counts {scale:.6g} times, not"
                f" {size / len(few):.6g}."
            )
    worst, sizes = 0.0, sorted({1, max(1, size // 7), max(1, size // 2)})
    with torch.no_grad():
        for u in audited.points[:2]:
            full = audited.density.evaluate(u)
            for batch in sizes:
                parts = order.split(batch)
                mean = sum(
                    len(i) / size * audited.density.evaluate(u, audited.minibatch(i))
                    for i in parts
                )
                worst = max(worst, float((mean - full).abs() / (1 + full.abs())))
    if not worst < ROUNDING:
        raise Failed(
            "Disjoint minibatches average to another log density than all data (off by"
            f" {worst:.3g}, relative)."
        )
    return (
        f"Minibatches of {', '.join(map(str, sizes))} of {size} units average to the full log"
        f" density within {worst:.1g}."
    )


def _scales(audited: Audited, index: Tensor | None) -> dict[str, float]:
    """Return how often each site counts in a pass."""
    tensors = audited.data.train if index is None else audited.minibatch(index)
    u = audited.points[0]
    draws: dict[str, Any] = audited.density.constrain(u)
    if index is not None:
        for s in audited.density.sites:
            if s.plate_axis is not None:
                draws[s.name] = draws[s.name].index_select(
                    draws[s.name].ndim - s.plate_axis, index
                )
    trace = run_at(audited, draws, tensors)
    return {n["name"]: float(torch.as_tensor(n["scale"]).reshape(-1)[0]) for n in samples(trace)}


def data_order(audited: Audited) -> str:
    """Reordering the units together with their index changes nothing."""
    order = torch.randperm(audited.size, generator=torch.Generator().manual_seed(22))
    with torch.no_grad():
        for u in audited.points[:2]:
            full, moved = (
                audited.density.evaluate(u),
                audited.density.evaluate(u, audited.minibatch(order)),
            )
            if not float((full - moved).abs() / (1 + full.abs())) < ROUNDING:
                raise Failed(
                    f"Reordering the units changes the log density from {float(full):.8g} to"
                    f" {float(moved):.8g} nats."
                )
    return "Reordering the units with their index changes nothing."


CHECKS = rules(
    Rule(
        name="observed_in_support",
        why=(
            "Grey pixels scored by a Bernoulli: Pyro's and PyTorch's VAE examples,"
            " lightning-bolts, mfcvae, pythae."
        ),
        body=observed_in_support,
        tier="audit",
    ),
    Rule(
        name="sites_normalized",
        why=(
            "A likelihood without its constant is no likelihood: reconstruction losses sold as log"
            " p(x)."
        ),
        body=sites_normalized,
        tier="audit",
    ),
    Rule(
        name="jacobians",
        why="A wrong sign or a missing Jacobian moves the density by an unknown amount.",
        body=jacobians,
        tier="audit",
    ),
    Rule(
        name="density_from_sites",
        why=(
            "scikit-learn's BayesianGaussianMixture: the bound lacks terms (#8823, #14419);"
            " pythae: a misplaced parenthesis (PR 27)."
        ),
        body=density_from_sites,
        tier="audit",
    ),
    Rule(
        name="evidence",
        why=(
            "tomotopy: three formulas for one likelihood; PyG: a missing square and factor 2; bits"
            " where nats belong."
        ),
        body=evidence,
        tier="audit",
    ),
    Rule(
        name="plate_scaling",
        why="PyTorch-VAE: the KL times batch / dataset; VGAE: averaged over nodes twice.",
        body=plate_scaling,
        tier="audit",
    ),
    Rule(
        name="data_order",
        why="Rows paired with another unit's latent values train towards another posterior.",
        body=data_order,
        tier="audit",
    ),
)
