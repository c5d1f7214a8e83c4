"""The context of all fits and draws: no global parameter store, one dtype, owned weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import nn

from zoo.density.log_density import default_dtype
from zoo.errors import ProgramError
from zoo.user_models.discover import discover
from zoo.user_models.lift_params import LiftedProgram

__all__ = ["as_module", "session", "trainable"]


@contextmanager
def session(dtype: torch.dtype | None) -> Iterator[None]:
    """Set the default dtype and module-local parameters; leave the global store unchanged.

    Pyro's warnings about NaN are silenced: the loop stops on a non-finite loss and names the site
    itself.
    """
    store = pyro.get_param_store()
    with (
        default_dtype(dtype),
        pyro.settings.context(module_local_params=True),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
        before = set(store.keys())
        try:
            yield
        finally:
            for name in set(store.keys()) - before:
                del store[name]


def as_module(
    function: Callable[..., Any], tensors: Mapping[str, Any], dtype: torch.dtype | None
) -> nn.Module:
    """Return a program or guide as a module that owns all of its trainable values.

    Under module-local parameters `pyro.param` and `pyro.module` in a plain function are silently
    never trained, so a plain function is lifted. A module is returned unchanged.

    Raises:
        ProgramError: parameters that cannot be owned, with the cure.
    """
    if isinstance(function, nn.Module):
        return function
    kind = dtype or torch.float64
    lifted, _ = discover(function, tensors, kind)
    return LiftedProgram(function, lifted, kind)


def trainable(program: Any, *, learns: bool, name: str) -> dict[str, nn.Parameter]:
    """Return the program's own trainable weights.

    Raises:
        ProgramError: there are some but the entry does not say `learns=True`: they would stay at
            their random initial values.
    """
    if not isinstance(program, nn.Module):
        return {}
    weights = {n: p for n, p in program.named_parameters() if p.requires_grad}
    if weights and not learns:
        raise ProgramError(
            f"The program of {name!r} has {len(weights)} trainable weights ({next(iter(weights))},"
            " ...) but its entry says learns=False; set learns=True to train them, or freeze them"
            " with requires_grad_(False)."
        )
    return weights
