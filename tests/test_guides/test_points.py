"""Guides without a density: detected, without claims, and never confused with others."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from torch.distributions import constraints

import guides
import zoo
from guides import draws, fitting
from guides.draws import point_sites
from guides.session import session
from guides.types import Elbo
from zoo.density.log_density import LogDensity
from zoo.errors import FitError

Y = 1 + torch.sin(torch.arange(30.0, dtype=torch.float64))
SHORT = {"steps": 30, "patience": 10, "compile": "off"}


def model(y=None):
    """A mean and a scale; given s, m is normal around 30 ybar / (30 + s^2 / 25)."""
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("n", 30):
        pyro.sample("y", dist.Normal(m, s), obs=y)


class Own(pyro.nn.PyroModule):
    """A guide with parameters shared by the variants below."""

    def __init__(self):
        super().__init__()
        self.loc = pyro.nn.PyroParam(torch.tensor(0.5, dtype=torch.float64))
        self.scale = pyro.nn.PyroParam(
            torch.tensor(0.2, dtype=torch.float64), constraint=constraints.positive
        )
        self.place = pyro.nn.PyroParam(
            torch.tensor(1.0, dtype=torch.float64), constraint=constraints.positive
        )


class Points(Own):
    def forward(self, y=None):
        pyro.sample("m", dist.Delta(self.loc))
        pyro.sample("s", dist.Delta(self.place))


class PartlyAPoint(Own):
    def forward(self, y=None):
        pyro.sample("m", dist.Normal(self.loc, self.scale))
        pyro.sample("s", dist.Delta(self.place))


class Curve(Own):
    """Both sites move, on a curve in the plane."""

    def forward(self, y=None):
        m = pyro.sample("m", dist.Normal(self.loc, self.scale))
        pyro.sample("s", dist.Delta(self.place * m.exp()))


class Carried(Own):
    """An ordinary guide: `Delta` sites of auxiliary noise, with the change of variables."""

    def forward(self, y=None):
        z = pyro.sample(
            "z",
            dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1),
            infer={"is_auxiliary": True},
        )
        pyro.sample("m", dist.Delta(self.loc + self.scale * z[0], log_density=-self.scale.log()))
        s = self.place * (0.2 * z[1]).exp()
        pyro.sample("s", dist.Delta(s, log_density=-math.log(0.2) - s.log()))


class Plain(Own):
    def forward(self, y=None):
        pyro.sample("m", dist.Normal(self.loc, self.scale))
        pyro.sample("s", dist.LogNormal(self.place.log(), self.scale))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(fitting, "ELBO_DRAWS", 100)


def fitted(guide, **options):
    entry = zoo.from_program(model, {"y": Y}, guide=guide, name="points")
    return guides.fit(entry, "own", **SHORT, **options)


POINTS = {
    "AutoDelta": (autoguide.AutoDelta, ("m", "s")),
    "AutoLaplaceApproximation": (autoguide.AutoLaplaceApproximation, ("m", "s")),
    "points": (Points, ("m", "s")),
    "partly": (PartlyAPoint, ("s",)),
    "curve": (Curve, ("s",)),
}
OTHERS = {
    "AutoNormal": autoguide.AutoNormal,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoStructured": autoguide.AutoStructured,
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "carried": Carried,
    "plain": Plain,
}


def made(guide):
    return guide() if issubclass(guide, Own) else guide


@pytest.mark.parametrize("name", POINTS)
def test_a_point_has_neither_weights_nor_elbo(name, tmp_path):
    guide, sites = POINTS[name]
    starts = 2 if name == "AutoDelta" else 1
    fit = fitted(made(guide), restarts=starts)
    assert fit.ok
    assert fit.points == sites
    assert fit.elbo is None
    assert [r.elbo for r in fit.restarts] == [None] * starts
    posterior = guides.draw(fit, 50)
    assert posterior.log_weights is None
    words = f"A point, no spread, in {', '.join(sites)}: the guide has no density there"
    assert posterior.notes[1].startswith(words)
    assert bool((posterior.draws["s"] == posterior.draws["s"][0]).all()) == (name != "curve")
    with pytest.raises(FitError, match=words):
        guides.elbo(fit)
    if guide is not autoguide.AutoLaplaceApproximation:
        guides.save(fit, tmp_path / "fit")
        assert guides.load(tmp_path / "fit", fit.entry).points == sites


@pytest.mark.parametrize("name", OTHERS)
def test_guides_with_a_density_are_no_points(name):
    fit = fitted(made(OTHERS[name]))
    assert fit.points == ()
    assert fit.elbo is not None
    assert guides.draw(fit, 20).log_weights is not None


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank", "laplace", "flow"])
def test_no_family_of_the_house_is_taken_for_a_point(family):
    entry = zoo.from_program(model, {"y": Y}, name="points")
    fit = guides.fit(entry, family, **({} if family == "laplace" else SHORT))
    assert fit.points == ()
    assert fit.elbo is not None


def test_a_site_of_several_entries_is_a_point_where_one_of_them_is(monkeypatch):
    def wide(y=None):
        x = pyro.sample("x", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    entry = zoo.from_program(wide, {"y": torch.tensor(1.0, dtype=torch.float64)}, name="wide")
    fit = guides.fit(entry, "full_rank", **SHORT)
    with session(entry.dtype):
        density = LogDensity(entry.program(fit.data), fit.data, dtype=entry.dtype)
        assert point_sites(fit.guide, density, 0) == ()
        real = draws._guide_draws
        monkeypatch.setattr(
            draws,
            "_guide_draws",
            lambda *given: (real(*given)[0].index_fill(1, torch.tensor(1), 0.5), None),
        )
        assert point_sites(fit.guide, density, 0) == ("x",)


def test_starts_of_a_point_are_ranked_by_what_they_maximize():
    common = {
        "program": None,
        "guide": None,
        "outcome": None,
        "gradients": 0,
        "seed": 0,
        "record": None,
    }
    low, high = (
        fitting._Attempt(**common, elbo=Elbo(value_nats=v, se=0.0, draws=9), points=("m",))
        for v in (-40.0, -30.0)
    )
    assert max([low, high], key=lambda a: a.rank) is high
    assert high.bound is None
    assert fitting._Attempt(**common, elbo=high.elbo, points=()).bound == high.elbo
