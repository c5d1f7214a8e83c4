"""Networks of a user's code: copies that are owned, and the names their author gave them."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pyro.nn.module import PyroModule
from torch import Tensor, nn

from zoo.density.faults import is_author

__all__ = [
    "fixed_on_purpose",
    "give_stores",
    "name_where_called",
    "own",
    "owned_copies",
    "owned_copy",
    "standing_in",
    "trainable_modules",
    "variable_of",
]


def owned_copies(nets: Mapping[str, nn.Module], dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return copies by name; what two networks have in common is one thing in their copies."""
    with _results_detached():
        copies = copy.deepcopy(dict(nets))
    for name, net in nets.items():
        give_stores(copies[name].to(dtype))
        give_stores(net)
    return copies


@contextmanager
def _results_detached() -> Iterator[None]:
    """Copy computed tensors as numbers: transforms keep some of their last call, torch none."""
    before = Tensor.__deepcopy__

    def copied(value: Tensor, memo: dict[int, Any]) -> Any:
        if value.is_leaf or id(value) in memo:
            return before(value, memo)
        memo[id(value)] = found = value.detach().clone()
        return found

    Tensor.__deepcopy__ = copied  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.__deepcopy__ = before  # type: ignore[method-assign]


def trainable_modules(net: nn.Module) -> list[nn.Module]:
    """Return the modules of a network with weights of their own that are not frozen."""
    return [m for m in net.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]


def owned_copy(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a module in the entry's dtype, ready for module-local mode."""
    return owned_copies({"": net}, dtype)[""]


def give_stores(module: nn.Module) -> None:
    """Give Pyro modules made before module-local mode the empty store that mode expects."""
    for part in module.modules():
        if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
            part._pyro_context.param_state = {"params": {}, "constraints": {}}


def own(model: Any, dtype: torch.dtype) -> Any:
    """Copy a module; anything else is returned as it is."""
    return owned_copy(model, dtype) if isinstance(model, nn.Module) else model


@contextmanager
def standing_in(net: nn.Module, owned: nn.Module) -> Iterator[None]:
    """Let the user's network compute with parameters, buffers and mode of our copy of it."""
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    modes: list[tuple[nn.Module, bool]] = []
    try:
        for part, ours in zip(net.modules(), owned.modules(), strict=True):
            modes.append((part, part.training))
            part.training = ours.training
            for home, source in (
                (part._parameters, ours._parameters),
                (part._buffers, ours._buffers),
            ):
                for name, value in source.items():
                    swapped.append((home, name, home[name]))
                    home[name] = value  # type: ignore[assignment]
        yield
    finally:
        for home, name, value in swapped:
            home[name] = value
        for part, mode in modes:
            part.training = mode


@contextmanager
def fixed_on_purpose() -> Iterator[None]:
    """Silence Pyro's warning of registered weights without gradients: they are meant to be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was not registered in the param store")
        yield


def variable_of(function: Any, net: nn.Module) -> str:
    """Return the name of the variable by which a function calls a network, empty if unknown."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    known = {name: cell.cell_contents for name, cell in cells}
    known |= {n: function.__globals__.get(n) for n in code.co_names}
    return next((name for name, value in known.items() if value is net), "")


def name_where_called(net: nn.Module) -> str:
    """Return how the author's code that is running writes a network, empty if unknown.

    It is `encoder` for a variable, and `self.encoder` for an attribute of one.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_author(frame.f_code.co_filename):
        frame = frame.f_back
    while frame is not None and is_author(frame.f_code.co_filename):
        words = frame.f_code.co_names
        known = {n: frame.f_globals[n] for n in words if n in frame.f_globals} | frame.f_locals
        for name, value in known.items():
            if value is net:
                return name
        for name, value in known.items():
            inside = {**getattr(value, "__dict__", {}), **getattr(value, "_modules", {})}
            found = next((n for n in words if inside.get(n) is net), "")
            if found:
                return f"{name}.{found}"
        frame = frame.f_back
    return ""
