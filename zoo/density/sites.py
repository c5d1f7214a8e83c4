"""One run of a program: its trace at given points, its sites, and the faults a run reveals."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Independent, Unit
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import broadcast_shape
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor
from torch.distributions import AffineTransform, biject_to, constraints, transform_to

from zoo.density.completion import is_discrete
from zoo.density.faults import as_program_error
from zoo.density.nodes import base_of, is_subsample, share_of
from zoo.distributions.circular import is_sphere
from zoo.errors import DataError, ProgramError
from zoo.seeds import seeded
from zoo.types import Data, Program


def _support_of_a_mixture(constraint: Any) -> Any:
    """Map to the support of a mixture, that of its components; torch registers no bijection."""
    return biject_to(constraint.base_constraint)


for _registry in (biject_to, transform_to):
    _registry.register(constraints.MixtureSameFamilyConstraint, _support_of_a_mixture)


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Set torch's default dtype for trace, fit and draw (float32 would silently mix in)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True, kw_only=True)
class Site:
    """One continuous latent site: its slice of the flat vector, its bijection and its shapes."""

    name: str
    start: int
    stop: int
    unconstrained_shape: torch.Size
    shape: torch.Size
    transform: Any
    event_dim: int
    plates: tuple[str, ...]
    # axis of the minibatch plate in `shape`, counted from the right; None for a global site
    plate_axis: int | None
    unit_plate: str | None = None  # name of that plate

    @property
    def unit_axis(self) -> int:
        """The axis of the units in `unconstrained_shape`, counted from the left."""
        assert self.plate_axis is not None
        return len(self.shape) - self.plate_axis

    def part(self, u: Tensor) -> Tensor:
        """Return this site's unconstrained values `[*batch, *unconstrained_shape]` in flat points.

        Args:
            u: flat points `[*batch, dim]`.
        """
        return u[..., self.start : self.stop].reshape(u.shape[:-1] + self.unconstrained_shape)

    def unit_indices(self) -> Tensor:
        """Return the indices of each unit's values in the flat vector, `[unit, value]`."""
        places = (
            torch.arange(self.start, self.stop)
            .reshape(self.unconstrained_shape)
            .movedim(self.unit_axis, 0)
        )
        return places.reshape(len(places), -1)


def is_identity(transform: Any) -> bool:
    """Whether a bijection leaves every value as it is."""
    while hasattr(transform, "base_transform"):
        transform = transform.base_transform
    if isinstance(transform, AffineTransform):
        loc, scale = torch.as_tensor(transform.loc), torch.as_tensor(transform.scale)
        return bool((loc == 0).all()) and bool((scale == 1).all())
    parts = getattr(transform, "parts", getattr(transform, "transforms", None))
    return parts is not None and all(map(is_identity, parts))


def trace_program(
    program: Program, tensors: Mapping[str, Any], *, seed: int = 0, radius: float = 0.1
) -> poutine.Trace:
    """Run the program once at jittered zeros of the unconstrained space and return its trace.

    Unlike samples from the prior, such points also exist under improper flat priors.
    """

    def start(msg: dict[str, Any]) -> Tensor:
        fn = msg["fn"]
        if is_discrete(fn):
            value: Tensor = fn.sample()
            return value
        if is_sphere(fn.support):  # of a reparameterized site; others are refused later
            return torch.nn.functional.normalize(torch.randn(fn.shape()), dim=-1)
        transform = biject_to(fn.support)
        raw = torch.empty(transform.inverse_shape(fn.shape())).uniform_(-radius, radius)
        return transform(raw)

    with poutine.block(), seeded(seed), InitMessenger(start):
        return poutine.trace(program).get_trace(**tensors)


class MappableEnum(EnumMessenger):
    """Pyro's enumeration handler without its use of `Tensor.data`, which vmap rejects."""

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not isinstance(msg["fn"], TorchDistributionMixin) or value is None:
            return
        shape = value.shape[: value.dim() - msg["fn"].event_dim]
        dim_to_id = msg["infer"].setdefault("_dim_to_id", {})
        dim_to_id.update(self._param_dims.get(msg["name"], {}))
        self._value_dims[msg["name"]] = {
            d: i for d, i in dim_to_id.items() if len(shape) >= -d and shape[d] > 1
        }


@contextmanager
def no_validation() -> Iterator[None]:
    """Disable validation: in a sampler an invalid value must give a density, not an error.

    `LogDensity` has validated the program once.
    """
    with pyro.validation_enabled(False):
        yield


@contextmanager
def numbered_plates() -> Iterator[None]:
    """Let `for i in pyro.plate(name, size)` count in Python.

    Pyro reads each number out of a tensor, which no trace allows.
    """
    before = IndepMessenger.__iter__

    def count(plate: Any) -> Iterator[Any]:
        whole = plate.subsample_size == plate.size > 0
        known = plate._indices
        if whole and (known is None or isinstance(known, Tensor)):
            plate._indices = range(plate.size)
        try:
            yield from before(plate)
        finally:
            plate._indices = known

    IndepMessenger.__iter__ = count
    try:
        yield
    finally:
        IndepMessenger.__iter__ = before


