"""What a program written for stock Pyro asks of its surroundings, found by running it twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro.nn.module
import torch
from pyro import poutine
from pyro.infer.reparam.reparam import Reparam
from pyro.nn.module import PyroModule
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from zoo.density.faults import as_program_error
from zoo.density.nodes import base_of, is_subsample
from zoo.density.sites import default_dtype, no_validation, samples, trace_program
from zoo.errors import ProgramError
from zoo.user_models.lift_params import (
    DIVIDER,
    NEW_NET,
    Lifted,
    Typed,
    answer,
    is_local,
    network_on_stack,
)
from zoo.user_models.nested import Nested
from zoo.user_models.networks import (
    fixed_on_purpose,
    give_stores,
    name_where_called,
    own,
    owned_copy,
    standing_in,
    trainable_modules,
)
from zoo.user_models.signature import Signature
from zoo.user_models.surroundings import Reads, is_about_types, mark

__all__ = ["discover", "refuse_own_subsamples", "reparameterized"]

_CONTEXT = pyro.nn.module._Context


class _Collector(Typed):
    """Note every parameter statement and module, and answer with its initial value."""

    def __init__(self, lifted: Lifted, owner: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.lifted, self.dtype, self.points = lifted, dtype, lifted.points
        self.owned = set(owner.modules()) if isinstance(owner, nn.Module) else set()
        self.trained: set[nn.Module] = set(self.owned)
        self.inside = set(self.owned)
        self.stack = ExitStack()

    def __enter__(self) -> Any:
        self.stack.enter_context(self._modules_noted())
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        self.stack.close()
        return super().__exit__(*error)

    @contextmanager
    def _modules_noted(self) -> Iterator[None]:
        """Note modules that are called: Pyro modules by their context, others by a hook."""
        before = _CONTEXT.__enter__

        def enter(context: Any) -> None:
            owner = sys._getframe(1).f_locals.get("self")
            if isinstance(owner, PyroModule):
                give_stores(owner)
                if not context.active:
                    self._use(owner, trained=True)
            before(context)

        handle = register_module_forward_pre_hook(lambda module, _: self._called(module))
        _CONTEXT.__enter__ = enter
        try:
            yield
        finally:
            _CONTEXT.__enter__ = before
            handle.remove()

    def _called(self, net: nn.Module) -> None:
        """Note a module that is called; a Pyro module is noted by its context."""
        self.lifted.called.add(net)
        if net not in self.inside and not isinstance(net, PyroModule):
            self._use(net, trained=False)

    def _use(self, net: nn.Module, *, trained: bool) -> None:
        """Own a module that is called inside; one without numbers of its own needs no owner."""
        numbers = (*net.parameters(), *net.buffers())
        if net in (self.trained if trained else self.inside) or not numbers:
            return
        key = f"module {len(self.lifted.nets)}"
        if not trained:
            self.lifted.frozen.add(key)
            # in evaluation mode, or without gradients, it is fixed on purpose
            if net.training and torch.is_grad_enabled():
                self.lifted.unregistered[key] = name_where_called(net)
        self._register(key, net, trained=trained)

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if is_subsample(msg["fn"]):
            return
        inner = _reparameterization()
        if inner is not None:
            site = inner["name"]
            if msg["name"] != site and not msg["is_observed"]:
                self.lifted.auxiliary.add(msg["name"])
                self.lifted.reparameterized[site] = getattr(inner["fn"], "support", None)

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor) and not (msg["is_observed"] or is_subsample(msg["fn"])):
            mark(value, {msg["name"]})

    def _pyro_param(self, msg: Any) -> None:
        if is_local(msg):
            return
        name, initial = msg["name"], msg["args"][1] if len(msg["args"]) > 1 else None
        if DIVIDER in name:
            self._register(name.split(DIVIDER)[0], network_on_stack(name))
            answer(msg, initial)
            return
        place = self.lifted.held if _reparameterization() is not None else self.lifted.values
        if name not in place:
            constraint = msg["kwargs"].get("constraint", torch.distributions.constraints.real)
            if initial is None and name in (store := pyro.get_param_store()):
                initial, constraint = store[name], store._constraints[name]
            if initial is None:
                raise ProgramError(
                    f"pyro.param({name!r}) has no initial value, here or in Pyro's parameter"
                    f" store; write pyro.param({name!r}, initial_tensor)."
                )
            value = torch.as_tensor(initial() if callable(initial) else initial).detach()
            place[name] = value.to(torch.get_default_dtype()).clone()
            self.lifted.constraints[name] = constraint
        answer(msg, place[name].clone())

    def _register(self, key: str, net: nn.Module, *, trained: bool = True) -> None:
        if key in self.lifted.nets or net in self.owned:
            return
        if trained:
            self.trained |= set(net.modules())
            self._forget(net)
        self.lifted.nets[key] = net
        if net not in self.inside:
            self.inside |= set(net.modules())
            # The caller's network is usually float32 while data are float64: compute with a copy
            # from here on.
            self.stack.enter_context(standing_in(net, owned_copy(net, self.dtype)))

    def _forget(self, net: nn.Module) -> None:
        """Forget that a network was called before it was registered."""
        for name, known in list(self.lifted.nets.items()):
            if known is net and name in self.lifted.frozen:
                del self.lifted.nets[name]
                self.lifted.frozen.discard(name)
                self.lifted.unregistered.pop(name, None)

    def settle(self) -> None:
        """Keep the unregistered networks of which a part is neither frozen nor trained."""
        self.lifted.unregistered = {
            key: name
            for key, name in self.lifted.unregistered.items()
            if set(trainable_modules(self.lifted.nets[key])) - self.trained
        }


def _reparameterization() -> dict[str, Any] | None:
    """Return the message of the site whose reparameterization is running, None outside one."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "apply" and isinstance(frame.f_locals.get("self"), Reparam):
            found: dict[str, Any] = frame.f_locals["msg"]
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return None


