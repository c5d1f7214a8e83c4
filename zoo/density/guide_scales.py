"""How a program and its guide scale the terms of a minibatch, which must be alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide

from zoo.density.sites import samples
from zoo.errors import one_line
from zoo.seeds import seeded

__all__ = ["fault_of_scales"]


def fault_of_scales(
    program: Callable[..., Any],
    guide: Callable[..., Any],
    tensors: Mapping[str, Any],
    size: int,
    name: str,
) -> str:
    """Say how a guide scales a latent site of a minibatch otherwise than its program.

    The ELBO is unbiased only if both scale a site alike, by size / batch inside the plate of the
    units.

    Args:
        program: the program, with its data as arguments.
        guide: the guide.
        tensors: a minibatch, with its `index`.
        size: the number of units.
        name: of the guide, for the sentence.

    Returns:
        The fault, also of a guide that cannot run on a minibatch, with the cure; empty if the
        scales agree.
    """
    batch = len(tensors["index"])
    cure = _cure(program, guide, tensors, size)
    with seeded(0), torch.no_grad(), poutine.block():
        theirs = samples(poutine.trace(program).get_trace(**tensors))
        try:
            own = samples(poutine.trace(guide).get_trace(**tensors))
        except Exception as error:  # a guide may raise anything
            return (
                f"The guide {name!r} cannot run on a minibatch of {batch} of {size} units"
                f" ({one_line(error)}); {cure}, or fit all data (batch_size=None)."
            )
    scales = {n["name"]: float(torch.as_tensor(n["scale"]).max()) for n in theirs}
    for node in own:
        site, scale = node["name"], float(torch.as_tensor(node["scale"]).max())
        if site in scales and abs(scale - scales[site]) > 1e-6 * scales[site]:
            return (
                f"On a minibatch of {batch} of {size} units the guide {name!r} scales the site"
                f" {site!r} by {scale:g}, the program by {scales[site]:g}, so its ELBO would be"
                f" wrong; {'' if isinstance(guide, AutoGuide) else 'in the guide '}{cure}."
            )
    return ""


def _cure(
    program: Callable[..., Any], guide: Callable[..., Any], tensors: Mapping[str, Any], size: int
) -> str:
    if not isinstance(guide, AutoGuide):
        return (
            f"write pyro.plate(name, {size}, subsample=index) with index=None among its arguments"
        )
    kind = type(guide).__name__
    if "create_plates" not in inspect.signature(type(guide)).parameters:
        return f"{kind} has no q of some rows: pass guide=AutoNormal with create_plates="
    with seeded(0), torch.no_grad(), poutine.block():
        nodes = samples(poutine.trace(program).get_trace(**tensors))
    frames = [f for n in nodes for f in n["cond_indep_stack"] if f.vectorized]
    name = next((f.name for f in frames if f.size == len(tensors["index"])), "row")
    names = ", ".join(k for k in tensors if k != "index")
    return (
        f"pass guide=functools.partial({kind}, create_plates=lambda {names}, index=None:"
        f" pyro.plate({name!r}, {size}, subsample=index))"
    )
