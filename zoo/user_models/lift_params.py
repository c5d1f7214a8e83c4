"""Run existing Pyro code without a global parameter store: a module owns its parameters.

With `pyro.settings.set(module_local_params=True)`, `pyro.param` and `pyro.module` inside a plain
function are silently never trained. A `LiftedProgram` finds them in one run, owns fresh copies,
and answers the statements with these.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.nn
import torch
from pyro import poutine
from pyro.nn.module import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to

from zoo.density.log_density import default_dtype, trace_program
from zoo.errors import DataError, ProgramError
from zoo.user_models.signature import Signature

__all__ = ["Lifted", "LiftedProgram", "discover"]

_DIVIDER = "$$$"  # Pyro's separator between the names of a pyro.module and of its parameter
_MODULE_CODE = pyro.primitives.module.__code__


@dataclass
class Lifted:
    """The `pyro.param` statements and `pyro.module` networks of one run of a program."""

    values: dict[str, Tensor] = field(default_factory=dict)
    constraints: dict[str, Any] = field(default_factory=dict)
    nets: dict[str, nn.Module] = field(default_factory=dict)


class _Typed(Messenger):
    """Cast distributions created outside the program to the entry's dtype.

    They have torch's default dtype at the time of their creation.
    """

    dtype: torch.dtype

    def _pyro_sample(self, msg: Any) -> None:
        msg["fn"] = _cast(msg["fn"], self.dtype)
        if msg["is_observed"] and isinstance(msg["value"], int | float):
            msg["value"] = torch.as_tensor(msg["value"], dtype=self.dtype)


def _cast(fn: Any, dtype: torch.dtype) -> Any:
    """Return a distribution with its floating tensors cast; itself if nothing changes."""
    changed = {}
    for name, value in vars(fn).items() if isinstance(fn, Distribution) else ():
        if isinstance(value, Tensor) and value.dtype.is_floating_point and value.dtype != dtype:
            changed[name] = value.to(dtype)
        elif isinstance(value, Distribution):
            inner = _cast(value, dtype)
            if inner is not value:
                changed[name] = inner
    if not changed:
        return fn
    fn = copy.copy(fn)
    vars(fn).update(changed)
    return fn


class _Collector(_Typed):
    """Record every parameter statement and answer it with its initial value."""

    def __init__(self, lifted: Lifted, owner: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.lifted, self.dtype = lifted, dtype
        self.inside = set(owner.modules()) if isinstance(owner, nn.Module) else set()
        self.stack = ExitStack()

    def __exit__(self, *error: Any) -> Any:
        self.stack.close()
        return super().__exit__(*error)

    def _pyro_param(self, msg: Any) -> None:
        if _is_local(msg):
            return
        name, initial = msg["name"], msg["args"][1] if len(msg["args"]) > 1 else None
        if _DIVIDER in name:
            self._register(name.split(_DIVIDER)[0], _network_on_stack(name))
            _answer(msg, initial)
            return
        if name not in self.lifted.values:
            if initial is None:
                raise ProgramError(
                    f"pyro.param({name!r}) has no initial value; write pyro.param({name!r},"
                    " initial_tensor)."
                )
            value = torch.as_tensor(initial() if callable(initial) else initial).detach()
            self.lifted.values[name] = value.to(torch.get_default_dtype()).clone()
            self.lifted.constraints[name] = msg["kwargs"].get(
                "constraint", torch.distributions.constraints.real
            )
        _answer(msg, self.lifted.values[name].clone())

    def _register(self, key: str, net: nn.Module) -> None:
        if key not in self.lifted.nets and net not in self.inside:
            self.lifted.nets[key] = net
            # The caller's network is usually float32 while data are float64: compute with a cast
            # copy from here on.
            self.stack.enter_context(_standing_in(net, copy.deepcopy(net).to(self.dtype)))


class _Answer(_Typed):
    """Answer parameter statements with the tensors of a `LiftedProgram`."""

    def __init__(
        self,
        values: Mapping[str, Tensor],
        nets: Mapping[str, nn.Module],
        owner: nn.Module,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.values, self.nets, self.owner, self.dtype = values, nets, owner, dtype

    def _pyro_param(self, msg: Any) -> None:
        if _is_local(msg):
            return
        name = msg["name"]
        if _DIVIDER in name:
            net = _network_on_stack(name)
            if self.nets.get(name.split(_DIVIDER)[0]) is not net and not any(
                net is part for part in self.owner.modules()
            ):
                raise ProgramError(_NEW_NET.format(name.split(_DIVIDER)[0]))
            _answer(msg, msg["args"][1])
        elif name in self.values:
            _answer(msg, self.values[name])
        else:
            raise ProgramError(
                f"pyro.param({name!r}) appears in some runs only, so it could be left untrained;"
                " call it in every run."
            )


_NEW_NET = (
    "pyro.module({0!r}, ...) registers a network built anew in every run, which would never be"
    " trained; build it once outside the function."
)


def _is_local(msg: Any) -> bool:
    """Whether the statement comes from a `PyroModule`, which already owns the parameter."""
    return getattr(msg["fn"], "__module__", "") == "pyro.nn.module"


def _answer(msg: Any, value: Any) -> None:
    msg["value"], msg["done"], msg["stop"] = value, True, True


def _network_on_stack(name: str) -> nn.Module:
    frame = sys._getframe()
    while frame is not None and frame.f_code is not _MODULE_CODE:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        text = (
            f"Parameter {name!r} looks like one of pyro.module but was not made by it; call"
            " pyro.module(name, net)."
        )
        raise ProgramError(text)
    net: nn.Module = frame.f_locals["nn_module"]
    return net


def discover(
    model: Callable[..., Any], tensors: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Lifted, poutine.Trace]:
    """Run the program twice and return its parameter statements and the trace of the first run.

    Raises:
        ProgramError: the program fails, draws its own random subsample, or its parameters cannot
            be owned.
    """
    signature = Signature.of(model)
    owned = _own(model, dtype)
    runs = []
    for seed in (0, 1):
        lifted = Lifted()

        def once(lifted: Lifted = lifted, **given: Any) -> Any:
            with _local_mode(), _Collector(lifted, owned, dtype):
                return signature.call(owned, given)

        with default_dtype(dtype):
            runs.append((lifted, _guarded(once, tensors, seed)))
    (first, trace), (second, _) = runs
    for name, net in first.nets.items():
        if second.nets.get(name) is not net:
            raise ProgramError(_NEW_NET.format(name))
    for name, value in first.values.items():
        if name not in second.values or second.values[name].shape != value.shape:
            raise ProgramError(
                f"pyro.param({name!r}) appears or changes shape from run to run; call it in every"
                " run with one shape."
            )
    return first, trace


def _guarded(program: Callable[..., Any], tensors: Mapping[str, Any], seed: int) -> poutine.Trace:
    try:
        return trace_program(program, tensors, seed=seed)
    except (ProgramError, DataError):
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        if isinstance(error, ValueError) and ("invalid" in str(error) or "support" in str(error)):
            raise DataError(
                f"The program rejects its data: {text} Check the observed values against the"
                " support."
            ) from error
        raise ProgramError(
            f"The program cannot be run on its data ({type(error).__name__}): {text}"
        ) from error


@contextmanager
def _local_mode() -> Iterator[None]:
    with pyro.settings.context(module_local_params=True):
        yield


class LiftedProgram(nn.Module):
    """A Pyro program or guide that owns its parameters; `program(**tensors, index=None)`.

    It is a plain `nn.Module`, so that the sites of an inner `PyroModule` keep their names.

    Args:
        model: function, `nn.Module` or `PyroModule`; modules are copied, so that every build
            starts from the same weights.
        lifted: what `discover` found in it.
        dtype: floating dtype of the parameters.
    """

    def __init__(self, model: Callable[..., Any], lifted: Lifted, dtype: torch.dtype) -> None:
        super().__init__()
        self._signature, self._dtype = Signature.of(model), dtype
        self._constraints = dict(lifted.constraints)
        self._keys = {
            name: f"p{i}_{''.join(c if c.isalnum() else '_' for c in name)}"
            for i, name in enumerate(lifted.values)
        }
        self.lifted = nn.ParameterDict()
        for name, key in self._keys.items():
            raw = transform_to(self._constraints[name]).inv(lifted.values[name].to(dtype))
            self.lifted[key] = nn.Parameter(raw.detach().clone())
        self._originals = {
            name: (f"n{i}", net) for i, (name, net) in enumerate(lifted.nets.items())
        }
        self.nets = nn.ModuleDict(
            {key: copy.deepcopy(net).to(dtype) for key, net in self._originals.values()}
        )
        if isinstance(model, nn.Module):
            self.inner = _own(model, dtype)
        else:
            self._function = model

    @property
    def takes_index(self) -> bool:
        """Whether the program can be given an explicit minibatch."""
        return self._signature.takes_index

    def parameter_values(self) -> dict[str, Tensor]:
        """Return the current constrained values of the `pyro.param` statements."""
        values = {}
        for name, key in self._keys.items():
            raw = self.lifted[key]
            value = transform_to(self._constraints[name])(raw)
            value = value.view_as(value) if value is raw else value
            value._pyro_unconstrained_param = raw  # required by subsampling plates
            values[name] = value
        return values

    def forward(self, *args: Any, **tensors: Any) -> Any:
        """Run the program once with the parameters of this module."""
        model = self.inner if "inner" in self._modules else self._function
        tensors = {**dict(zip(self._signature.names, args, strict=False)), **tensors}
        nets = {name: net for name, (_, net) in self._originals.items()}
        with ExitStack() as stack:
            stack.enter_context(_local_mode())
            if nets:  # weights held fixed after training are so on purpose
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings(
                    "ignore", message=".*was not registered in the param store"
                )
            for key, net in self._originals.values():
                stack.enter_context(_standing_in(net, self.nets[key]))
            stack.enter_context(_Answer(self.parameter_values(), nets, self, self._dtype))
            return self._signature.call(model, tensors)


def _own(model: Any, dtype: torch.dtype) -> Any:
    """Copy a module.

    Pyro modules made before module-local mode get the empty store that this mode expects.
    """
    if not isinstance(model, nn.Module):
        return model
    module = copy.deepcopy(model).to(dtype)
    for part in module.modules():
        if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
            part._pyro_context.param_state = {"params": {}, "constraints": {}}
    return module


@contextmanager
def _standing_in(net: nn.Module, owned: nn.Module) -> Iterator[None]:
    """Let the user's network compute with the parameters and buffers of its owned copy."""
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for part, ours in zip(net.modules(), owned.modules(), strict=True):
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