def samples(trace: poutine.Trace) -> list[dict[str, Any]]:
    """Return the sample statements of a trace, without the index draws of plates."""
    return [n for n in trace.nodes.values() if n["type"] == "sample" and not is_subsample(n["fn"])]


def first_trace(program: Program, data: Data) -> poutine.Trace:
    """Run the program under validation, with log probabilities.

    Raises:
        DataError: the program rejects a value.
        ProgramError: the program fails.
    """
    try:
        with pyro.validation_enabled(True):
            trace = trace_program(program, data.train)
            trace.compute_log_prob()
            return trace
    except Exception as error:
        raise as_program_error(error, "run on its data") from error


def whole_event(fn: Any, value: Tensor) -> Tensor:
    """Return a value with the axes of a whole event; log probabilities broadcast fewer axes."""
    if value.ndim >= fn.event_dim:
        return value
    return value.expand(torch.broadcast_shapes(value.shape, fn.event_shape))


def refuse_bad_observations(trace: poutine.Trace) -> None:
    """Reject observed values that are not finite, out of support, or of NaN log likelihood.

    Raises:
        DataError: the first such site.
    """
    for node in samples(trace):
        if not node["is_observed"]:
            continue
        value, fn = node["value"], node["fn"]
        if (
            isinstance(value, Tensor)
            and value.dtype.is_floating_point
            and not torch.isfinite(value).all()
        ):
            raise DataError(
                f"Observed site {node['name']!r} has NaN or infinite values; drop or impute them."
            )
        support = support_of(fn)
        if (
            support is not None
            and not is_unchecked(fn)
            and isinstance(value, Tensor)
            and not bool(support.check(whole_event(fn, value)).all())
        ):
            raise DataError(
                f"Observed site {node['name']!r} holds values outside the support of"
                f" {type(base_of(fn)).__name__} ({support}); fix the data or the likelihood."
            )
        terms = node.get("log_prob")
        if isinstance(terms, Tensor) and torch.isnan(terms).any():
            raise DataError(
                f"The log likelihood of observed site {node['name']!r} is NaN at an ordinary"
                " point; check its data and scales."
            )


def support_of(fn: Any) -> Any:
    """Return the support of a distribution, None where its author declares none."""
    try:
        return getattr(fn, "support", None)
    except NotImplementedError:  # torch's default
        return None


def is_unchecked(fn: Any) -> bool:
    """Whether the author of a distribution switched its checks off (`validate_args=False`)."""
    while True:
        if vars(fn).get("_validate_args") is False:
            return True
        if not hasattr(fn, "base_dist"):
            return False
        fn = fn.base_dist


def refuse_broadcasts(trace: poutine.Trace) -> None:
    """Reject sites with more log-probability terms than values: an unintended broadcast.

    A column of n values against a plate of n rows gives n x n terms instead of n, and every method
    agrees on that other posterior. A batch axis that no plate declares is accepted if both the
    values and the distribution have it.

    Raises:
        ProgramError: the first such site, with the shapes and the cure.
    """
    for node in samples(trace):
        terms, fn, value = node.get("log_prob"), node["fn"], node["value"]
        if not isinstance(terms, Tensor) or not isinstance(value, Tensor):
            continue
        event = tuple(fn.event_shape)
        inner = tuple(value.shape[value.ndim - len(event) :])
        declared = {f.dim: f for f in node["cond_indep_stack"] if f.vectorized}
        loose = [d for d in range(-terms.ndim, 0) if terms.shape[d] > 1 and d not in declared]
        if isinstance(fn, Unit):  # a factor has no value; expanded axes have stride 0
            drawn = fn.log_factor.stride()
            wrong = bool(loose) and any(
                d >= -terms.ndim and terms.shape[d] > 1 and drawn[d] == 0 for d in declared
            )
        else:
            values = value.numel() // max(1, math.prod(event))
            wrong = (bool(loose) and terms.numel() != values) or _event_broadcasts(
                fn, inner, event
            )
        if not wrong:
            continue
        plates = ", ".join(f"{f.name!r} of {f.size}" for f in declared.values()) or "none"
        raise ProgramError(
            f"Site {node['name']!r} broadcasts: values of shape {_shape(value.shape)} against a"
            f" distribution of batch shape {_shape(fn.batch_shape)} and event shape"
            f" {_shape(event)} make {terms.numel()} log-probability terms (plates: {plates}); give"
            " values and arguments one shape, e.g. with .squeeze(-1) for a column, or mark the"
            " axes of one observation with .to_event(n)."
        )


