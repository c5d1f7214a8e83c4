"""The signature of a program: the names of its data, and whether it takes minibatches."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.poutine import messenger
from torch import nn

__all__ = ["Signature"]


@dataclass(frozen=True)
class Signature:
    """Argument names of a callable, in order, and whether it takes `index`."""

    names: tuple[str, ...]
    required: frozenset[str]
    positional: frozenset[str]
    open_ended: bool

    @classmethod
    def of(cls, model: Callable[..., Any]) -> Signature:
        """Read the signature of a function or of a module's `forward`, also inside handlers."""
        try:
            parameters = list(inspect.signature(_inside(model)).parameters.values())
        except (TypeError, ValueError):
            return cls((), frozenset(), frozenset(), True)
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return cls(
            names=tuple(p.name for p in named),
            required=frozenset(p.name for p in named if p.default is p.empty),
            positional=frozenset(p.name for p in named if p.kind == p.POSITIONAL_ONLY),
            open_ended=any(p.kind == p.VAR_KEYWORD for p in parameters),
        )

    @property
    def needs_instance(self) -> bool:
        """Whether it is a method that is given without its object."""
        return self.names[:1] == ("self",)

    @property
    def takes_index(self) -> bool:
        """Whether the callable accepts an explicit minibatch."""
        return "index" in self.names

    def call(self, model: Callable[..., Any], tensors: Mapping[str, Any]) -> Any:
        """Call with data by name; a removed required argument (prior predictive) becomes None."""
        given = {k: v for k, v in tensors.items() if k != "index" or self.takes_index}
        if given.get("index", 0) is None and "index" not in self.required:
            del given["index"]
        for name in self.required - set(given):
            given[name] = None
        ahead = [
            given.pop(name) for name in self.names if name in self.positional and name in given
        ]
        return model(*ahead, **given)


def _inside(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return what handlers and decorators wrap, and of a module its `forward`."""
    if isinstance(model, nn.Module):
        return model.forward
    if isinstance(model, messenger._bound_partial):  # keeps its function beside the partial's own
        return _inside(model.func)
    if isinstance(model, functools.partial):
        if model.func is messenger._context_wrap:  # a handler called on a program
            return _inside(model.args[1])
        return functools.partial(_inside(model.func), *model.args, **model.keywords)
    if inspect.ismethod(model):  # its attributes are those of the function, without the instance
        wrapped = getattr(model.__func__, "__wrapped__", None)
        return model if wrapped is None else wrapped.__get__(model.__self__)
    wrapped = getattr(model, "__wrapped__", None)
    return _inside(wrapped) if callable(wrapped) and not hasattr(model, "__signature__") else model
