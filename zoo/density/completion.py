"""What Pyro leaves open at a site: masked entries without a term, and sums it cannot list.

A mask removes the log probability of an entry and keeps the entry. A discrete entry is then summed
with weight one per value, which adds log K; a continuous one, if nothing else depends on it, has
no density at all. Here such an entry gets a factor that sums or integrates to one:

    discrete     -log K for each of its K values
    continuous   a standard normal in unconstrained space

so that density, ELBO and evidence are those of the program without it. Angles get the circle as
their support, which torch calls the real line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from pyro.distributions.util import broadcast_shape, sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from zoo.density.nodes import is_subsample
from zoo.distributions.circular import WrappedNormal, circle_of, is_circular
from zoo.errors import FitError, ProgramError

__all__ = ["MOST_VALUES", "Completion", "entries_counted", "finite_support", "is_discrete"]

MOST_VALUES = 100_000  # of one discrete site that are summed out


def is_discrete(fn: Any) -> bool:
    """Whether a site's values are discrete."""
    if getattr(fn, "has_enumerate_support", False):
        return True
    support = getattr(fn, "support", None)
    return bool(getattr(support, "is_discrete", False))


def entries_counted(fn: Any, mask: Any) -> tuple[Any, Any]:
    """Return a distribution without its mask, and which entries count.

    That is None for all, False for none, or booleans `[*batch]`.
    """
    masks = [mask] if mask is not None else []
    while isinstance(fn, MaskedDistribution):
        masks.append(fn._mask)
        fn = fn.base_dist
    masks = [m for m in masks if m is not True]
    if not masks:
        return fn, None
    if any(m is False for m in masks):
        return fn, False
    counted = masks[0]
    for other in masks[1:]:
        counted = counted & other
    return fn, counted.bool()


class Completion(Messenger):
    """Complete the sites of a program or a guide as the module's text says.

    Attributes:
        free: bijections of the continuous sites whose masked entries are held by no term.
        values: values `[value, *event]` of the discrete sites that Pyro cannot list.
        centers: of the charts of circular sites, `[*site]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.free: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}
        self.centers: dict[str, Tensor] = {}

    def learn(self, node: dict[str, Any]) -> None:
        """Note the values of a discrete site that Pyro cannot list.

        Raises:
            ProgramError: it has infinitely many, or too many.
        """
        _listed(entries_counted(node["fn"], None)[0], node["name"], self.values)

    def values_of(self, node: Mapping[str, Any]) -> Tensor:
        """Return the values of a discrete site of a trace, `[value, *event]`."""
        name = node["name"]
        if name in self.values:
            return self.values[name]
        listed: Tensor = node["fn"].enumerate_support(expand=False)
        return listed.reshape(-1, *node["fn"].event_shape)

    def _pyro_sample(self, msg: Any) -> None:
        fn, name = msg["fn"], msg["name"]
        if msg["is_observed"] or is_subsample(fn) or not hasattr(fn, "batch_shape"):
            return
        discrete = is_discrete(fn)
        if not discrete and name not in self.free:
            if name in self.centers:
                msg["fn"] = _on_circle(fn, name, self.centers[name])
            return
        fn, counted = entries_counted(fn, msg["mask"])
        if discrete:
            fn = _listed(fn, name, self.values)
            if counted is not None:
                number = len(fn.enumerate_support(expand=False))
                msg["fn"], msg["mask"] = (
                    _Filled(fn, counted, lambda value: -math.log(number)),
                    None,
                )
            elif fn is not msg["fn"] and isinstance(fn, _Listed):
                msg["fn"], msg["mask"] = fn, None
        elif counted is not None:
            msg["fn"], msg["mask"] = _Filled(fn, counted, _normal_in(self.free[name], fn)), None
            if name in self.centers:
                msg["fn"] = _on_circle(msg["fn"], name, self.centers[name])


def _normal_in(transform: Any, fn: Any) -> Callable[[Tensor], Tensor]:
    """Return the log density, `[*batch]`, of values that are standard normal if unconstrained."""

    def log_prob(value: Tensor) -> Tensor:
        raw = transform.inv(value)
        batch = value.ndim - fn.event_dim
        terms = -0.5 * raw.square() - 0.5 * math.log(2 * math.pi)
        jacobian = transform.log_abs_det_jacobian(raw, value)
        return sum_rightmost(terms, terms.ndim - batch) - sum_rightmost(
            jacobian, jacobian.ndim - batch
        )

    return log_prob


class _Wrapped(TorchDistribution):
    """A distribution that differs from another one in its log probability only."""

    arg_constraints: Mapping[str, Any] = {}

    def __init__(self, base: Any) -> None:
        self.base_dist = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return bool(self.base_dist.has_rsample)

    @property
    def has_enumerate_support(self) -> bool:
        return bool(self.base_dist.has_enumerate_support)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the distribution itself."""
        out: Tensor = self.base_dist.sample(torch.Size(sample_shape))
        return out

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the distribution itself, differentiably."""
        out: Tensor = self.base_dist.rsample(torch.Size(sample_shape))
        return out

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return the values of the distribution itself."""
        out: Tensor = self.base_dist.enumerate_support(expand=expand)
        return out


