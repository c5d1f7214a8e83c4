"""Programs whose log density is random, depends on the minibatch, or is another posterior's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from zoo.density.sites import samples
from zoo.distributions.circular import is_moved_angle, is_sphere
from zoo.errors import ProgramError
from zoo.types import Data

__all__ = [
    "called_modules",
    "nothing_overwritten",
    "refuse_training_layers",
    "refuse_weighted_sites",
    "refuse_without_bijection",
]

KL_WEIGHT = (
    "If a weighted KL is meant, it is an objective of the amortized families (amortize= and"
    " objective='beta[beta=0.5]'); a guide of your own is fitted by the ELBO."
)

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


class _Versions(Messenger):
    """Note how often each latent value had been written into when it was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.latent: dict[str, tuple[Tensor, int]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] and isinstance(value, Tensor):
            self.latent[msg["name"]] = value, value._version


@contextmanager
def nothing_overwritten(data: Data) -> Iterator[Messenger]:
    """Reject a program, run inside the yielded handler, that overwrites latent values or data.

    A latent site's term would then be that of other numbers than those drawn, and every run would
    see other data. Data that are written to again with the numbers they have are accepted.

    Raises:
        ProgramError: the first such site or data.
    """
    given = {k: v for k, v in data.train.items() if isinstance(v, Tensor)}
    before = {k: (v._version, v.clone()) for k, v in given.items()}
    noted = _Versions()
    yield noted
    for name, (value, version) in noted.latent.items():
        if value._version != version:
            raise ProgramError(
                f"The program writes into the value of the latent site {name!r} in place, so its"
                " density would be that of other numbers than those drawn; write into a copy, such"
                " as value.clone()."
            )
    for name, value in given.items():
        version, copy = before[name]
        if value._version != version and not torch.equal(value, copy):
            raise ProgramError(
                f"The program writes into its data {name!r} in place, so every run sees other"
                f" numbers; write into a copy, such as {name}.clone()."
            )


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
    """Reject sites weighted by a part of their plate, and latent ones weighted by `poutine.scale`.

    Raises:
        ProgramError: the density then belongs to no posterior of the program, and its ELBO can
            exceed the evidence.
    """
    for node in samples(trace):
        for frame in node["cond_indep_stack"]:
            if frame.full_size is not None and frame.size < frame.full_size:
                raise ProgramError(
                    f"Plate {frame.name!r} is given {frame.size} of its {frame.full_size} rows"
                    f" (subsample=), so each term of site {node['name']!r} counts"
                    f" {frame.full_size / frame.size:.4g} times and the density is that of no data"
                    f" set; give all rows, or write pyro.plate({frame.name!r}, {frame.full_size},"
                    " subsample=index) with an argument index=None and pass batched=[...]."
                )
        scale = float(torch.as_tensor(node["scale"]).max()) if not node["is_observed"] else 1.0
        if abs(scale - 1.0) > 1e-9:
            raise ProgramError(
                f"The term of the latent site {node['name']!r} is weighted by {scale:.4g}"
                " (poutine.scale), so the density belongs to no posterior and its ELBO can exceed"
                f" the evidence; leave the weight out. {KL_WEIGHT}"
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
