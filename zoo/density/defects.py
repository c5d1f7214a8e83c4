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
from zoo.errors import ProgramError

__all__ = ["called_modules", "refuse_training_layers", "refuse_weighted_sites"]

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
