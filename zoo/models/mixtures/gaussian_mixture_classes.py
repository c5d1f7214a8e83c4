"""Mixture of multivariate normals: classes of iris flowers, wines or tumors.

Every measurement is standardized (mean 0, sd 1 over all rows); S is their correlation matrix, D
their number. The true species, cultivar or malignancy is not used. With `covariance=full`
(default), as Fraley and Raftery propose,

    weight       ~ Dirichlet(5, ..., 5)
    location_k   ~ Normal(0, S),                         k = 1..K
    covariance_k ~ InverseWishart(D + 2, K^(-2/D) S),    k = 1..K   # mean K^(-2/D) S
    label_i      ~ Categorical(weight),                  i = 1..N   # summed out by enumeration
    x_i          ~ Normal(location_{label_i}, covariance_{label_i}),

and with `covariance=diag` independent variance_kj ~ InverseGamma(3/2, K^(-2/D) / 2) and
location_kj ~ Normal(0, 1).

The inverse Wishart enters by Bartlett's decomposition: with B B^T = inv(S), the precision of class
k is (B A)(B A)^T, A lower triangular, A_jj^2 = strength_kj ~ Gamma((D + 3 - j) / 2, psi / 2),
entries below the diagonal tilt_k ~ Normal(0, 1 / sqrt(psi)), psi = K^(-2/D), and location_k =
inv(B^T) center_k with center_k ~ Normal(0, I). All sites are of order 1.

Why not scales and an LKJ correlation matrix: measurements are rounded, so eleven flowers lie
exactly in the plane sepal length - sepal width = 3.1 cm. A class that flattens onto n rows of a
plane gains (1 - rho^2)^(-n/2) while its prior falls as a power; with n >= D + 2 eta the posterior
is improper. The inverse Wishart falls exponentially in every direction.

Labels are free: raw sites mean nothing; quantities are ordered along the first principal axis of
the data or are invariant to labels.

References:
    Fraley and Raftery (2007), Bayesian regularization for normal mixture estimation, Journal of
    Classification 24, 155-181. Stephens (2000), Dealing with label switching in mixture models,
    JRSS B 62(4), 795-809.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from zoo.datasets import read, standardize
from zoo.distributions.multivariate import RootNormal
from zoo.errors import UnknownNameError, UsageError
from zoo.models.mixtures._classes import Classes
from zoo.quantities import log_odds
from zoo.types import Data, ModelEntry, Program, Quantity

CONCENTRATION = 5.0
# of breast_cancer the ten means; the other columns are errors and extremes
COLUMNS = {"iris": 4, "wine": 13, "breast_cancer": 10}
POINTS = 8  # rows at even ranks along the first principal axis, where the model is compared


def make_data(seed: int, data: str, K: int, covariance: str) -> Data:
    """Return the standardized measurements; real data do not depend on the seed.

    Raises:
        UnknownNameError: an unknown table or kind of covariance.
        UsageError: K is not 2 to 9.
    """
    if data not in COLUMNS:
        raise UnknownNameError("data table", data, COLUMNS)
    if covariance not in ("full", "diag"):
        raise UnknownNameError("covariance", covariance, ("full", "diag"))
    table = read(data)
    names = table.columns[: COLUMNS[data]]
    return from_rows(
        standardize(table.select(names)),
        K,
        names,
        table.provenance.source,
        table.provenance.licence,
    )


def from_rows(x: Tensor, K: int, names: tuple[str, ...], source: str, licence: str) -> Data:
    """Return the data of a mixture of K classes for standardized rows `[row, feature]`.

    Raises:
        UsageError: K is not 2 to 9.
    """
    if not 2 <= K <= 9:
        raise UsageError(
            f"Option K of gaussian_mixture_classes got {K}; accepted: 2 to 9 classes."
        )
    rows = points(x)
    basis = torch.linalg.cholesky(
        torch.linalg.inv(x.T @ x / len(x))
    )  # [feature, feature], B B^T = inv(S)
    return Data(
        train={"x": x, "basis": basis},
        observed=("x",),
        coords={
            "class": [str(k) for k in range(1, K + 1)],
            "feature": [n.removeprefix("mean_") for n in names],
            "pair": [f"rows {int(i) + 1} and {int(j) + 1}" for i, j in pairwise(rows)],
            "point": [f"row {int(i) + 1}" for i in rows],
        },
        dims={"x": ("row", "feature")},
        source=source,
        licence=licence,
    )


def axis_of(x: Tensor) -> Tensor:
    """Return the first principal axis `[feature]`, with its largest entry positive."""
    vector = torch.linalg.eigh(x.T @ x).eigenvectors[:, -1]
    return vector * vector[vector.abs().argmax()].sign()


def points(x: Tensor) -> Tensor:
    """Return rows at even ranks along the first principal axis, `[point]`."""
    return (x @ axis_of(x)).argsort()[torch.linspace(2, len(x) - 3, POINTS).round().long()]


def build(given: Data, /, *, data: str, K: int, covariance: str) -> Program:
    """Return the mixture program with an enumerated class per row."""
    rows, size = given.train["x"].shape
    psi = K ** (-2.0 / size)
    below = size * (size - 1) // 2
    degrees = torch.arange(size + 2, 2, -1)  # of A_11^2 .. A_DD^2

    def program(basis: Tensor, x: Tensor | None = None) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((K,), CONCENTRATION)))  # [class]
        with pyro.plate("class", K):
            if covariance == "full":
                center = pyro.sample(
                    "center", dist.Normal(0.0, 1.0).expand([size]).to_event(1)
                )  # [class, feature]
                strength = pyro.sample(
                    "strength", dist.Gamma(degrees.to(basis.dtype) / 2, psi / 2).to_event(1)
                )  # [class, feature]
                tilt = pyro.sample(
                    "tilt", dist.Normal(0.0, psi**-0.5).expand([below]).to_event(1)
                )  # [class, pair of features]
                draws = {"center": center, "strength": strength, "tilt": tilt}
            else:
                location = pyro.sample(
                    "location", dist.Normal(0.0, 1.0).expand([size]).to_event(1)
                )  # [class, feature]
                variance = pyro.sample(
                    "variance", dist.InverseGamma(1.5, psi / 2).expand([size]).to_event(1)
                )  # [class, feature]
                draws = {"location": location, "variance": variance}
        loc, root, log_det = normals(draws, basis)
        with pyro.plate("row", rows):
            label = pyro.sample("label", dist.Categorical(weight), infer={"enumerate": "parallel"})
            part = RootNormal(
                Vindex(loc)[..., label, :],
                Vindex(root)[..., label, :, :],
                Vindex(log_det)[..., label],
            )
            pyro.sample("x", part, obs=x)

    return program


def normals(draws: Mapping[str, Tensor], basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return locations, precision roots and their log determinants.

    Returns:
        Locations `[*sample, class, feature]`, roots of the precisions
        `[*sample, class, feature, feature]` and log determinants `[*sample, class]`.
    """
    if "variance" in draws:
        variance = draws["variance"]
        return draws["location"], torch.diag_embed(variance.rsqrt()), -0.5 * variance.log().sum(-1)
    strength, tilt, size = draws["strength"], draws["tilt"], basis.shape[-1]
    place = torch.full((size, size), tilt.shape[-1])  # one past the last entry: zero padding
    place[*torch.tril_indices(size, size, -1)] = torch.arange(tilt.shape[-1])
    padded = torch.cat([tilt, torch.zeros_like(strength[..., :1])], -1)
    lower = padded.index_select(-1, place.reshape(-1)).reshape(*tilt.shape[:-1], size, size)
    root = basis @ (lower + torch.diag_embed(strength.sqrt()))
    log_det = 0.5 * strength.log().sum(-1) + basis.diagonal().log().sum()
    return draws["center"] @ torch.linalg.inv(basis), root, log_det


