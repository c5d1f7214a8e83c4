"""Functions of draws to compare posteriors on, safe if labels or rotations are free.

Every helper returns `fn(draws, data) -> Tensor` of shape `[*sample, *shape]`, to be put into a
`zoo.Quantity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.distributions.supports import innermost
from zoo.errors import UnknownNameError, UsageError
from zoo.types import Data, Quantity

__all__ = [
    "QuantityFunction",
    "chances",
    "circular_mean",
    "circular_sd",
    "co_assignment",
    "cos_site",
    "held_entries",
    "invariant",
    "log_odds",
    "log_site",
    "of_site",
    "plain",
    "predictive_at",
    "shared_classes",
    "sin_site",
    "site",
    "sorted_by",
]

QuantityFunction = Callable[[Mapping[str, Tensor], Data], Tensor]


def _draws(draws: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in draws:
        raise UnknownNameError("site", name, draws)
    return draws[name]


def site(name: str) -> QuantityFunction:
    """Return the draws of a site, `[*sample, *site]`.

    Raises:
        UnknownNameError: on a call with draws that lack the site.
    """
    return lambda draws, data: _draws(draws, name)


def log_site(name: str) -> QuantityFunction:
    """Return the natural logarithm of a positive site; moments of a raw scale are noise.

    Raises:
        UnknownNameError: on a call with draws that lack the site.
    """
    return lambda draws, data: _draws(draws, name).log()


def sin_site(name: str) -> QuantityFunction:
    """Return the sine of an angle; moments of an angle itself depend on where the circle is cut.

    Raises:
        UnknownNameError: on a call with draws that lack the site.
    """
    return lambda draws, data: _draws(draws, name).sin()


def cos_site(name: str) -> QuantityFunction:
    """Return the cosine of an angle; see `sin_site`.

    Raises:
        UnknownNameError: on a call with draws that lack the site.
    """
    return lambda draws, data: _draws(draws, name).cos()


def circular_mean(angles: Tensor, dim: int = 0) -> Tensor:
    r"""Return the circular mean of angles, in radians from -pi to pi.

    \[ \bar\theta = \operatorname{atan2}(E \sin \theta, E \cos \theta) \]

    Source: Mardia and Jupp (2000), Directional Statistics, section 2.2.

    Args:
        angles: draws, in radians.
        dim: the axis of the draws.
    """
    return torch.atan2(angles.sin().mean(dim), angles.cos().mean(dim))


def circular_sd(angles: Tensor, dim: int = 0) -> Tensor:
    r"""Return the circular standard deviation of angles, in radians.

    \[ \sqrt{-2 \log R}, \qquad R = |E e^{i \theta}| \]

    It is the sd of the normal whose winding around the circle has the resultant length R. Source:
    Mardia and Jupp (2000), Directional Statistics, section 2.3.

    Args:
        angles: draws, in radians.
        dim: the axis of the draws.
    """
    length = torch.hypot(angles.sin().mean(dim), angles.cos().mean(dim))
    return (-2 * length.clamp(max=1.0).log()).sqrt()


def sorted_by(name: str, by: str, *, log: bool = False) -> QuantityFunction:
    """Return a site with classes in ascending order of another site, `[*sample, class]`.

    With s the permutation that sorts `by` in each draw, the result is name[s(1)], ..., name[s(K)]:
    it does not depend on how a sampler labels the classes. Further axes of `name` after the class
    axis are kept.

    Args:
        name: site to return.
        by: site whose order defines the labels, `[*sample, class]`.
        log: take the logarithm of `name`, for scales.

    Raises:
        UnknownNameError: on a call with draws that lack one of the sites.
    """

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        value, key = _draws(draws, name), _draws(draws, by)
        order = key.argsort(-1)
        extra = value.ndim - key.ndim
        index = order.reshape(order.shape + (1,) * extra).expand(
            order.shape + value.shape[value.ndim - extra :]
        )
        value = value.gather(key.ndim - 1, index)
        return value.log() if log else value

    return fn


def co_assignment(
    probabilities: Callable[[Mapping[str, Tensor], Data], Tensor], pairs: Sequence[tuple[int, int]]
) -> QuantityFunction:
    r"""Return the probability that two rows share a class, for chosen pairs of rows.

    \[ P(c_i = c_j \mid z, x) = \sum_k p(c_i = k \mid z, x_i)\, p(c_j = k \mid z, x_j) \]

    Args:
        probabilities: `(draws, data) -> [*sample, row, class]`, class probabilities of each row
            given the draw.
        pairs: rows (i, j) to compare.
    """
    left, right = torch.tensor([i for i, _ in pairs]), torch.tensor([j for _, j in pairs])

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        p = probabilities(draws, data)  # [*sample, row, class]
        return (p.index_select(-2, left) * p.index_select(-2, right)).sum(-1)  # [*sample, pair]

    return fn


def log_odds(left: Tensor, right: Tensor) -> Tensor:
    r"""Return the log odds that two rows share a class, `[*sample, pair]`, in nats.

    \[ \log \sum_k a_k b_k - \log \sum_{k \ne l} a_k b_l, \qquad a_k = \exp(left_k), \; b_k =
    \exp(right_k) \]

    Args:
        left: log of weight times density of each class at the first row, `[*sample, pair, class]`,
            normalized or not.
        right: the same at the second row.
    """
    both = left[..., :, None] + right[..., None, :]  # [*sample, pair, class, class]
    same = torch.eye(both.shape[-1], dtype=torch.bool)
    return both[..., same].logsumexp(-1) - both[..., ~same].logsumexp(-1)


def shared_classes(responsibilities: Tensor) -> Tensor:
    """Return the Rao-Blackwellized probability that two rows share a class, `[row, row]`.

    It is the mean over draws of sum_k r_ik r_jk.

    Args:
        responsibilities: class probabilities of every row given a draw, `[*sample, row, class]`.
    """
    draws = responsibilities.flatten(0, -3)
    flat = draws.movedim(0, 1).flatten(1)  # [row, draw * class]
    return flat @ flat.T / draws.shape[0]


def predictive_at(predict: Callable[..., Tensor], points: Any) -> QuantityFunction:
    """Return a prediction at fixed inputs, `[*sample, point]`.

    Predictions are identified even if the parameters are not.

    Args:
        predict: `(draws, points) -> [*sample, point]`.
        points: the inputs, a tensor or anything `torch.as_tensor` accepts.
    """
    inputs = torch.as_tensor(points)
    return lambda draws, data: predict(draws, inputs)


def plain(name: str, dims: tuple[str, ...]) -> Quantity:
    """Return the quantity of a site as it is."""
    return Quantity(fn=site(name), dims=dims, description=name)


def chances(name: str, number: int, dims: tuple[str, ...]) -> Quantity:
    """Return the quantity of a class site whose means are the probabilities of its classes."""

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        chosen = _draws(draws, name).long()
        return torch.nn.functional.one_hot(chosen, number).to(torch.get_default_dtype())

    return Quantity(fn=fn, dims=(*dims, f"{name}_value"), description=f"probabilities of {name}")


def of_site(
    name: str, support: Any, shape: tuple[int, ...], dims: tuple[str, ...]
) -> dict[str, Quantity]:
    """Return the quantities of a latent site by label, chosen by its support.

    Positive sites become logarithms, angles their sine and cosine, triangular and correlation
    matrices their free entries; all others stay unchanged.

    Raises:
        UsageError: `dims` does not name every axis of the site.
    """
    if len(dims) != len(shape):
        raise UsageError(f"Site {name!r} has shape {shape} but dims {dims}; name every axis once.")
    kind = innermost(support)
    text = type(kind).__name__.lower().strip("_")
    if "cholesky" in text or text in (
        "corrmatrix",
        "positivedefinite",
        "lowertriangular",
        "symmetric",
        "positivesemidefinite",
    ):
        strict = -1 if "corr" in text else 0
        rows, columns = torch.tril_indices(shape[-1], shape[-1], strict)

        def lower(draws: Mapping[str, Tensor], data: Data) -> Tensor:
            return _draws(draws, name)[..., rows, columns]

        entries = f"free entries of {name}, row by row"
        named = (*dims[:-2], f"{name}_entry")
        return {name: Quantity(fn=lower, dims=named, description=entries)}
    if text == "circle":
        sine, cosine = f"sine of {name}", f"cosine of {name}"
        return {
            f"sin {name}": Quantity(fn=sin_site(name), dims=dims, description=sine),
            f"cos {name}": Quantity(fn=cos_site(name), dims=dims, description=cosine, even=True),
        }
    positive = text in ("greaterthan", "greaterthaneq") and bool(
        (torch.as_tensor(kind.lower_bound) == 0).all()
    )
    if positive or text in (
        "positive",
        "softplusPositive".lower(),
        "nonnegative",
        "softpluspositive",
    ):
        return {
            f"log {name}": Quantity(fn=log_site(name), dims=dims, description=f"log of {name}")
        }
    return {name: plain(name, dims)}


def held_entries(quantity: Quantity, loose: Tensor) -> Quantity | None:
    """Return a quantity without its loose entries along the leading axes, None where none is left.

    Args:
        quantity: of values `[*sample, *batch, ...]`.
        loose: which entries to leave out, `[*batch]`.
    """
    kept = (~loose).reshape(-1).nonzero()[:, 0]
    if not len(kept):
        return None
    axes, dims = loose.ndim, quantity.dims

    def fn(draws: Mapping[str, Tensor], data: Data) -> Tensor:
        value = quantity.fn(draws, data)
        ahead = value.ndim - len(dims)
        return value.flatten(ahead, ahead + axes - 1).index_select(ahead, kept)

    return replace(
        quantity,
        fn=fn,
        dims=("held_" + "_".join(dims[:axes]), *dims[axes:]),
        description=f"{quantity.description}, entries that a term holds",
    )


def invariant(label: str, quantity: Quantity, kind: str, axis: int | None) -> tuple[str, Quantity]:
    """Return what of a site's quantity does not change under signs, labels or rotations.

    Absolute values for signs, sorted values for labels, lengths for rotations. What is even, such
    as the cosine of an angle, does not change with signs. A quantity whose axes are not those of
    its site is kept, and shown without being judged.

    Args:
        label: name of the quantity.
        quantity: the quantity of one site, `[*sample, *site]`.
        kind: `sign`, `label` or `rotation`.
        axis: the axis that labels or rotations act on, from the right.
    """
    fn, dims = quantity.fn, quantity.dims
    if kind == "sign":
        if quantity.even:
            return label, quantity
        name = f"abs {label}"
        return name, replace(quantity, fn=lambda d, x: fn(d, x).abs(), description=name, even=True)
    if axis is None or axis > len(dims):
        return label, replace(quantity, judged=False)
    if kind == "label":
        name = f"sorted {label}"
        return name, replace(
            quantity, fn=lambda d, x: fn(d, x).sort(-axis).values, description=name
        )
    name, left = f"length of {label}", len(dims) - axis
    return name, replace(
        quantity,
        fn=lambda d, x: fn(d, x).norm(dim=-axis),
        dims=(*dims[:left], *dims[left + 1 :]),
        description=name,
        even=True,
    )
