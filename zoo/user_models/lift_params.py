"""Run existing Pyro code without a global parameter store: a module owns its parameters.

With `pyro.settings.set(module_local_params=True)`, `pyro.param` and `pyro.module` inside a plain
function are silently never trained. A `LiftedProgram` finds them in one run, owns fresh copies,
and answers the statements with these.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.nn
import torch
from pyro.distributions import Categorical, Delta, DiscreteHMM, Unit
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to

from zoo.density.nodes import base_of
from zoo.errors import ProgramError
from zoo.user_models.nested import Nested
from zoo.user_models.networks import (
    fixed_on_purpose,
    own,
    owned_copies,
    standing_in,
    trainable_modules,
    variable_of,
)
from zoo.user_models.signature import Signature
from zoo.user_models.surroundings import OneType, plain_sites, sized_plates
from zoo.user_models.units import Units

__all__ = ["SHARED_CURE", "TWICE", "Lifted", "LiftedProgram", "Typed", "refuse_shared"]

DIVIDER = "$$$"  # Pyro's mark between the name of a pyro.module and the name of its parameter
_MODULE_CODE = pyro.primitives.module.__code__


@dataclass
class Lifted:
    """What one run of a program asked of its surroundings.

    Attributes:
        values, constraints: its `pyro.param` statements.
        nets: the networks of `pyro.module` and the modules that are called inside.
        frozen: names of networks that stock Pyro would not train.
        called: the modules that were called, those inside networks too.
        unregistered: how the author writes the networks among `frozen` that look trainable.
        held: values of parameters of a reparameterization; any value gives the same posterior.
        nested: how its arguments are put together.
        one_type: whether its numbers have to be brought to one type.
        points: whether latent point sites are deterministic, as they are in a program.
        sizes: of the plates declared without one.
        reparameterized: supports of the sites that a reparameterization made deterministic.
        auxiliary: the latent sites it drew in their place.
        plain: whether to run without reparameterizations.
        reads: statements that take the value of a latent site out of torch, with the sites.
        units: the plates of its rows, None if it runs on all of its data only.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    constraints: dict[str, Any] = field(default_factory=dict)
    nets: dict[str, nn.Module] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    called: set[nn.Module] = field(default_factory=set)
    unregistered: dict[str, str] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    nested: Nested = field(default_factory=Nested)
    one_type: bool = False
    points: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    reparameterized: dict[str, Any] = field(default_factory=dict)
    auxiliary: set[str] = field(default_factory=set)
    plain: bool = False
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    units: Units | None = None

    @property
    def trained(self) -> set[nn.Module]:
        """The modules with weights that are trained."""
        nets = (net for name, net in self.nets.items() if name not in self.frozen)
        return {module for net in nets for module in trainable_modules(net)}

    @contextmanager
    def around(self, dtype: torch.dtype) -> Iterator[None]:
        """Run the program with what it needs."""
        with ExitStack() as stack:
            stack.enter_context(pyro.settings.context(module_local_params=True))
            stack.enter_context(sized_plates(self.sizes))
            if self.one_type:
                stack.enter_context(OneType(dtype))
            if self.plain:
                stack.enter_context(plain_sites())
            yield


class Typed(Messenger):
    """Cast distributions created outside the program to the entry's dtype.

    They have torch's default dtype at the time of their creation. Observed whole
    numbers and flags become floats where the distribution computes with them.
    """

    dtype: torch.dtype
    points = one_type = False

    def _pyro_sample(self, msg: Any) -> None:
        msg["fn"] = _cast(msg["fn"], self.dtype)
        if self.one_type:
            msg["fn"] = _of_one_type(msg["fn"], self.dtype)
        base = base_of(msg["fn"])
        value = msg["value"]
        if not msg["is_observed"]:
            if self.points and isinstance(base, Delta) and not isinstance(base, Unit):
                point = msg["fn"].sample() if value is None else value
                msg["value"], msg["is_observed"], msg["infer"] = (
                    point,
                    True,
                    {**msg["infer"], "_deterministic": True},
                )
        elif isinstance(value, int | float):
            msg["value"] = torch.as_tensor(value, dtype=self.dtype)
        elif isinstance(value, Tensor) and value.dtype != self.dtype:
            counts = isinstance(base, Categorical | Delta | DiscreteHMM)
            if value.dtype.is_floating_point or not (counts or value.dtype.is_complex):
                msg["value"] = value.to(self.dtype)


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