def _event_broadcasts(fn: Any, inner: Sequence[int], event: Sequence[int]) -> bool:
    """Whether a value repeats along an event axis, so that there are more terms than values.

    One argument for many values (of length one along the event) makes a term of each value, as in
    stock Pyro. Only arguments marked as an event can broadcast: distributions over series declare
    a length of one and accept any, and joint distributions raise an error themselves.
    """
    while hasattr(fn, "base_dist") and not isinstance(fn, Independent):
        fn = fn.base_dist
    if not isinstance(fn, Independent):
        return False
    return len(inner) != len(event) or any(
        e not in (1, v) for v, e in zip(inner, event, strict=True)
    )


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def sum_in_parallel(msg: dict[str, Any]) -> dict[str, Any]:
    """Enumerate every discrete latent site in parallel.

    A sequential or sampled hint would leave a random value in the density.
    """
    fn = msg["fn"]
    if msg["is_observed"] or is_subsample(fn) or not getattr(fn, "has_enumerate_support", False):
        return {}
    return {
        "enumerate": "parallel",
        "num_samples": None,
        "expand": msg["infer"].get("expand", False),
    }


def sum_out_minibatch(trace: poutine.Trace, evaluator: TraceEinsumEvaluator) -> Tensor:
    """Return the log joint density of a minibatch with discrete sites summed out.

    Each unit is summed out before it is scaled. Scaling first would give the sum over c of
    p(y, c)^s in place of the power s of the sum. A discrete site that all units share is summed
    after scaling.
    """
    trace.compute_log_prob()
    for node in samples(trace):
        inside = {f.name for f in node["cond_indep_stack"]}
        if "_enumerate_dim" in node["infer"] and not inside.issuperset(
            f.name
            for other in samples(trace)
            for f in other["cond_indep_stack"]
            if f.vectorized and share_of(f) > 1
        ):
            shared: Tensor = evaluator.log_prob(trace)
            return shared
    frames = {f.name: f for n in samples(trace) for f in n["cond_indep_stack"] if f.vectorized}
    for node in samples(trace):
        own = math.prod(share_of(f) for f in node["cond_indep_stack"] if f.vectorized)
        node["log_prob"] = node["log_prob"] / own
    trace.pack_tensors()
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for node in samples(trace):
        factors.setdefault(evaluator.ordering[node["name"]], []).append(node["packed"]["log_prob"])
    plates = {trace.plate_to_symbol[name]: share_of(f) for name, f in frames.items()}
    total = torch.zeros(())
    for ordinal, terms in contract_tensor_tree(factors, evaluator._enum_dims).items():
        total = total + math.prod(plates[p] for p in ordinal) * sum(t.sum() for t in terms)
    return total


def is_computed(node: Mapping[str, Any]) -> bool:
    """Whether an observed site is a factor or a deterministic value and no observation."""
    return bool(node["infer"].get("is_auxiliary")) or isinstance(base_of(node["fn"]), Unit | Delta)


def masked(node: dict[str, Any]) -> Tensor:
    """Log probability of a site with zeros at masked entries, without any weight."""
    terms: Tensor = node["unscaled_log_prob"]
    mask = node["mask"]
    if mask is None or mask is True:
        return terms
    return torch.zeros_like(terms) if mask is False else terms.where(mask, terms.new_zeros(()))


def lay_out(latent: list[dict[str, Any]], data: Data) -> Iterator[Site]:
    """Assign every continuous latent site its slice of the flat vector.

    Raises:
        ProgramError: a discrete site that cannot be enumerated.
    """
    start = 0
    for node in latent:
        fn, value = node["fn"], node["value"]
        if isinstance(base_of(fn), Delta):
            name = node["name"]
            raise ProgramError(
                f"Latent site {name!r} is a point (Delta) and has no density of its own; write"
                f" pyro.deterministic({name!r}, value) in its place."
            )
        if not value.dtype.is_floating_point:
            raise ProgramError(
                f"Latent site {node['name']!r} is {value.dtype} but cannot be enumerated;"
                " marginalize it by hand."
            )
        transform = biject_to(fn.support)
        raw = transform.inv(value)
        stop = start + max(1, math.prod(raw.shape))
        axis = plate = None
        for frame in node["cond_indep_stack"]:
            if (
                frame.vectorized
                and data.size is not None
                and data.batched
                and frame.size == data.size
            ):
                axis, plate = -frame.dim + fn.event_dim, frame.name
        yield Site(
            name=node["name"],
            start=start,
            stop=stop,
            unconstrained_shape=raw.shape,
            shape=value.shape,
            transform=transform,
            event_dim=fn.event_dim,
            plates=tuple(f.name for f in node["cond_indep_stack"]),
            plate_axis=axis,
            unit_plate=plate,
        )
        start = stop


def same_support(a: Any, b: Any) -> bool:
    """Whether two supports have the same kind and bounds."""
    if type(a) is not type(b):
        return False
    for name in ("lower_bound", "upper_bound"):
        if hasattr(a, name) and not torch.equal(*_pair(getattr(a, name), getattr(b, name))):
            return False
    inner = getattr(a, "base_constraint", None)
    return inner is None or same_support(inner, b.base_constraint)


def _pair(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    x, y = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    shape = broadcast_shape(x.shape, y.shape)
    return x.expand(shape), y.expand(shape)
