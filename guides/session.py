"""The surroundings every fit and draw runs in: no global parameter store, one dtype, no half-trained guide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from zoo.errors import FitError, ProgramError
from zoo.log_density import default_dtype

__all__ = ["Lifted", "as_module", "session", "trainable"]


@contextmanager
def session(dtype: torch.dtype | None) -> Iterator[None]:
    """Set the default dtype and module-local parameters, and leave the global parameter store as it was found."""
    store = pyro.get_param_store()
    with default_dtype(dtype), pyro.settings.context(module_local_params=True):
        before = set(store.keys())
        try:
            yield
        finally:
            for name in set(store.keys()) - before:
                del store[name]


class _Collect(Messenger):
    """Records the name, the initial value and the constraint of every `pyro.param` statement."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[Any, Any]] = {}

    def _pyro_param(self, msg: Any) -> None:
        name, initial = msg["args"][0], msg["args"][1] if len(msg["args"]) > 1 else None
        initial = initial() if callable(initial) and not isinstance(initial, Tensor) else initial
        constraint = msg["kwargs"].get("constraint", constraints.real)
        if initial is None:
            raise FitError(f"pyro.param({name!r}) has no initial value at its first use; give one.")
        self.found.setdefault(name, (initial, constraint))
        msg["value"], msg["done"] = initial, True


class _Serve(Messenger):
    """Answers every `pyro.param` statement with the value the wrapping module holds."""

    def __init__(self, values: dict[str, Tensor], own: set[int]) -> None:
        super().__init__()
        self.values, self.own = values, own

    def _pyro_param(self, msg: Any) -> None:
        name, initial = msg["args"][0], msg["args"][1] if len(msg["args"]) > 1 else None
        if name not in self.values:
            raise FitError(f"pyro.param({name!r}) appears only in some runs; every parameter must be used in the first run.")
        if "$$$" in name and id(initial) not in self.own:
            raise FitError(
                f"pyro.module makes a new network on every call ({name.split('$$$')[0]!r}); build it once, outside the function."
            )
        msg["value"], msg["done"] = self.values[name], True


class Lifted(PyroModule):
    """A plain Pyro function as a module: its `pyro.param` and `pyro.module` statements become parameters of the module.

    Under module-local parameters both would silently never be trained.
    """

    def __init__(self, function: Callable[..., Any], tensors: dict[str, Any]) -> None:
        super().__init__()
        self.__dict__["function"] = function
        collect = _Collect()
        with torch.random.fork_rng(devices=[]), poutine.block(), collect:
            _run_once(function, tensors)
        self.__dict__["slots"] = {}
        self.__dict__["own"] = set()
        for number, (name, (initial, constraint)) in enumerate(sorted(collect.found.items())):
            slot = f"param_{number}"
            if isinstance(initial, nn.Parameter):
                self.own.add(id(initial))
                parameter = initial
            else:
                start = torch.as_tensor(initial, dtype=torch.get_default_dtype()).detach()
                parameter = nn.Parameter(transform_to(constraint).inv(start).clone())
            self.register_parameter(slot, parameter)
            self.slots[name] = (slot, None if isinstance(initial, nn.Parameter) else constraint)

    @property
    def lifted(self) -> tuple[str, ...]:
        """Names of the lifted parameters."""
        return tuple(self.slots)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function with the module's values."""
        values = {}
        for name, (slot, constraint) in self.slots.items():
            raw = self._parameters[slot]
            values[name] = raw if constraint is None else transform_to(constraint)(raw)
        with _Serve(values, self.own):
            return self.function(*args, **kwargs)


def _run_once(function: Callable[..., Any], tensors: dict[str, Any]) -> None:
    """Run a program or guide once; improper priors cannot be sampled, so latent sites start near unconstrained zero."""
    from zoo.log_density import trace_program

    try:
        function(**tensors)
    except NotImplementedError:
        trace_program(function, tensors)


def as_module(function: Any, tensors: dict[str, Any]) -> nn.Module:
    """Return the program or guide as a module whose parameters are all of its trainable values."""
    return function if isinstance(function, nn.Module) else Lifted(function, tensors)


def trainable(program: Any, *, learns: bool, name: str) -> dict[str, nn.Parameter]:
    """Return the program's own weights to train.

    Raises:
        ProgramError: it has some but the entry does not say `learns=True`: they would stay at their random start.
    """
    if not isinstance(program, nn.Module):
        return {}
    weights = {n: p for n, p in program.named_parameters() if p.requires_grad}
    if weights and not learns:
        raise ProgramError(
            f"The program of {name!r} has {len(weights)} trainable weights ({next(iter(weights))}, ...) but its entry says learns=False; "
            "set learns=True to train them, or freeze them with requires_grad_(False)."
        )
    return weights