def discover(
    model: Callable[..., Any],
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    nested: Nested | None = None,
    *,
    points: bool = False,
    noun: str = "program",
) -> tuple[Lifted, poutine.Trace]:
    """Run the program twice and return what it asks for, and the trace of the first run.

    Args:
        model: the program or guide.
        tensors: its data by flat name.
        dtype: floating type of the run.
        nested: how its arguments are put together.
        points: latent `Delta` sites are deterministic, as in a program they are.
        noun: what it is called in errors.

    Raises:
        ProgramError: the program fails, draws its own random subsample, or its parameters cannot
            be owned.
    """
    start = Lifted(nested=nested or Nested(), points=points)
    try:
        runs = _runs(model, tensors, dtype, start, noun)
    except Exception as error:
        if not is_about_types(error.__cause__ or error):
            raise
        start.one_type = True
        try:
            runs = _runs(model, tensors, dtype, start, noun)
        except Exception:
            raise error from error.__cause__
    if not start.one_type and _mixes_types(runs[0][1]):
        start.one_type = True
        try:
            runs = _runs(model, tensors, dtype, start, noun)
        except ProgramError:  # the density, built later, says what it mixes
            start.one_type = False
    (first, trace), (second, _) = runs
    if first.reparameterized and first.values.keys() | first.nets.keys():
        # what a site is would depend on weights that every fit learns anew
        start.plain = True
        (first, trace), (second, _) = _runs(model, tensors, dtype, start, noun)
    for name, net in first.nets.items():
        if second.nets.get(name) is not net:
            raise ProgramError(NEW_NET.format(name))
    for name, value in first.values.items():
        if name not in second.values or second.values[name].shape != value.shape:
            raise ProgramError(
                f"pyro.param({name!r}) appears or changes shape from run to run; call it in every"
                " run with one shape."
            )
    first.reads = second.reads
    return first, trace


def _mixes_types(trace: poutine.Trace) -> bool:
    """Whether the density of a site, not the program, brings two types of numbers together."""
    try:
        with torch.no_grad():
            trace.copy().compute_log_prob()
    except Exception as error:  # the density is built later, with sentences for other faults
        return is_about_types(error)
    return False


def _runs(
    model: Callable[..., Any],
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    start: Lifted,
    noun: str,
) -> list[tuple[Lifted, poutine.Trace]]:
    signature = Signature.of(model)
    owned = own(model, dtype)
    runs: list[tuple[Lifted, poutine.Trace]] = []
    sizes: dict[str, int] = {}
    for seed in (0, 1):
        lifted = Lifted(
            nested=start.nested,
            points=start.points,
            one_type=start.one_type,
            plain=start.plain,
            sizes=sizes,
        )

        def once(*, _lifted: Lifted = lifted, **given: Any) -> Any:
            collecting = _Collector(_lifted, owned, dtype)
            with fixed_on_purpose(), _lifted.around(dtype), collecting as collector:
                out = signature.call(owned, _lifted.nested.assemble(given))
                collector.settle()
                return out

        reads = Reads()
        with default_dtype(dtype), ExitStack() as stack:
            if seed:
                stack.enter_context(no_validation())
                stack.enter_context(reads)
            try:
                trace = trace_program(once, tensors, seed=seed)
            except Exception as error:
                raise as_program_error(error, "run on its data", noun) from error
        lifted.reads = reads.found
        sizes = sizes or _sizes(trace)
        lifted.sizes = sizes
        runs.append((lifted, trace))
    return runs


def _sizes(trace: poutine.Trace) -> dict[str, int]:
    """Return the sizes of plates declared without one, from the shapes of their sites."""
    found: dict[str, int] = {}
    for node in samples(trace):
        shape = node["fn"].batch_shape
        for frame in node["cond_indep_stack"]:
            if frame.size == -1 and frame.dim is not None and len(shape) >= -frame.dim:
                found[frame.name] = max(found.get(frame.name, 1), shape[frame.dim])
    return found


def reparameterized(lifted: Lifted, trace: poutine.Trace) -> dict[str, Any]:
    """Return the sites a reparameterization made deterministic, with the author's supports."""
    nodes = {n["name"]: n for n in samples(trace)}
    return {
        name: support
        for name, support in lifted.reparameterized.items()
        if name in nodes
        and nodes[name]["is_observed"]
        and isinstance(base_of(nodes[name]["fn"]), pyro.distributions.Delta)
    }


def refuse_own_subsamples(trace: poutine.Trace) -> None:
    """Reject plates that draw random rows of their own.

    Raises:
        ProgramError: the first such plate, with the cure.
    """
    for node in trace.nodes.values():
        fn = node.get("fn")
        if is_subsample(fn) and fn.subsample_size is not None and fn.subsample_size < fn.size:
            name = node["name"]
            raise ProgramError(
                f"Plate {name!r} draws its own random subsample of {fn.subsample_size} of"
                f" {fn.size} rows, so the posterior would be a different one in every run; add an"
                f" argument index=None to the model, write pyro.plate({name!r}, {fn.size},"
                " subsample=index), index the data outside, and pass batched=[...]."
            )
