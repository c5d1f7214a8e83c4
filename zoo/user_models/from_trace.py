"""What one run of a program says of its entry: the quantities, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical
from torch import Tensor

from zoo.density.completion import is_discrete
from zoo.density.faults import unless_it_raises
from zoo.density.finite_sum import finite_sum
from zoo.density.log_density import LogDensity
from zoo.density.nodes import base_of
from zoo.density.sites import is_unchecked, samples, support_of, whole_event
from zoo.density.symmetries import Symmetry
from zoo.distributions.circular import circle_of, is_circular
from zoo.errors import listed
from zoo.quantities import chances, held_entries, invariant, of_site, plain
from zoo.types import Analytic, Data, ModelEntry, Quantity
from zoo.user_models.computed import computed
from zoo.user_models.discover import reparameterized
from zoo.user_models.lift_params import Lifted, LiftedProgram

POINTS = 8  # at which the density is looked at

__all__ = ["all_discrete", "facts", "of_finite_sum", "quantities_of"]


def quantities_of(
    trace: poutine.Trace,
    density: LogDensity,
    data: Data,
    lifted: Lifted,
    program: LiftedProgram,
    free: Sequence[Symmetry],
) -> dict[str, Quantity]:
    """Return one quantity per site the author named, also where it is reparameterized.

    Of a site that a symmetry moves it is what the symmetry does not change.
    """
    nodes = {n["name"]: n for n in samples(trace)}
    found = {}
    for name, support in reparameterized(lifted, trace).items():
        shape, dims = shape_and_dims(nodes[name])
        for label, quantity in of_site(name, support, shape, data.dims.get(name, dims)).items():
            found[label] = replace(quantity, fn=computed(quantity.fn, name, program, density))
    for site in density.sites:
        if site.name in lifted.auxiliary:
            continue
        node = nodes[site.name]
        shape, dims = shape_and_dims(node)
        fn = node["fn"]
        support = circle_of(fn) if is_circular(fn) else fn.support
        named = data.dims.get(site.name, dims)
        for label, quantity in of_site(site.name, support, shape, named).items():
            if site.name in density.free:
                kept = held_entries(quantity, density.free[site.name])
                if kept is None:
                    continue
                quantity = kept
            for symmetry in free:
                for axis in (a for name, a in symmetry.axes if name == site.name):
                    label, quantity = invariant(label, quantity, symmetry.kind, axis)
            found[label] = quantity
    return found


def all_discrete(trace: poutine.Trace) -> bool:
    """Whether there are latent sites and every one is discrete."""
    latent = [n for n in samples(trace) if not n["is_observed"]]
    return bool(latent) and all(is_discrete(n["fn"]) for n in latent)


def of_finite_sum(
    trace: poutine.Trace,
    program: LiftedProgram,
    card: Data,
    dtype: torch.dtype,
    shared: Mapping[str, Any],
    given: Mapping[str, Quantity] | None,
) -> ModelEntry:
    """Return the entry, with its exact posterior, of a program with discrete sites only."""
    found = finite_sum(program, card, dtype=dtype)
    nodes = {n["name"]: n for n in samples(trace)}
    quantities = {}
    for name, values in found.values.items():
        _, dims = shape_and_dims(nodes[name])
        classes = isinstance(base_of(nodes[name]["fn"]), Categorical) and values.ndim == 1
        quantities[name] = chances(name, len(values), dims) if classes else plain(name, dims)
    return ModelEntry(
        quantities=dict(given) if given is not None else quantities,
        reference="analytic",
        analytic=lambda data: Analytic(sample=found.sample, log_evidence=found.log_evidence),
        families=(),
        notices=(f"Every latent site is discrete; the exact posterior: {found.sentence()}.",),
        **shared,
    )


def shape_and_dims(node: dict[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the shape of a site and the names of its axes: plates, or numbers."""
    plates = {f.dim: f.name for f in node["cond_indep_stack"] if f.vectorized}
    shape, event, name = tuple(node["value"].shape), node["fn"].event_dim, node["name"]
    rank = len(shape)
    return shape, tuple(plates.get(i - rank + event, f"{name}_dim_{i}") for i in range(rank))


def facts(trace: poutine.Trace, density: LogDensity, lifted: Lifted) -> Iterator[str]:
    """Say what was found in the program that a reader of a comparison must know."""
    for statement, sites in lifted.reads.items():
        found = [s for s in sites if s not in density.discrete]
        if found:
            yield (
                f"The program reads the value of latent site {listed(found)} out of torch in"
                f" `{statement}`: where that decides between two densities, the density jumps,"
                " gradients do not see it, and no agreement of methods that follow gradients means"
                " anything; write both branches and choose with torch.where, or make the choice a"
                " discrete site."
            )
    yield from _not_numbers(density)
    for name, loose in density.free.items():
        yield (
            f"{int(loose.sum())} of {loose.numel()} entries of site {name!r} are masked and enter"
            " no other term, so they have no posterior: they are not compared, and are standard"
            " normal in unconstrained space wherever a whole site is needed."
        )
    for name in density.jumps:
        yield (
            f"The density jumps where angle {name!r} passes pi: the program uses it as a number,"
            " which lies in [-pi, pi) as it is drawn. Gradients do not see the jump, so methods"
            " that follow them may miss what is beyond it; use its sine and cosine, or give it a"
            " prior over the real line."
        )
    unchecked = [n["name"] for n in samples(trace) if n["is_observed"] and _outside_unchecked(n)]
    if unchecked:
        yield (
            f"Observed site {listed(unchecked)} holds values outside the support of"
            " its distribution, whose checks the author switched off (validate_args=False); its"
            " log probability is taken as it is."
        )
    if lifted.one_type:
        yield (
            "Numbers of several types meet in the program (single precision, integers or flags);"
            " they are brought to the entry's type where torch would refuse them."
        )


def _not_numbers(density: LogDensity) -> Iterator[str]:
    """Count points at which the log density is NaN."""
    generator = torch.Generator().manual_seed(60_013)
    points = torch.randn(POINTS, density.dim, dtype=density.dtype, generator=generator)
    bad = [u for u in points if _is_bad(density, u)]
    if bad:
        yield (
            f"The log density is not a number at {len(bad)} of {POINTS} standard normal points,"
            f" there at {density.nonfinite_sites(bad[0])}; such points count as density zero. NUTS"
            " rejects them and reports divergences; a guide with draws there has no ELBO. Give the"
            " site a support that ends where the density does."
        )


def _is_bad(density: LogDensity, u: Tensor) -> bool:
    with torch.no_grad():  # without a density samplers reject a point or say what it raises
        return unless_it_raises(lambda: bool(density.evaluate(u).isnan()), otherwise=True)


def _outside_unchecked(node: dict[str, Any]) -> bool:
    fn, value = node["fn"], node["value"]
    support = support_of(fn)
    return (
        is_unchecked(fn)
        and support is not None
        and isinstance(value, Tensor)
        and not bool(support.check(whole_event(fn, value)).all())
    )
