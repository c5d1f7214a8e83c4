"""Programs whose log density is random, depends on the minibatch, or is another posterior's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from zoo.density.sites import samples
from zoo.distributions.circular import is_moved_angle, is_sphere
from zoo.errors import ProgramError

__all__ = [
    "called_modules",
    "refuse_training_layers",
    "refuse_weighted_sites",
    "refuse_without_bijection",
]

DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def called_modules() -> Iterator[list[nn.Module]]:
    """Collect every module that is called in the block, wherever it is defined."""
    found: list[nn.Module] = []

    def note(module: nn.Module, arguments: Any) -> None:
        found.append(module)

    hook = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def refuse_training_layers(modules: Sequence[nn.Module]) -> None:
    """Reject layers that behave differently in training mode and are in it.

    Raises:
        ProgramError: dropout, whose density is another number at every call, or normalization by
            statistics of the batch, under which the rows depend on each other.
    """
    for module in modules:
        if not module.training:
            continue
        kind = type(module).__name__
        if isinstance(module, DROPOUT) and module.p > 0:
            raise ProgramError(
                f"The program calls {kind}(p={module.p:g}) in training mode, so its log density is"
                " another number at every call; call .eval() on that network first, or make the"
                " noise a pyro.sample site."
            )
        if isinstance(module, BATCH_NORM):
            raise ProgramError(
                f"The program calls {kind} in training mode, so the rows of the data depend on"
                " each other and on the minibatch; call .eval() on that network first, or use"
                " LayerNorm or GroupNorm."
            )


def refuse_weighted_sites(trace: poutine.Trace) -> None:
    """Reject latent sites whose term is weighted on all data, as by `poutine.scale`.

    Raises:
        ProgramError: the density then belongs to no posterior of the program, and its ELBO can
            exceed the evidence.
    """
    for node in samples(trace):
        scale = float(torch.as_tensor(node["scale"]).max()) if not node["is_observed"] else 1.0
        if abs(scale - 1.0) > 1e-9:
            raise ProgramError(
                f"The term of the latent site {node['name']!r} is weighted by {scale:.4g}"
                " (poutine.scale), so the density belongs to no posterior and its ELBO can exceed"
                " the evidence; leave the weight out, and weigh the KL by the objective of the fit"
                " if that is meant."
            )


def refuse_without_bijection(latent: Sequence[dict[str, Any]]) -> None:
    """Reject latent sites whose support is not that of a proper density, or has no bijection.

    Raises:
        ProgramError: the first transformed angle, direction on a sphere, or value without a
            number.
    """
    for node in latent:
        name, fn = node["name"], node["fn"]
        if is_moved_angle(fn):
            raise ProgramError(
                f"Latent site {name!r} is a transformed angle, whose density repeats with every"
                " turn and has no integral; sample the angle itself, and transform its value"
                " after that."
            )
        if is_sphere(fn.support):
            raise ProgramError(
                f"Latent site {name!r} is a direction on a sphere, for which there is no bijection"
                " from unconstrained space; give it a ProjectedNormal prior and run the model"
                f" under poutine.reparam(config={{{name!r}: ProjectedNormalReparam()}}), or give"
                " an angle a VonMises prior."
            )
        if node["value"].dtype.is_floating_point and bool((~torch.isfinite(node["value"])).any()):
            raise ProgramError(
                f"The support of latent site {name!r} ({fn.support}) has no bijection that gives"
                " numbers, e.g. since torch states an infinite bound; use a distribution whose"
                " support is a half-line or a finite interval, or transform a Uniform by hand."
            )