def _of_one_type(fn: Any, dtype: torch.dtype) -> Any:
    """Return a distribution that is not of torch or Pyro with a log density of one type.

    It may compute with buffers of a module, which no cast of its own tensors reaches.
    """
    if type(fn).__module__.startswith(("torch.distributions.", "pyro.distributions.")):
        base = vars(fn).get("base_dist")  # of an event, a mask, an expansion
        if base is not None and (inner := _of_one_type(base, dtype)) is not base:
            fn = copy.copy(fn)
            vars(fn)["base_dist"] = inner
        return fn
    fn, log_prob = copy.copy(fn), fn.log_prob

    def of_one_type(value: Tensor) -> Tensor:
        with OneType(dtype):
            out: Tensor = log_prob(value)
        return out

    vars(fn)["log_prob"] = of_one_type
    return fn


class _Answer(Typed):
    """Answer parameter statements with the tensors of a `LiftedProgram`."""

    def __init__(
        self, values: Mapping[str, Tensor], lifted: Lifted, owner: nn.Module, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.values, self.nets, self.owner, self.dtype = values, lifted.nets, owner, dtype
        self.points, self.held = lifted.points, lifted.held
        self.one_type = lifted.one_type

    def _pyro_param(self, msg: Any) -> None:
        if is_local(msg):
            return
        name = msg["name"]
        if name in self.held:
            answer(msg, self.held[name].to(self.dtype))
        elif DIVIDER in name:
            net = network_on_stack(name)
            if self.nets.get(name.split(DIVIDER)[0]) is not net and not any(
                net is part for part in self.owner.modules()
            ):
                raise ProgramError(NEW_NET.format(name.split(DIVIDER)[0]))
            answer(msg, msg["args"][1])
        elif name in self.values:
            answer(msg, self.values[name])
        else:
            raise ProgramError(
                f"pyro.param({name!r}) appears in some runs only, so it could be left untrained;"
                " call it in every run."
            )


NEW_NET = (
    "pyro.module({0!r}, ...) registers a network built anew in every run, which would never be"
    " trained; build it once outside the function."
)


def is_local(msg: Any) -> bool:
    """Whether the statement comes from a `PyroModule`, which owns the parameter already."""
    return getattr(msg["fn"], "__module__", "") == "pyro.nn.module"


def answer(msg: Any, value: Any) -> None:
    msg["value"], msg["done"], msg["stop"] = value, True, True


def network_on_stack(name: str) -> nn.Module:
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


class LiftedProgram(nn.Module):
    """A Pyro program or guide that owns its parameters; `program(**tensors, index=None)`.

    It is a plain `nn.Module`, so that the sites of an inner `PyroModule` keep their names.

    Args:
        model: function, `nn.Module` or `PyroModule`; modules are copied, so that every build
            starts from the same weights.
        lifted: what `discover` found in it.
        dtype: floating dtype of the parameters.
        rows: how many rows its data have, if it has rows.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        lifted: Lifted,
        dtype: torch.dtype,
        *,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self._rows = rows
        self._signature, self._dtype, self._lifted = Signature.of(model), dtype, lifted
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
        copies = owned_copies(lifted.nets, dtype)
        self.nets = nn.ModuleDict({self._originals[name][0]: net for name, net in copies.items()})
        # a network that is held fixed may contain one that is trained
        free = {
            p
            for name, net in copies.items()
            if name not in lifted.frozen
            for p in net.parameters()
        }
        for name in lifted.frozen:
            for weight in copies[name].parameters():
                weight.requires_grad_(weight.requires_grad and weight in free)
        if isinstance(model, nn.Module):
            self.inner = own(model, dtype)
        else:
            self._function = model
        # a backbone in evaluation mode stays in it while the rest is trained
        self._modes = [(part, part.training) for part in self.modules() if part is not self]

    @property
    def counts_rows(self) -> bool:
        """Whether its plate counts the rows that it is given, as `pyro.plate(name, len(x))`."""
        return self._lifted.units is not None and not self.takes_index

    @property
    def takes_index(self) -> bool:
        """Whether the program can be given an explicit minibatch."""
        return self._signature.takes_index

    @property
    def asked(self) -> Lifted:
        """What the program asks of its surroundings."""
        return self._lifted

    def train(self, mode: bool = True) -> LiftedProgram:
        """Put every network into the mode it was given in, or into evaluation mode."""
        super().train(mode)
        for part, given in self._modes if mode else ():
            part.training = given
        return self

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name: of `pyro.module`, of a variable, or of an attribute."""
        found: dict[str, nn.Module] = {}
        for name, (key, net) in self._originals.items():
            function = None if "inner" in self._modules else self._function
            found[variable_of(function, net) or name] = self.nets[key]
        if "inner" in self._modules:
            children = dict(self.inner.named_children())
            found |= children or {type(self.inner).__name__: self.inner}
        return found

    def registered(self) -> dict[str, nn.Module]:
        """Return the networks by the names that `pyro.module` gives them."""
        return {name: self.nets[key] for name, (key, _) in self._originals.items()}

    def name_of(self, key: str) -> str:
        """Return how the author calls a value of `state_dict`, also one of another version."""
        home, _, rest = key.partition(".")
        if home == "lifted":
            names = {short: name for name, short in self._keys.items()}
            return f"pyro.param({names.get(rest, rest.partition('_')[2])!r})"
        if home == "inner":
            return repr(rest)
        number, _, rest = rest.partition(".")
        net = (
            next((n for n, net in self.networks().items() if net is self.nets[number]), "")
            if number in self.nets
            else ""
        )
        return f"{rest!r} of {f'the network {net!r}' if net else 'a further network'}"

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

    def own_values(self) -> dict[str, Tensor]:
        """Return the values that the module itself holds beside its networks, constrained."""
        if "inner" not in self._modules:
            return {}
        bare = [
            k.removesuffix("_unconstrained") for k, _ in self.inner.named_parameters("", False)
        ]
        return {name: getattr(self.inner, name) for name in bare}

    def forward(self, *args: Any, **tensors: Any) -> Any:
        """Run the program once with the parameters of this module."""
        model = self.inner if "inner" in self._modules else self._function
        tensors = {**dict(zip(self._signature.names, args, strict=False)), **tensors}
        with ExitStack() as stack:
            stack.enter_context(self._lifted.around(self._dtype))
            if self._originals:
                stack.enter_context(fixed_on_purpose())
            units = self._lifted.units
            if units is not None:
                index, total = tensors.get("index"), self._rows or units.size
                rows = units.given(tensors, total if index is None else len(index))
                stack.enter_context(
                    units.plates_of(rows, total, index, takes_index=self.takes_index)
                )
            for key, net in self._originals.values():
                stack.enter_context(standing_in(net, self.nets[key]))
            stack.enter_context(_Answer(self.parameter_values(), self._lifted, self, self._dtype))
            return self._signature.call(model, self._lifted.nested.assemble(tensors))


def refuse_shared(program: Lifted, guide: Lifted) -> None:
    """Refuse what is trained and used in both: in Pyro it is one thing, here it would be two.

    Raises:
        ProgramError: the first such parameter or network, with the cure.
    """
    for name in guide.values:
        if name in program.values:
            raise ProgramError(
                f"pyro.param({name!r}) {TWICE} Give the guide a parameter of another name, or fix"
                " the value in one of the two."
            )
    used = program.called & guide.called & (program.trained | guide.trained)
    theirs = {net for name, net in program.nets.items() if name not in program.frozen}
    for name, net in guide.nets.items():
        whole = net in theirs and name not in guide.frozen
        if whole or not used.isdisjoint(net.modules()):
            written = guide.unregistered.get(name) or name
            raise ProgramError(f"The network {written!r} {TWICE} {SHARED_CURE}")


SHARED_CURE = (
    "Give the guide a network of its own and register in each by pyro.module what only it uses,"
    " or fix the weights by requires_grad_(False)."
)
TWICE = (
    "is trained in the program and in the guide; each would get a copy of its own, and the ELBO"
    " would exceed that of the pair as written."
)
