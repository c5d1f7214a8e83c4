"""Variational autoencoder of binary digits, two latent dimensions, exact posterior.

A decoder network with weights theta turns a latent code of two numbers into 64 probabilities of
ink, one per pixel of an 8 x 8 handwritten digit. The weights are trained once, together with the
first guide, and then held fixed; every method approximates the same posterior of the codes of
chosen images, half of them never seen in training.

    z_i   ~ Normal(0, I),                                  i = 1..1437 images, z_i in R^2
    x_ij  ~ Bernoulli(logit = decoder_theta(z_i)_j),       j = 1..64 pixels

The posterior of a code can be banana-shaped or have two modes (a badly written 4 can be a 9), and
its coordinates are correlated. An encoder with independent normals loses nats to this (the
approximation gap), and to being one function for all images (the amortization gap). With up to
three latent dimensions log p(x), and hence both gaps, are known to 1e-3 nats.

The gray values 0..16 of scikit-learn's digits become 1 above 7.5 and 0 below, by a stored rule;
gray pixels in a Bernoulli likelihood are rejected. `beta_vae` weights the KL by 4 and `iwae`
trains on the importance-weighted bound of 5 draws: their encoders target another distribution than
the posterior, which is what their rows show.

Own images: `vae[images=PATH]` takes a folder, an .npy file or MNIST's idx file; the classic
architecture is
`vae[images=train-images-idx3-ubyte.gz,latent=20,hidden=400,layers=1,threshold=0.5]`. With more
than three latent dimensions the ground truth is NUTS given the trained decoder. With
`context=true` every pixel also depends on the pixels before it, so that the decoder can ignore the
code: this is where posterior collapse occurs (`zoo study vae_collapse`).

References:
    Kingma and Welling (2014), Auto-encoding variational Bayes, ICLR.
    Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders, ICML.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from zoo.datasets.images import binarize, digits, load_images, split, thin
from zoo.distributions.multivariate import SequentialBernoulli
from zoo.errors import DataError, UsageError
from zoo.quantities import site
from zoo.seeds import seeded
from zoo.truth.grid import LARGEST, BernoulliLikelihood, LatentGrid, SequentialLikelihood
from zoo.types import Analytic, Data, ModelEntry, Moments, Quantity

HELD_OUT, SPLIT_SEED = 0.2, 0  # the stored split
CHOSEN = 10  # images of each part in the evaluation subset
PRIORS = ("normal", "mixture")
COMPONENTS = 10  # of the mixture prior


def make_data(
    seed: int, images: str, threshold: float, rows: int, latent: int, **other: Any
) -> Data:
    """Return the binary images, a fifth of them held out; real data do not depend on the seed.

    Raises:
        UsageError: no such images, or a threshold that is no gray value.
        DataError: images that cannot be read.
    """
    gray = thin(load_images(images) if images else digits(), rows)
    x = binarize(gray.values, threshold).flatten(1)
    train, held = split(len(x), HELD_OUT, SPLIT_SEED)
    return _data(
        x,
        gray.labels,
        train,
        held,
        latent,
        f"{gray.source}; 1 where the gray value is above {threshold:g}",
        gray.licence,
    )


def _data(
    x: Tensor,
    labels: Tensor,
    train: Tensor,
    held: Tensor | None,
    latent: int,
    source: str,
    licence: str,
) -> Data:
    names = [
        f"{'' if int(c) < 0 else int(c)} (row {int(i)})".strip()
        for i, c in zip(train, labels[train], strict=True)
    ]
    return Data(
        train={"x": x[train], "label": labels[train]},
        test=None if held is None else {"x": x[held], "label": labels[held]},
        observed=("x",),
        batched=("x", "label"),
        size=len(train),
        coords={"image": names, "latent": [f"z{k + 1}" for k in range(latent)]},
        dims={"x": ("image", "pixel"), "label": ("image",), "z": ("image", "latent")},
        source=source,
        licence=licence,
    )


def judged(data: Data) -> Data:
    """Return the evaluation subset: the first training and held-out images of each class."""
    if data.test is None:
        return data
    parts, names = [], []
    for part, word in ((data.train, "train"), (data.test, "held out")):
        labels = part["label"]
        classes = [c for c in labels.unique().tolist() if c >= 0][:CHOSEN]
        rows = (
            [int((labels == c).nonzero()[0]) for c in classes]
            if len(classes) > 1
            else list(range(min(CHOSEN, len(labels))))
        )
        parts.append({k: part[k][rows] for k in ("x", "label")})
        names += [f"{int(labels[r])} {word}" if len(classes) > 1 else f"{r} {word}" for r in rows]
    train = {k: torch.cat([p[k] for p in parts]) for k in ("x", "label")}
    return Data(
        train=train,
        observed=data.observed,
        batched=data.batched,
        size=len(names),
        coords={**data.coords, "image": names},
        dims=data.dims,
        source=data.source,
        licence=data.licence,
    )


class Vae(PyroModule):
    """The program: it owns the decoder's weights; the codes `z` `[image, latent]` are latent."""

    def __init__(
        self,
        rows: int,
        pixels: int,
        latent: int,
        hidden: int,
        layers: int,
        prior: str,
        context: bool,
    ) -> None:
        super().__init__()
        self.rows, self.pixels, self.latent = rows, pixels, latent
        sizes = [latent, *[hidden] * layers]
        parts = [
            m
            for a, b in pairwise(sizes)
            for m in (nn.Linear(a, b, dtype=torch.float64), nn.Tanh())
        ]
        self.decoder = nn.Sequential(*parts, nn.Linear(hidden, pixels, dtype=torch.float64))
        self.context = (
            nn.Parameter(torch.zeros(pixels, pixels, dtype=torch.float64)) if context else None
        )
        self.weight_logit = (
            nn.Parameter(torch.zeros(COMPONENTS, dtype=torch.float64))
            if prior == "mixture"
            else None
        )
        if prior == "mixture":
            self.location = nn.Parameter(
                1.5 * torch.randn(COMPONENTS, latent, dtype=torch.float64)
            )
            self.log_scale = nn.Parameter(
                torch.full((COMPONENTS, latent), -0.3, dtype=torch.float64)
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with module-local parameters; Pyro's default is its global store."""
        with pyro.settings.context(module_local_params=True):
            return super().__call__(*args, **kwargs)

    def prior(self) -> Any:
        """Return the distribution of one code."""
        if self.weight_logit is None:
            return dist.Normal(torch.zeros(self.latent), torch.ones(self.latent)).to_event(1)
        parts = dist.Normal(self.location, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.weight_logit), parts)

    def log_prior(self, points: Tensor) -> Tensor:
        """Return the log prior density, `[point, latent] -> [point]`, in nats."""
        value: Tensor = self.prior().log_prob(points)
        return value

    def pixel_law(self, logits: Tensor) -> Any:
        """Return the distribution of an image given the decoder's logits `[..., pixel]`."""
        return (
            dist.Bernoulli(logits=logits).to_event(1)
            if self.context is None
            else SequentialBernoulli(logits, self.context)
        )

    @property
    def likelihood(self) -> Any:
        """The likelihood as `LatentGrid` takes it."""
        return (
            BernoulliLikelihood(self.decoder)
            if self.context is None
            else SequentialLikelihood(self.decoder, self.context)
        )

    def forward(
        self, x: Tensor | None = None, label: Tensor | None = None, index: Tensor | None = None
    ) -> None:
        """Run the generative process.

        Without `x`, the length of `label` gives the number of images; `label` is not used
        otherwise.
        """
        rows = self.rows
        if index is None and (x is not None or label is not None):
            rows = len(x) if x is not None else len(label)  # type: ignore[arg-type]
        with pyro.plate("image", rows, subsample=index):
            z = pyro.sample("z", self.prior())  # [image, latent]
            if x is not None and z.shape[-2] != len(x):
                raise DataError(
                    f"There are {z.shape[-2]} codes for {len(x)} images; one per image is needed."
                )
            pyro.sample("x", self.pixel_law(self.decoder(z)), obs=x)