class _OnCircle(_Wrapped):
    """A distribution of angles, whose support is the circle with its chart."""

    def __init__(self, base: Any, center: Tensor) -> None:
        super().__init__(base)
        self.center = center

    @property
    def support(self) -> Any:
        return circle_of(self.base_dist, self.center)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _OnCircle:
        """Return the same with other batch axes."""
        return _OnCircle(self.base_dist.expand(torch.Size(batch_shape)), self.center)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return its own log probability."""
        out: Tensor = self.base_dist.log_prob(value)
        return out


def _on_circle(fn: Any, name: str, center: Tensor) -> Any:
    """Return a program's or a guide's distribution of an angle with the circle as its support.

    A normal distribution in a guide is wound around the circle.

    Raises:
        FitError: a guide draws the angle from another distribution over the real line.
    """
    core, events = fn, 0
    while isinstance(core, Independent):
        core, events = core.base_dist, events + core.reinterpreted_batch_ndims
    if isinstance(core, torch.distributions.Normal):
        wound = WrappedNormal(core.loc, core.scale, validate_args=False)
        return wound.to_event(events) if events else wound
    if is_circular(fn) or isinstance(fn, _Filled):
        return _OnCircle(fn, center)
    if getattr(fn, "has_enumerate_support", False) or isinstance(core, Delta):
        return fn
    raise FitError(
        f"The guide draws the angle {name!r} from {type(core).__name__}, which counts its turns,"
        " so its density is not that of an angle; accepted: Normal (wound around the circle),"
        " zoo.distributions.circular.WrappedNormal, VonMises, or an autoguide."
    )


class _Filled(_Wrapped):
    """A distribution whose entries that do not count have another log probability."""

    def __init__(self, base: Any, counted: Any, fill: Callable[[Tensor], Any]) -> None:
        if isinstance(counted, Tensor):
            shape = broadcast_shape(counted.shape, base.batch_shape)
            base = base.expand(shape) if shape != base.batch_shape else base
        super().__init__(base)
        self.counted, self.fill = counted, fill

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Filled:
        """Return the same with other batch axes."""
        counted = self.counted
        return _Filled(self.base_dist.expand(torch.Size(batch_shape)), counted, self.fill)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return its own log probability where entries count, the other one elsewhere."""
        own: Tensor = self.base_dist.log_prob(value)
        other = torch.as_tensor(self.fill(value), dtype=own.dtype)
        if self.counted is False:
            return other.expand(broadcast_shape(own.shape, other.shape))
        return torch.where(self.counted, own, other)


