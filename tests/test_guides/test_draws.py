"""Draws have the spread of their guide, bounds their error, and encoders move as a whole."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from support import densities
from torch import nn

import guides
import zoo
from guides import draws as draws_module
from guides.base.flat import FlatGuide
from guides.draws import (
    _rows_of,
    density_of,
    draw,
    elbo,
    estimate_elbo,
    point_sentence,
    point_sites,
    transfer,
    weighted_draws,
)
from guides.families.flow import FlowGuide
from guides.session import session
from guides.types import Fit, FitConfig, Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UnknownNameError, UsageError
from zoo.seeds import derive_seed
from zoo.types import Cost, Data


@pytest.fixture
def density(tiny):
    entry, _ = tiny.gaussian(d=2)
    data = entry.load_data()
    return LogDensity(entry.program(data), data, dtype=entry.dtype)


@pytest.fixture
def guide():
    """An untrained flow is the normal of its buffers."""
    made = FlowGuide(2, layers=2, hidden=4, dtype=torch.float64)
    made.origin.copy_(torch.tensor([1.0, 1.0]))
    made.tril.copy_(torch.tensor([[0.8, 0.0], [0.5, 0.6]]))
    return made


def test_draws_of_a_flat_guide_have_its_own_sd(density, guide):
    number = 10_000
    with session(torch.float64):
        u, log_p, log_q = weighted_draws(guide, density, number, seed=0)
    covariance = guide.tril @ guide.tril.T
    sd = covariance.diagonal().sqrt()
    assert ((u.std(0) / sd - 1).abs() < 4 / (2 * number) ** 0.5).all()
    assert ((u.mean(0) - guide.origin).abs() < 4 * sd / number**0.5).all()
    known = torch.distributions.MultivariateNormal(guide.origin, covariance)
    torch.testing.assert_close(log_q, known.log_prob(u))
    torch.testing.assert_close(log_p, density.batch(u))


def test_the_error_of_a_bound_is_that_of_its_mean(density, guide):
    with session(torch.float64):
        many = [estimate_elbo(guide, density, 400, seed) for seed in range(100)]
        few = [estimate_elbo(guide, density, 100, seed) for seed in range(100)]
    values = torch.tensor([e.value_nats for e in many])
    # the sd of 100 estimates is known to 7 %
    assert float(values.std()) == pytest.approx(
        sum(e.se for e in many) / len(many), rel=4 / (2 * 100) ** 0.5
    )
    ratio = sum(e.se for e in many) / sum(e.se for e in few)
    assert ratio == pytest.approx(0.5, abs=0.02)
    cov = torch.full((2, 2), 0.9, dtype=torch.float64).fill_diagonal_(1.0)
    p = torch.distributions.MultivariateNormal(torch.ones(2, dtype=torch.float64), cov)
    q = torch.distributions.MultivariateNormal(guide.origin, guide.tril @ guide.tril.T)
    exact = -float(torch.distributions.kl_divergence(q, p))
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 100**0.5


def test_a_transferred_encoder_has_every_buffer_and_maps_alike(tiny):
    """Units in another order are encoded as in the first one."""
    import pyro
    import pyro.distributions as dist

    y = torch.linspace(-3, 5, 8, dtype=torch.float64)

    def program(y, index=None):
        with pyro.plate("row", len(y), subsample=index):
            z = pyro.sample("z", dist.Normal(2.0, 3.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    entry = tiny.entry(
        "local",
        lambda: Data(train={"y": y}, batched=("y",), size=8),
        program,
        amortize=lambda tensors: tensors["y"].unsqueeze(-1),
    )
    fit = guides.fit(
        entry, "amortized", steps=60, patience=10, anneal=20, num_particles=4, compile="off"
    )
    order = torch.tensor([5, 0, 7])
    moved = guides.transfer(fit, Data(train={"y": y[order]}, batched=("y",), size=3)).guide
    own = {n: b for n, b in fit.guide.named_buffers() if n not in ("features", "places")}
    others = dict(moved.named_buffers())
    changed = [n for n in ("feature_mean", "feature_sd", "center", "spread", "base")]
    assert all(torch.equal(own[n], others[n]) for n in changed)
    assert float(own["spread"]) != 1.0  # what is not carried over would be told apart
    assert float(own["feature_sd"]) != 1.0
    for mine, theirs in zip(
        fit.guide.encode(y[order, None]), moved.encode(y[order, None]), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    noise = torch.zeros(1, 8, dtype=torch.float64)
    torch.testing.assert_close(
        fit.guide.sample(noise)[0][0, order], moved.sample(noise[:, :3])[0][0]
    )


# -- fits made by hand ---------------------------------------------------------------------------


def fit_of(tiny, guide, *, status="ok", points=(), entry=None, family="flow", seed=7):
    entry = entry or tiny.gaussian(d=2)[0]
    data = entry.load_data()
    return Fit(
        entry=entry,
        data=data,
        family=family,
        program=entry.program(data),
        guide=guide,
        config=FitConfig(),
        seed=seed,
        losses=None,
        stop=Stop(status=status, sentence="It ended so.", step=1),
        elbo=None,
        cost=Cost(seconds=100.0),
        points=points,
    )


def test_a_draw_has_sites_weights_and_the_cost_of_both(tiny, guide):
    made = fit_of(tiny, guide)
    found = draw(made, 5)
    assert found.entry is made.entry
    assert found.data is made.data
    assert (found.method, found.seed, found.sample_dims) == ("flow", 7, ("sample",))
    assert found.draws["x"].shape == (5, 2)
    assert torch.equal(found.unconstrained, found.draws["x"])
    density = density_of(made)
    expected = density.batch(found.unconstrained) - guide.log_prob_flat(found.unconstrained)
    torch.testing.assert_close(found.log_weights, expected.detach())
    assert 100.0 < found.cost.seconds < 110.0
    assert found.notes == ("It ended so.",)
    assert not found.log_weights.requires_grad
    assert draw(made).draws["x"].shape == (2000, 2)


def test_draws_depend_on_the_seed_the_entry_and_the_family(tiny, guide):
    def drawn(n=3, seed=None, **options):
        return draw(fit_of(tiny, guide, **options), n, seed=seed).unconstrained

    first = drawn()
    assert torch.equal(first, drawn())
    assert torch.equal(first, drawn(seed=7))
    assert not torch.equal(first, drawn(seed=8))
    assert not torch.equal(first, drawn(family="full_rank"))
    with session(torch.float64):
        density = density_of(fit_of(tiny, guide))
        known, *_ = weighted_draws(guide, density, 3, derive_seed(7, "gaussian", "flow", "draw"))
    assert torch.equal(first, known)


def test_the_density_is_evaluated_in_blocks(monkeypatch, density, guide):
    sizes = []
    batch = density.batch
    monkeypatch.setattr(density, "batch", lambda u: sizes.append(len(u)) or batch(u))
    monkeypatch.setattr(draws_module, "BLOCK", 7)
    with session(torch.float64):
        u, log_p, log_q = weighted_draws(guide, density, 8, 0)
    assert sizes == [3, 3, 2]
    torch.testing.assert_close(log_p, batch(u))
    assert len(log_q) == 8


def test_a_point_has_a_note_in_place_of_weights(tiny, guide):
    found = draw(fit_of(tiny, guide, points=("x",)), 2)
    assert found.log_weights is None
    assert found.notes == ("It ended so.", point_sentence(("x",)))
    with pytest.raises(FitError) as caught:
        elbo(fit_of(tiny, guide, points=("x",)))
    assert str(caught.value) == (
        "A point, no spread, in x: the guide has no density there, so it has no k-hat, no weights,"
        " and its ELBO is no bound; give these sites a distribution with spread."
    )


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)
def test_at_most_three_points_are_named(where, names):
    assert point_sentence(where).startswith(f"A point, no spread, in {names}: the guide has no")


@pytest.mark.parametrize("act", [draw, elbo, lambda fit: transfer(fit, {})])
def test_a_fit_without_finite_parameters_is_refused(tiny, guide, act):
    with pytest.raises(FitError) as caught:
        act(fit_of(tiny, guide, status="nan"))
    assert str(caught.value) == "The flow fit of gaussian is not usable (nan): It ended so."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 0}, "guides.draw got n=0 (int); accepted: an integer of at least 1."),
        (
            {"seed": -1},
            "guides.draw got seed=-1 (int); accepted: an integer of at least 0, or None",
        ),
    ],
)
def test_numbers_of_draws_and_seeds_are_checked(tiny, guide, given, said):
    with pytest.raises(UsageError) as caught:
        draw(fit_of(tiny, guide), **given)
    assert str(caught.value).startswith(said)


def test_the_density_of_a_fit_is_made_once_for_its_program_and_data(tiny, guide):
    made = fit_of(tiny, guide)
    first = density_of(made)
    assert density_of(made) is first
    assert first.dtype == torch.float64
    object.__setattr__(made, "data", made.entry.load_data())
    second = density_of(made)
    assert second is not first
    object.__setattr__(made, "program", lambda **tensors: first.program(**tensors))
    assert density_of(made) is not second


def test_a_bound_is_the_mean_of_the_log_weights(tiny, guide):
    made = fit_of(tiny, guide)
    found = elbo(made, 50)
    with session(torch.float64):
        seed = derive_seed(7, "gaussian", "flow", "elbo")
        _, log_p, log_q = weighted_draws(guide, density_of(made), 50, seed)
    value = log_p - log_q
    assert found.value_nats == pytest.approx(float(value.mean()))
    assert found.se == pytest.approx(float(value.std()) / 50**0.5)
    assert found.draws == 50
    assert elbo(made, 50, seed=8) != found
    assert elbo(made, 50, seed=7) == found


# -- other rows ----------------------------------------------------------------------------------


def by_rows(x):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 2), 1.0).to_event(1), obs=x)


def encoder(x):
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(x @ loc, 1.0))


@pytest.fixture(scope="module")
def of_rows():
    entry = zoo.from_program(by_rows, {"x": torch.ones(4, 2)}, guide=encoder, minibatch=2)
    return guides.fit(entry, "own", seed=0, steps=0)


OTHERS = (
    "; accepted: the program's arguments by name, as {'x': x}, or data such as entry.judged(data)."
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            (torch.ones(3, 2),),
            "guides.transfer got data=a tuple with a Tensor of shape (3, 2)" + OTHERS,
        ),
        (torch.ones(3, 2), "guides.transfer got data=a Tensor of shape (3, 2)" + OTHERS),
        ({"y": 1}, "Unknown argument of the program 'y'; accepted: x."),
        ({}, "The other units need 'x', which has one value per row; got nothing."),
        *(
            (
                {"x": x},
                f"data['x'] {what}; accepted: rows like those of the training data, (n, 2).",
            )
            for x, what in [
                (torch.ones(3, 5), "has shape (3, 5)"),
                (torch.ones(3), "has shape (3,)"),
                (torch.tensor(1.0), "has shape ()"),
                (3, "is 3 (int)"),
                ("abc", "is 'abc' (str)"),
            ]
        ),
    ],
)
def test_other_rows_that_are_none_of_the_program_are_described(of_rows, data, said):
    with pytest.raises(UsageError) as caught:
        transfer(of_rows, data)
    assert str(caught.value) == said


def test_other_rows_of_the_program_are_taken(of_rows):
    assert transfer(of_rows, {"x": torch.ones(3, 2)}).data.size == 3


@pytest.mark.parametrize("act", [draw, elbo, lambda fit: transfer(fit, {})])
def test_what_is_no_fit_is_refused(act):
    with pytest.raises(UsageError, match=r"got fit=a Tensor of shape \(2,\); accepted: a fit"):
        act(torch.zeros(2))


# -- points --------------------------------------------------------------------------------------


def two_sites():
    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(a + b.sum(), 1.0), obs=y)

    return densities.density_of(program, y=torch.zeros((), dtype=torch.float64))


def guide_program(noise=0, *, delta=True, extra=None):
    """b is a point at a function of `noise` auxiliary numbers."""

    class Program(nn.Module):
        def forward(self, y):
            pyro.sample("a", dist.Normal(0.0, 1.0))
            loc = torch.zeros(2)
            if noise:
                with_noise = dist.Normal(torch.zeros(noise), 1.0).to_event(1)
                z = pyro.sample("z", with_noise, infer={"is_auxiliary": True})
                loc = loc + z.sum() + torch.tensor([0.0, 1.0])
            if extra:
                pyro.sample("still", dist.Delta(torch.ones(5), event_dim=1),
                            infer={"is_auxiliary": True})  # fmt: skip
            pyro.sample(
                "b", dist.Delta(loc, event_dim=1) if delta else dist.Normal(loc, 1.0).to_event(1)
            )

    return Program()


@pytest.mark.parametrize(
    ("guide_", "points"),
    [
        (guide_program(delta=False), ()),
        (guide_program(), ("b",)),
        (guide_program(1), ("b",)),
        (guide_program(2), ()),
        (guide_program(1, extra=True), ("b",)),
    ],
)
def test_a_site_that_its_noise_cannot_fill_is_a_point(guide_, points):
    with session(torch.float64):
        assert point_sites(guide_, two_sites(), 0) == points


def test_a_flat_guide_is_a_point_where_a_coordinate_does_not_move():
    class Still(FlatGuide):
        dim = noise_dim = 3

        def sample(self, noise, *, index=None, stl=False):
            return noise * torch.tensor([1.0, 1.0, 0.0]), noise[:, 0]

        def log_prob_flat(self, u):
            return u[:, 0]

    with session(torch.float64):
        assert point_sites(Still(), two_sites(), 0) == ("b",)


def test_a_guide_that_knows_its_flat_vector_is_not_run():
    class Flat(nn.Module):
        def draw_flat(self, n):
            return torch.randn(n, 3).double(), torch.zeros(n)

    with session(torch.float64):
        density = two_sites()
        assert point_sites(Flat(), density, 0) == ()
        u, _, log_q = weighted_draws(Flat(), density, 4, 0)
    assert u.shape == (4, 3)
    assert log_q.tolist() == [0.0] * 4


# -- other units ---------------------------------------------------------------------------------


def test_a_guide_without_an_encoder_knows_only_its_own_units(tiny, guide):
    with pytest.raises(FitError) as caught:
        transfer(fit_of(tiny, guide), {})
    assert str(caught.value) == (
        "The flow guide of gaussian has no encoder, so it knows only its own units; fit the other"
        " units."
    )
    entry, _ = tiny.gaussian()
    own = dataclasses.replace(entry, own_guides={"mine": lambda *a: guide})
    with pytest.raises(FitError) as caught:
        transfer(fit_of(tiny, guide, entry=own, family="mine"), {})
    assert str(caught.value) == (
        "The mine guide of gaussian has no encoder, so it knows only its own units; a guide serves"
        " other units if it runs on any number of rows of its arguments, without a parameter per"
        " row, and the entry knows the rows (batched= or minibatch=)."
    )


def rows_fit(tiny):
    fit = fit_of(tiny, None, entry=tiny.intercepts(groups=3, rows=2)[0])
    train = {**fit.data.train, "x": torch.zeros(3), "k": 5}
    data = dataclasses.replace(
        fit.data, train=train, batched=("y", "x"), test={"y": torch.zeros(1, 2)},
        coords={"group": [1, 2, 3]},
    )  # fmt: skip
    object.__setattr__(fit, "data", data)
    return fit


def test_other_rows_of_the_arguments_become_data(tiny):
    fit = rows_fit(tiny)
    found = _rows_of(fit, {"y": [[1.0, 2.0]] * 4, "x": torch.ones(4)})
    assert found.size == 4
    assert found.train["y"].shape == (4, 2)
    assert found.train["y"].dtype == torch.float64
    assert found.train["k"] == 5
    assert (found.test, dict(found.coords)) == (None, {})
    assert found.observed == fit.data.observed


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"z": 1}, UnknownNameError, "Unknown argument of the program 'z'"),
        (
            {"x": torch.ones(2)},
            UsageError,
            "The other units need 'y', which has one value per row; got 'x'.",
        ),
        (
            {"x": torch.ones(2), "y": torch.ones(3, 2)},
            UsageError,
            "The other units have {'y': 3, 'x': 2} rows; give every argument one value per row.",
        ),
    ],
)
def test_other_rows_that_do_not_fit_are_refused(tiny, given, kind, said):
    with pytest.raises(kind) as caught:
        _rows_of(rows_fit(tiny), given)
    assert str(caught.value).startswith(said)