def build(
    data: Data,
    latent: int,
    hidden: int,
    layers: int,
    prior: str,
    context: bool,
    init: int,
    **other: Any,
) -> Vae:
    """Return the program with random weights; `init` is their seed.

    Raises:
        UsageError: no latent dimension, hidden unit or layer, or an unknown prior.
    """
    if min(latent, hidden, layers) < 1 or prior not in PRIORS:
        raise UsageError(
            f"The shape is latent={latent}, hidden={hidden}, layers={layers}, prior={prior!r};"
            f" accepted: at least 1 each, prior {' or '.join(PRIORS)}."
        )
    with seeded(init), pyro.settings.context(module_local_params=True):
        return Vae(
            int(data.size or len(data.train["x"])),
            data.train["x"].shape[1],
            latent,
            hidden,
            layers,
            prior,
            context,
        )


def grid_of(program: Vae, **options: Any) -> LatentGrid:
    """Return the exact grid of a trained decoder, for up to three latent dimensions."""
    return LatentGrid(program.likelihood, program.latent, log_prior=program.log_prior, **options)


def conditional(data: Data, program: Any, **options: Any) -> Analytic | None:
    """Return the exact posterior of the codes given the trained decoder.

    It is None with more than three latent dimensions or after a failed check of the grid.
    """
    if program.latent > LARGEST:
        return None
    x = data.train["x"]
    grid = grid_of(program).sufficient(x)
    if not grid.check(x).ok:
        return None
    evidence, mean, covariance = grid.moments(x)
    near = [
        grid.around(m, c, points={1: 801, 2: 161, 3: 49}[program.latent])
        for m, c in zip(mean, covariance, strict=True)
    ]

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        return {
            "z": torch.cat([g.sample(x[i : i + 1], n, seed + i) for i, g in enumerate(near)], 1)
        }

    zero = torch.zeros_like(mean)
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return Analytic(
        sample=sample,
        moments={"z": Moments(mean, zero, sd, zero)},
        log_evidence=float(evidence.sum()),
    )


