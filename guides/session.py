"""The context of all fits and draws: no global parameter store, one dtype, owned weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from torch import nn

from guides.types import FitConfig
from zoo.compiler.compile import Mode
from zoo.compiler.policy import is_recursion
from zoo.density.log_density import LogDensity, default_dtype
from zoo.errors import ProgramError
from zoo.types import Data, ModelEntry
from zoo.user_models.discover import discover
from zoo.user_models.lift_params import LiftedProgram

__all__ = [
    "as_module",
    "compile_recursion",
    "name_of",
    "program_for",
    "refuse_untrained",
    "session",
    "trainable",
    "whole_batches",
]


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


def program_for(trained: Any, entry: ModelEntry, data: Data) -> Any:
    """Return a program with the weights of a trained one, for other data.

    It is built anew: a program knows its number of units, by which minibatches are scaled.
    """
    if not isinstance(trained, nn.Module):
        return trained
    program = as_module(entry.program(data), data.train, entry.dtype)
    program.load_state_dict(trained.state_dict())
    return program.requires_grad_(False).eval()


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
            f"The program of {name!r} has {len(weights)} trainable weights"
            f" ({name_of(program, next(iter(weights)))},"
            " ...) but its entry says learns=False; set learns=True to train them, or freeze them"
            " with requires_grad_(False)."
        )
    return weights


def name_of(owner: Any, key: str) -> str:
    """Return how the author of a program or guide calls a value of its `state_dict`."""
    name: str = getattr(owner, "name_of", repr)(key)
    return name


def refuse_untrained(program: Any, parameters: Sequence[str], name: str) -> None:
    """Reject a function with parameters of its own: nobody owns them, so nobody would train them.

    Raises:
        ProgramError: always in that case.
    """
    if parameters and not isinstance(program, nn.Module):
        raise ProgramError(
            f"The program of {name!r} is a function with the parameter {parameters[0]!r}, which"
            " nobody would train, since its entry says learns=False; set learns=True, or make the"
            " entry with zoo.from_program."
        )


def whole_batches(config: FitConfig, data: Data) -> str:
    """Say that every step reads all rows, if a minibatch is larger than the data."""
    rows, size = data.size, config.batch_size
    if rows is None or size is None or size <= rows:
        return ""
    return f", all {rows} rows in every step, since batch_size={size} is more"


def compile_recursion(density: LogDensity, config: FitConfig) -> None:
    """Compile a density that is a long recursion before a start is searched: a step is longer."""
    if config.compile == "off" or config.batch_size is not None or config.device != "cpu":
        return
    if is_recursion(density.work()):
        density.compile(
            cast(Mode, config.compile), expected_calls=config.steps * config.num_particles
        )