def log_joint(draws: Mapping[str, Tensor], x: Tensor, basis: Tensor) -> Tensor:
    """Return log weight_k + log Normal(x | class k) of rows, `[*sample, row, class]`, in nats.

    Args:
        draws: draws of the sites.
        x: rows `[row, feature]`.
        basis: B with B B^T = inv(S), `[feature, feature]`.
    """
    loc, root, log_det = normals(draws, basis)
    white = x @ root - loc.unsqueeze(-2) @ root  # [*sample, class, row, feature]
    log_p = (
        log_det.unsqueeze(-1)
        - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        - 0.5 * white.square().sum(-1)
    )
    return draws["weight"].log().unsqueeze(-2) + log_p.mT


def at_points(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return `log_joint` at the compared rows, `[*sample, point, class]`."""
    x = data.train["x"]
    return log_joint(draws, x[points(x)], data.train["basis"])


def responsibilities(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the class probabilities of each row given a draw, `[*sample, row, class]`."""
    return log_joint(draws, data.train["x"], data.train["basis"]).softmax(-1)


def log_density(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log density of the mixture at the chosen rows, `[*sample, point]`, nats."""
    return at_points(draws, data).logsumexp(-1)


def co_assignment(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    r"""Return the log odds that neighbors along the axis share a class, `[*sample, pair]`, nats.

    They are log sum_k r_k(a) r_k(b) - log sum_{k != l} r_k(a) r_l(b); the probability itself is
    close to 0 or 1 for most pairs.
    """
    log_r = at_points(draws, data)
    return log_odds(log_r[..., :-1, :], log_r[..., 1:, :])


def ordered(value: str, draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return weight, location or log_sd, `[*sample, class, ...]`.

    Classes are ordered by their locations along the first principal axis.
    """
    loc, root, _ = normals(draws, data.train["basis"])
    order = (loc @ axis_of(data.train["x"])).argsort(-1)
    if value == "weight":
        return draws["weight"].gather(-1, order)
    found = loc if value == "location" else 0.5 * torch.linalg.inv(root).square().sum(-2).log()
    return found.gather(-2, order.unsqueeze(-1).expand(found.shape))


CLASSES = Classes(responsibilities=responsibilities, normals=normals)

ENTRY = ModelEntry(
    name="gaussian_mixture_classes",
    title="Mixture of multivariate normals on iris, wine or breast cancer, class summed out",
    make_data=make_data,
    build=build,
    quantities={
        "location": Quantity(
            fn=partial(ordered, "location"),
            dims=("class", "feature"),
            description="class locations along the axis, sds of a feature",
        ),
        "weight": Quantity(
            fn=partial(ordered, "weight"),
            dims=("class",),
            description="class weights, ordered along the axis",
        ),
        "log_sd": Quantity(
            fn=partial(ordered, "log_sd"),
            dims=("class", "feature"),
            description="log sds within a class, ordered along the axis",
        ),
        "co_assignment": Quantity(
            fn=co_assignment,
            dims=("pair",),
            description="log odds that two rows share a class, nats",
        ),
        "log_density": Quantity(
            fn=log_density,
            dims=("point",),
            description="log density of the mixture at a row, nats",
        ),
    },
    reference="stored",
    families=(*ModelEntry.families, "class_network"),
    options={"data": "iris", "K": 2, "covariance": "full"},
    amortize=lambda tensors: tensors["x"],
    tags=frozenset({"mixture", "discrete", "enumeration", "amortized"}),
    cites=(
        (
            "Fraley and Raftery (2007), Bayesian regularization for normal mixture estimation,"
            " Journal of Classification 24, 155-181"
        ),
        "Stephens (2000), Dealing with label switching in mixture models, JRSS B 62(4), 795-809",
    ),
    notices=(
        (
            "Labels are free: a guide in one of the K! modes has a bound that is low by up to log"
            " K! nats."
        ),
    ),
)
