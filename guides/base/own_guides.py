"""Guides of a user's own, which are Pyro programs: their sites, and those scored as given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from guides.types import Stop
from zoo.density.guide_scales import fault_of_scales
from zoo.density.guide_sites import Wanted, fault_of_sites
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, listed

__all__ = ["AS_GIVEN", "as_given", "check_scales", "check_sites", "is_given", "on_charts"]

AS_GIVEN = Stop(
    status="ok", step=0, sentence="No step was taken: the guide is scored as it was given."
)


def as_given(program: Any, guide: Any, *, trained: bool) -> Stop:
    """Return the end of a fit without a step; of values nobody calls trained, it says which.

    Args:
        program: the program.
        guide: the guide.
        trained: whether the caller said that both have been trained.
    """
    if trained:
        return AS_GIVEN
    owners = (program, guide)
    values = [n for o in owners if hasattr(o, "parameter_values") for n in o.parameter_values()]
    nets = [n for o in owners if hasattr(o, "networks") for n in o.networks()]
    said = AS_GIVEN.sentence
    if values:
        said += (
            f" The initial values of pyro.param {listed(dict.fromkeys(values))} are scored;"
            " trained=True, when the entry is made, takes those of Pyro's parameter store."
        )
    if nets:
        said += (
            f" The networks {listed(dict.fromkeys(nets))} are those that were given, trained or"
            " not."
        )
    return replace(AS_GIVEN, sentence=said)


def is_given(guide: nn.Module, steps: int) -> bool:
    """Return whether a guide is scored as it is: no steps are asked for, or it is frozen."""
    return steps == 0 or (
        any(True for _ in guide.parameters())
        and not any(p.requires_grad for p in guide.parameters())
    )


class _OnCharts(nn.Module):
    """A program whose angles have the charts of a log density; other attributes are its own."""

    def __init__(self, program: Any, density: LogDensity) -> None:
        super().__init__()
        # not registered: the program's weights belong to the program
        self.__dict__["program"], self.__dict__["run"] = program, density.completed(program)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["program"], name)

    def forward(self, *args: Any, **tensors: Any) -> Any:
        """Run the program."""
        return self.__dict__["run"](*args, **tensors)


def on_charts(program: Any, density: LogDensity) -> Any:
    """Return the program for guides made of it: with the charts of its angles.

    Autoguides read supports from the program, and torch calls the support of an angle the real
    line, on which no ELBO is a bound.
    """
    return _OnCharts(program, density) if density.completion.centers else program


def check_sites(
    guide: nn.Module, density: LogDensity, family: str, *, trains: bool = True
) -> None:
    """Compare the guide's sites with the program's; Pyro itself only warns.

    Args:
        guide: the guide.
        density: the log density of the program.
        family: the guide's name, for the message.
        trains: whether the guide is trained, for which it needs a parameter.

    Raises:
        FitError: a missing or a superfluous site, or one of another shape, by name.
    """
    wanted = {s.name: Wanted(tuple(s.shape), s.event_dim) for s in density.sites}
    fault = fault_of_sites(
        guide, density.data.train, wanted, dict.fromkeys(density.discrete), family
    )
    if fault:
        raise FitError(fault)
    if trains and not any(True for _ in guide.parameters()):
        raise FitError(
            f"The guide {family!r} has no trainable parameter; use pyro.param or PyroParam, or"
            " score it as it is by steps=0."
        )


def check_scales(
    program: nn.Module, guide: nn.Module, tensors: Mapping[str, Any], size: int, family: str
) -> None:
    """Compare how program and guide scale each latent site on a minibatch.

    Args:
        program: the program, with its data as arguments.
        guide: the guide.
        tensors: a minibatch, with its `index`.
        size: the number of units.
        family: the guide's name, for the message.

    Raises:
        FitError: the guide cannot run on a minibatch, or scales a site otherwise.
    """
    fault = fault_of_scales(program, guide, tensors, size, family)
    if fault:
        raise FitError(fault)