class _Listed(_Wrapped):
    """A discrete distribution with a list of values `[value, *event]`.

    Values above the total of a row have probability zero.
    """

    has_enumerate_support = True

    def __init__(self, base: Any, values: Tensor) -> None:
        super().__init__(base)
        self.values = values

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Listed:
        """Return the same with other batch axes."""
        return _Listed(self.base_dist.expand(torch.Size(batch_shape)), self.values)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return the values, `[value, 1 per batch axis, *event]`."""
        own = (1,) * len(self.batch_shape)
        out = self.values.reshape(self.values.shape[:1] + own + self.event_shape)
        return out.expand(out.shape[:1] + self.batch_shape + self.event_shape) if expand else out

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability, minus infinity outside the support of a row."""
        total = getattr(self.base_dist, "total_count", None)
        if self.event_shape or not isinstance(total, Tensor):
            out: Tensor = self.base_dist.log_prob(value)
            return out
        inside: Tensor = self.base_dist.log_prob(torch.minimum(value, total.to(value.dtype)))
        return torch.where(value <= total, inside, inside.new_tensor(-math.inf))


def _listed(fn: Any, name: str, known: dict[str, Tensor]) -> Any:
    """Return a distribution that lists its values: itself if Pyro can, else with our list."""
    if name not in known and fn.has_enumerate_support:
        try:
            fn.enumerate_support(expand=False)
        except NotImplementedError:
            pass
        else:
            return fn
    if name not in known:
        known[name] = finite_support(fn, name)
    return _Listed(fn, known[name])


def finite_support(fn: Any, name: str) -> Tensor:
    """Return the values of a discrete distribution, `[value, *event]`.

    Raises:
        ProgramError: infinitely many, or more than `MOST_VALUES`.
    """
    kind = type(fn).__name__
    if isinstance(fn, Independent):
        part = _values_of(fn.base_dist, name)  # [value, *event of the base]
        axes = tuple(fn.base_dist.batch_shape[len(fn.batch_shape) :])
        cells = math.prod(axes)
        _refuse_many(name, kind, len(part) ** cells)
        rows = torch.tensor(list(itertools.product(range(len(part)), repeat=cells)))
        return part[rows].reshape(len(rows), *fn.event_shape)
    total = getattr(fn, "total_count", None)
    if total is None or (hasattr(fn, "logits") and type(fn).__name__ == "NegativeBinomial"):
        raise ProgramError(
            f"Discrete site {name!r} ({kind}) has infinite support, so it cannot be summed out;"
            f" write the sum up to a number K by hand: pyro.sample({name!r}, dist.Categorical("
            f"logits=dist.{kind}(...).log_prob(torch.arange(K + 1.)))), with K so large that the"
            " rest does not matter."
        )
    highest = int(torch.as_tensor(total).max())
    dtype = torch.get_default_dtype()
    if not fn.event_shape:
        _refuse_many(name, kind, highest + 1)
        return torch.arange(highest + 1, dtype=dtype)
    if int(torch.as_tensor(total).min()) != highest:
        raise ProgramError(
            f"Discrete site {name!r} ({kind}) has another total in every row, so its values cannot"
            " be listed together; give every row a site of its own."
        )
    classes = fn.event_shape[-1]
    _refuse_many(name, kind, math.comb(highest + classes - 1, classes - 1))
    bars = itertools.combinations(range(highest + classes - 1), classes - 1)
    rows_ = [_between(b, highest + classes - 1) for b in bars]
    return torch.tensor(rows_, dtype=dtype)


def _values_of(fn: Any, name: str) -> Tensor:
    """Return the values of one entry of a distribution, `[value, *event]`."""
    try:
        listed = fn.enumerate_support(expand=False)
    except NotImplementedError:
        return finite_support(fn, name)
    return torch.as_tensor(listed).reshape(-1, *fn.event_shape)


def _between(bars: tuple[int, ...], end: int) -> list[float]:
    """Return the counts that bars between `end` places stand for."""
    places = (-1, *bars, end)
    return [float(b - a - 1) for a, b in itertools.pairwise(places)]


def _refuse_many(name: str, kind: str, number: int) -> None:
    if number > MOST_VALUES:
        raise ProgramError(
            f"Discrete site {name!r} ({kind}) has {number:,} values; at most {MOST_VALUES:,} are"
            " summed out. Split it into independent sites inside a plate, or marginalize it by"
            " hand."
        )
