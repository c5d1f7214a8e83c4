"""One run of a program: its trace at given points, its sites, and the faults a run reveals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent, Unit
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import broadcast_shape
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from zoo.errors import DataError, ProgramError, ZooError
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

    def part(self, u: Tensor) -> Tensor:
        """Return this site's unconstrained values `[*batch, *unconstrained_shape]` in flat points.

        Args:
            u: flat points `[*batch, dim]`.
        """
        return u[..., self.start : self.stop].reshape(u.shape[:-1] + self.unconstrained_shape)

    def unit_indices(self) -> Tensor:
        """Return the indices of each unit's values in the flat vector, `[unit, value]`."""
        assert self.plate_axis is not None
        events = len(self.unconstrained_shape) - (len(self.shape) - self.event_dim)
        axis = len(self.unconstrained_shape) - (self.plate_axis - self.event_dim + events)
        places = (
            torch.arange(self.start, self.stop).reshape(self.unconstrained_shape).movedim(axis, 0)
        )
        return places.reshape(len(places), -1)


def trace_program(
    program: Program, tensors: Mapping[str, Any], *, seed: int = 0, radius: float = 0.1
) -> poutine.Trace:
    """Run the program once at jittered zeros of the unconstrained space and return its trace.

    Unlike samples from the prior, such points also exist under improper flat priors.
    """

    def start(msg: dict[str, Any]) -> Tensor:
        fn = msg["fn"]
        if getattr(fn, "has_enumerate_support", False):
            value: Tensor = fn.sample()
            return value
        transform = biject_to(fn.support)
        raw = torch.empty(transform.inverse_shape(fn.shape())).uniform_(-radius, radius)
        return transform(raw)

    with poutine.block(), _preserve_rng(seed), InitMessenger(start):
        return poutine.trace(program).get_trace(**tensors)


@contextmanager
def _preserve_rng(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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


def samples(trace: poutine.Trace) -> list[dict[str, Any]]:
    """Return the sample statements of a trace, without the index draws of plates."""
    return [
        n
        for n in trace.nodes.values()
        if n["type"] == "sample" and not isinstance(n["fn"], _Subsample)
    ]


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
    except ValueError as error:
        if "invalid" in str(error) or "support" in str(error):
            text = str(error).splitlines()[0]
            raise DataError(
                f"The program rejects its data: {text} Check the observed values against the"
                " support."
            ) from error
        raise ProgramError(
            f"The program cannot be run on its data: {_one_line(error)}; check shapes of data and"
            " plates."
        ) from error
    except ZooError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ProgramError(
            f"The program cannot be run on its data ({kind}): {_one_line(error)}; fix the program."
        ) from error


def _one_line(error: Exception) -> str:
    """Return the message of an error on one line of at most 240 characters.

    Pyro's messages give the reason on the second line.
    """
    text = " ".join(str(error).partition("Trace Shapes:")[0].split()).rstrip(".")
    return text if len(text) <= 240 else text[:237] + "..."


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
        support = getattr(fn, "support", None)
        if (
            support is not None
            and isinstance(value, Tensor)
            and not bool(support.check(value).all())
        ):
            raise DataError(
                f"Observed site {node['name']!r} holds values outside the support of"
                f" {type(_base(fn)).__name__} ({support}); fix the data or the likelihood."
            )
        terms = node.get("log_prob")
        if isinstance(terms, Tensor) and torch.isnan(terms).any():
            raise DataError(
                f"The log likelihood of observed site {node['name']!r} is NaN at an ordinary"
                " point; check its data and scales."
            )


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
    """Whether a value repeats along an event axis, or arguments of length one along the value.

    Only arguments marked as an event can do so: distributions over series declare a length of one
    and accept any, and joint distributions raise an error themselves.
    """
    while hasattr(fn, "base_dist") and not isinstance(fn, Independent):
        fn = fn.base_dist
    return isinstance(fn, Independent) and tuple(inner) != tuple(event)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def sum_in_parallel(msg: dict[str, Any]) -> dict[str, Any]:
    """Enumerate every discrete latent site in parallel.

    A sequential or sampled hint would leave a random value in the density.
    """
    fn = msg["fn"]
    if (
        msg["is_observed"]
        or isinstance(fn, _Subsample)
        or not getattr(fn, "has_enumerate_support", False)
    ):
        return {}
    return {
        "enumerate": "parallel",
        "num_samples": None,
        "expand": msg["infer"].get("expand", False),
    }


def masked(node: dict[str, Any]) -> Tensor:
    """Log probability of a site with zeros at masked entries, unscaled by the minibatch."""
    terms: Tensor = node["unscaled_log_prob"]
    mask = node["mask"]
    if mask is None or mask is True:
        return terms
    return torch.zeros_like(terms) if mask is False else terms.where(mask, terms.new_zeros(()))


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def lay_out(latent: list[dict[str, Any]], data: Data) -> Iterator[Site]:
    """Assign every continuous latent site its slice of the flat vector.

    Raises:
        ProgramError: a discrete site that cannot be enumerated.
    """
    start = 0
    for node in latent:
        fn, value = node["fn"], node["value"]
        if not value.dtype.is_floating_point:
            raise ProgramError(
                f"Latent site {node['name']!r} is {value.dtype} but cannot be enumerated;"
                " marginalize it by hand."
            )
        transform = biject_to(fn.support)
        raw = transform.inv(value)
        stop = start + max(1, math.prod(raw.shape))
        axis = None
        for frame in node["cond_indep_stack"]:
            if (
                frame.vectorized
                and data.size is not None
                and data.batched
                and frame.size == data.size
            ):
                axis = -frame.dim + fn.event_dim
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
