"""Topic encoder: a network gives document mixtures, independent normals give topics.

    q(u) = prod_kv Normal(u_kv; m_kv, s_kv^2) prod_di Normal(u_di; m_i(x_d), s_i(x_d)^2),
    (m, log s) = MLP(x_d)

over the stick-breaking coordinates of topics and mixtures (so each mixture is logistic-normal);
x_d is row d of `entry.amortize(tensors)`, standardized. It cannot represent dependence between
coordinates, nor the K! labelings, and the encoder may not reach each document's own optimum. In
return a new document costs one pass through the network.

Training starts at the coordinate ascent of `guides.families.dirichlet`: topics have the means and
variances of its log odds (digamma and trigamma functions), and the encoder is first fitted to
those of the documents. Minibatch steps on the program's evidence lower bound follow.
Source: Srivastava and Sutton (2017), Autoencoding variational inference for topic models, ICLR;
the start is our own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guides.base.cavi_lda import ascend
from guides.base.family import Family
from guides.base.flat import FlatGuide, Start, standard_normal_log_prob
from guides.base.sticks import later, offset
from guides.families.amortized import features_of
from guides.families.dirichlet import priors
from zoo.density.log_density import LogDensity
from zoo.models.topics._topics import counts_of
from zoo.types import Data, ModelEntry, Program

IMITATION = 400  # steps that fit the encoder to the start

__all__ = ["FAMILY", "TopicEncoder", "build", "flat", "start"]


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    hidden: int = 64,
) -> nn.Module:
    """Build the guide, with two layers of `hidden` units.

    Raises:
        FitError: the program is no topic program, or the entry has no `amortize` hook that returns
            a finite matrix.
    """
    density = density or LogDensity(program, data, dtype=entry.dtype)
    priors(density)
    return TopicEncoder(density, features_of(entry, data.train), hidden=hidden)


def start(density: LogDensity, generator: torch.Generator, *, radius: float = 0.1) -> Start:
    """Return means and sds of the log odds under the Dirichlets of the coordinate ascent."""
    prior = priors(density)
    counts = counts_of(density.data.train, prior["topic"].shape[-1]).to(density.dtype)
    found = ascend(counts, prior["topic"], prior["mixture"], generator)
    means, scales = [], []
    for s in density.sites:
        a = found.topics if s.name == "topic" else found.mixtures
        first, rest = a[:, :-1], later(a)
        means.append((first.digamma() - rest.digamma() + offset(a)).reshape(-1))
        scales.append((first.polygamma(1) + rest.polygamma(1)).sqrt().reshape(-1))
    sentence = f"started from a coordinate ascent of {found.passes} passes"
    return Start(loc=torch.cat(means), scale=torch.cat(scales), sentence=sentence)


def flat(guide: nn.Module, start: Start) -> FlatGuide:
    """Initialize the guide at the start."""
    assert isinstance(guide, TopicEncoder)
    guide.begin(start)
    return guide


class TopicEncoder(FlatGuide):
    """The guide above over the flat vector of a topic program's log density."""

    features: Tensor
    feature_mean: Tensor
    feature_sd: Tensor
    center: Tensor
    spread: Tensor
    base: Tensor
    width: Tensor

    def __init__(self, density: LogDensity, features: Tensor, *, hidden: int) -> None:
        super().__init__()
        self.place = {s.name: (s.start, s.stop) for s in density.sites}
        self.dim = self.noise_dim = density.dim
        self.documents = len(features)
        begin, end = self.place["mixture"]
        self.local = (end - begin) // self.documents
        topics = self.place["topic"][1] - self.place["topic"][0]
        sd = features.std(0)
        self.register_buffer("features", features)
        self.register_buffer("feature_mean", features.mean(0))
        self.register_buffer("feature_sd", torch.where(sd > 1e-6, sd, torch.ones_like(sd)))
        zero = features.new_zeros(self.local)
        for name, value in (
            ("center", zero),
            ("spread", zero + 1),
            ("base", zero),
            ("width", features.new_ones(topics)),
        ):
            self.register_buffer(name, value.clone())
        self.loc = nn.Parameter(features.new_zeros(topics))
        self.log_scale = nn.Parameter(features.new_zeros(topics))
        options: dict[str, Any] = {"dtype": density.dtype}
        self.encoder = nn.Sequential(
            nn.Linear(features.shape[1], hidden, **options),
            nn.Tanh(),
            nn.Linear(hidden, hidden, **options),
            nn.Tanh(),
            nn.Linear(hidden, 2 * self.local, **options),
        )

    def begin(self, start: Start) -> None:
        """Set the topics to the start's moments and fit the encoder to those of the documents."""
        low, high = self.place["topic"]
        first, last = self.place["mixture"]
        wanted = [
            v[first:last].reshape(self.documents, self.local)
            for v in (start.loc, start.scale.log())
        ]
        with torch.no_grad():
            self.width.copy_(start.scale[low:high])
            self.loc.copy_(start.loc[low:high] / self.width)
            self.center.copy_(wanted[0].mean(0))
            self.spread.copy_(wanted[0].std(0).clamp(min=1e-3))
            self.base.copy_(wanted[1].mean(0))
        rows = self._standard(self.features)
        target = torch.cat([(wanted[0] - self.center) / self.spread, wanted[1] - self.base], -1)
        adam = torch.optim.Adam(self.encoder.parameters(), lr=0.01)
        with torch.enable_grad():
            for step in range(IMITATION):
                for group in adam.param_groups:
                    group["lr"] = 0.01 * (1 - step / IMITATION) + 1e-4
                adam.zero_grad()
                (self.encoder(rows) - target).square().mean().backward()
                adam.step()
        adam.zero_grad()

    def _standard(self, features: Tensor) -> Tensor:
        return (features - self.feature_mean) / self.feature_sd

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return locations and scales `[document, topic - 1]` of the mixtures' coordinates."""
        out = self.encoder(self._standard(features))
        return (
            self.center + self.spread * out[:, : self.local],
            (self.base + out[:, self.local :]).exp(),
        )

    def topics(self) -> tuple[Tensor, Tensor]:
        """Return flat locations and scales of the topics' coordinates."""
        return self.width * self.loc, self.width * self.log_scale.exp()

    def sample(
        self, noise: Tensor, *, index: Tensor | None = None, stl: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map noise `[n, dim]` to points and their log q; documents outside `index` stay 0."""
        n = len(noise)
        (low, high), (first, last) = self.place["topic"], self.place["mixture"]
        units = torch.arange(self.documents) if index is None else index
        loc, scale = self.topics()
        m, s = self.encode(self.features[units])
        topic = loc + scale * noise[:, low:high]
        each = (
            m + s * noise[:, first:last].reshape(n, self.documents, self.local)[:, units]
        )  # [n, document, topic - 1]
        whole = each.new_zeros(n, self.documents, self.local).index_copy(1, units, each).flatten(1)
        u = torch.cat([topic, whole] if low < first else [whole, topic], -1)
        if stl:
            loc, scale, m, s = loc.detach(), scale.detach(), m.detach(), s.detach()
        weight = self.documents / len(units)
        return u, _log_normal(topic, loc, scale) + weight * _log_normal(
            each.flatten(1), m.reshape(-1), s.reshape(-1)
        )

    def log_prob_flat(self, u: Tensor) -> Tensor:
        """Return log q `[n]` at points `[n, dim]`."""
        (low, high), (first, last) = self.place["topic"], self.place["mixture"]
        m, s = self.encode(self.features)
        return _log_normal(u[:, low:high], *self.topics()) + _log_normal(
            u[:, first:last], m.reshape(-1), s.reshape(-1)
        )


def _log_normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return standard_normal_log_prob((x - loc) / scale) - scale.log().sum()


FAMILY = Family(
    name="topic_encoder",
    q=(
        "an encoder network per document over logistic-normal mixtures, independent normals over"
        " topics"
    ),
    blind_spot="one labeling of the topics",
    build=build,
    options=("hidden",),
    defaults={"steps": 2500, "lr": 0.005, "num_particles": 2, "patience": 250, "anneal": 500},
    flat=flat,
    start=start,
    encoder=True,
)