OPTIONS = {
    "latent": 2,
    "hidden": 32,
    "layers": 2,
    "prior": "normal",
    "context": False,
    "images": "",
    "threshold": 0.46875,
    "rows": 0,
    "init": 0,
}
TRAINING = {
    "lr": 0.01,
    "weight_lr": 0.01,
    "final_lr": 1e-4,
    "num_particles": 2,
    "steps": 12_000,
    "patience": 1000,
    "anneal": 4000,
}
SHARED: dict[str, Any] = {
    "make_data": make_data,
    "build": build,
    "judged": judged,
    "conditional": conditional,
    "learns": True,
    "options": OPTIONS,
    "minibatch": 128,
    "amortize": lambda tensors: tensors["x"],
    "quantities": {
        "z": Quantity(
            fn=site("z"),
            dims=("image", "latent"),
            description="code of an image given the trained decoder",
        )
    },
    "families": ("amortized", "amortized_full", "amortized_flow", "mean_field", "block_full_rank"),
    "notices": (
        (
            "The decoder is trained once, by the first guide, and held fixed; every row is about"
            " the codes of the same 20 images."
        ),
    ),
}
CITE = "Kingma and Welling (2014), Auto-encoding variational Bayes, ICLR"

ENTRIES = (
    ModelEntry(
        name="vae",
        title="Variational autoencoder of binary 8 x 8 digits, two latent dimensions",
        reference="exact",
        training=TRAINING,
        tags=frozenset({"deep", "minibatch", "learns", "images"}),
        cites=(
            CITE,
            (
                "Cremer, Li and Duvenaud (2018), Inference suboptimality in variational"
                " autoencoders, ICML"
            ),
        ),
        **SHARED,
    ),
    ModelEntry(
        name="beta_vae",
        title="The same autoencoder trained with KL weight 4",
        reference="exact",
        training={**TRAINING, "objective": "beta[beta=4.0]"},
        tags=frozenset({"deep", "minibatch", "learns", "images"}),
        cites=(
            CITE,
            (
                "Higgins et al. (2017), beta-VAE: learning basic visual concepts with a"
                " constrained variational framework, ICLR"
            ),
        ),
        **SHARED,
    ),
    ModelEntry(
        name="iwae",
        title="The same autoencoder trained on the importance-weighted bound of 5 draws",
        reference="exact",
        training={**TRAINING, "objective": "iwae", "num_particles": 5},
        tags=frozenset({"deep", "minibatch", "learns", "images"}),
        cites=(
            CITE,
            "Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, ICLR",
        ),
        **SHARED,
    ),
)
