"""Angles: the circle as a support, its charts, and a reparameterized distribution on it.

torch calls the support of a von Mises distribution the real line. A density over the line that
repeats with every turn has no integral, so neither an evidence nor an ELBO exists there. Here an
angle lies in [-pi, pi), and its unconstrained coordinate is that of a chart with a center c:

    theta = c + pi erf(u / sqrt 2)  (mod 2 pi),     d theta / d u = sqrt(2 pi) exp(-u^2 / 2)

It covers the circle once, without the point opposite to c. Uniform angles are standard normal u,
and whatever density an angle has, its tails in u are those of a normal.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

from zoo.distributions.location_scale import LocationScale
from zoo.distributions.supports import innermost

__all__ = [
    "Chart",
    "Circle",
    "WrappedNormal",
    "chart_of",
    "circle",
    "circle_of",
    "is_circle",
    "is_circular",
    "is_moved_angle",
    "is_sphere",
    "wrapped",
]

TURN = 2 * math.pi
# Each of the two sums is short on its side of this sd in radians. What is left out there, the
# fourth turn and the sixth wave, is e^-59 and e^-72 of the density: less than float64 can tell.
_WIDE = 2.0
_WINDINGS = 3
_WAVES = 5


def wrapped(angle: Tensor) -> Tensor:
    """Return angles in [-pi, pi); exactly the given ones where they lie there."""
    return angle - TURN * torch.floor((angle + math.pi) / TURN)


class Circle(constraints.Constraint):
    """The angles in [-pi, pi), with the center of the chart that maps to them.

    Args:
        center: where the unconstrained coordinate is 0, `[*site]`; the chart is cut opposite.
    """

    def __init__(self, center: Tensor | float = 0.0) -> None:
        self.center = center
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return which values lie in [-pi, pi], up to rounding."""
        return value.abs() <= math.pi * (1 + 1e-6)

    def __repr__(self) -> str:
        """Return its name."""
        return "Circle()"


circle = Circle()


class Chart(Transform):
    """The bijection of the module's text between the real line and the circle without a point.

    Args:
        center: c, `[*site]`.
    """

    domain = constraints.real
    codomain = circle
    bijective = True
    sign = +1

    def __init__(self, center: Tensor | float = 0.0, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.center = center

    def with_cache(self, cache_size: int = 1) -> Chart:
        """Return the same chart with another cache."""
        return self if cache_size == self._cache_size else Chart(self.center, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return wrapped(self.center + math.pi * torch.erf(x * math.sqrt(0.5)))

    def _inverse(self, y: Tensor) -> Tensor:
        share = wrapped(y - self.center) / math.pi
        edge = 1 - torch.finfo(share.dtype).eps  # the cut itself is no point of the chart
        return torch.erfinv(share.clamp(-edge, edge)) * math.sqrt(2.0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log d theta / d u, elementwise."""
        return 0.5 * math.log(TURN) - 0.5 * x.square()


def _chart(constraint: Circle) -> Chart:
    return Chart(constraint.center)


for _registry in (biject_to, transform_to):
    _registry.register(Circle, _chart)


def is_circular(fn: Any) -> bool:
    """Whether the values of a distribution are angles, each with a density of period 2 pi.

    These are von Mises distributions, also in a mixture, an event or under a mask, their bivariate
    and skewed kin, and whatever declares the support `circle`.
    """
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        return is_circular(fn.component_distribution)
    if isinstance(fn, dist.MaskedMixture):
        return is_circular(fn.component0) and is_circular(fn.component1)
    if isinstance(fn, torch.distributions.VonMises | dist.SineBivariateVonMises | dist.SineSkewed):
        return True
    if isinstance(fn, torch.distributions.TransformedDistribution):
        return not fn.transforms and is_circular(fn.base_dist)
    if hasattr(fn, "base_dist"):
        return is_circular(fn.base_dist)
    return is_circle(getattr(type(fn), "support", None))


def is_circle(support: Any) -> bool:
    """Whether a support is the circle, for every entry of an event."""
    return isinstance(innermost(support), Circle)


def is_moved_angle(fn: Any) -> bool:
    """Whether a distribution is that of transformed angles, which repeats without being one."""
    while hasattr(fn, "base_dist"):
        if isinstance(fn, torch.distributions.TransformedDistribution) and fn.transforms:
            return is_circular(fn.base_dist)
        fn = fn.base_dist
    return False


def chart_of(fn: Any, center: Tensor | float = 0.0) -> Any:
    """Return the bijection onto the values of a distribution: of a circular one a chart.

    Args:
        fn: a distribution; one that is not circular has the bijection of its support.
        center: of the chart.
    """
    return biject_to(circle_of(fn, center) if is_circular(fn) else fn.support)


def is_sphere(support: Any) -> bool:
    """Whether a support is a sphere, of directions given by unit vectors."""
    return innermost(support) is dist.constraints.sphere


def circle_of(fn: Any, center: Tensor | float = 0.0) -> Any:
    """Return the support of a circular distribution, with the center of its chart."""
    one = Circle(center)
    return constraints.independent(one, fn.event_dim) if fn.event_dim else one


class WrappedNormal(LocationScale):
    r"""A normal variable wound around the circle, reparameterized; for guides of angles.

    \[ p(\theta) = \sum_{k} N(\theta + 2 \pi k; \mu, \sigma)
                 = \frac{1}{2 \pi} \Big(1 + 2 \sum_{n > 0} e^{-n^2 \sigma^2 / 2}
                   \cos n (\theta - \mu)\Big), \qquad \theta \in [-\pi, \pi) \]

    The first sum is used for sigma < 2, the second from there on; both are exact to rounding.
    Source: Mardia and Jupp (2000), Directional Statistics, section 3.5.7.

    Args:
        loc: mu, in radians; any real number.
        scale: sigma, > 0, in radians.
    """

    support = circle

    @property
    def mean(self) -> Tensor:
        """The circular mean."""
        return wrapped(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats; any angle is taken modulo 2 pi."""
        gap = wrapped(value - self.loc)[..., None]
        scale = self.scale[..., None]
        narrow, wide = scale.clamp(max=_WIDE), scale.clamp(min=_WIDE)
        turns = TURN * torch.arange(-_WINDINGS, _WINDINGS + 1, dtype=gap.dtype, device=gap.device)
        near = torch.logsumexp(-0.5 * ((gap + turns) / narrow).square(), -1)
        near = near - narrow[..., 0].log() - 0.5 * math.log(TURN)
        n = torch.arange(1, _WAVES + 1, dtype=gap.dtype, device=gap.device)
        waves = torch.exp(-0.5 * (n * wide).square()) * torch.cos(n * gap)
        far = torch.log1p(2 * waves.sum(-1)) - math.log(TURN)
        return torch.where(self.scale < _WIDE, near, far)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a normal variable and wind it."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return wrapped(self.loc + self.scale * noise)
