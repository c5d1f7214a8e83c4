"""The promise of `observed`: the program draws what it scores; every contract test holds it."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from zoo.contract import checks, predictive
from zoo.types import Data, ModelEntry, Quantity

Y = torch.tensor([0.3, -0.2, 1.1, 0.4, -0.9, 0.2], dtype=torch.float64)


def coefficient():
    return pyro.sample("phi", dist.Normal(0.0, 1.0))


def series(mean, y, name="y"):
    with pyro.plate("step", 6):
        pyro.sample(name, dist.Normal(mean, 1.0), obs=y)


def past_or_zeros(y=None):
    """Predicts from its own past, and from zeros where that is taken away."""
    past = torch.zeros(6, dtype=torch.float64) if y is None else y.roll(1)
    series(coefficient() * past, y)


def past_by_slices(y=None):
    phi = coefficient()
    with pyro.plate("step", 5):
        pyro.sample("y", dist.Normal(phi * y[:-1], 1.0), obs=y[1:])


def past_without_default(y):
    series(coefficient() * y.roll(1), y)


def scale_of_the_data(y=None):
    """The prior takes its scale from the data."""
    scale = 1.0 if y is None else 5 * y.std()
    series(pyro.sample("phi", dist.Normal(0.0, scale)), y)


def still_observed(y=None):
    series(coefficient(), Y if y is None else y)


def without_noise(y=None):
    phi = coefficient()
    with pyro.plate("step", 6):
        pyro.sample("y", dist.Normal(0 * phi + 1.0, 1e-30), obs=y)


def other_shape(y=None):
    phi = coefficient()
    with pyro.plate("step", 6 if y is not None else 3):
        pyro.sample("y", dist.Normal(phi, 1.0), obs=y)


def other_site(y=None):
    series(coefficient(), y, name="y" if y is not None else "drawn")


def plain(y):
    series(coefficient(), y)


def sized_by_the_data(y=None):
    phi = coefficient()
    with pyro.plate("step", len(y)):
        pyro.sample("y", dist.Normal(phi, 1.0), obs=y)


def one_step_ahead(lags, y=None):
    """The past is an argument of its own, which stays."""
    series(coefficient() * lags, y)


def from_returned_values(y=None):
    phi, value = coefficient(), torch.zeros((), dtype=torch.float64)
    for t in range(6):
        value = pyro.sample(
            f"y_{t}", dist.Normal(phi * value, 1.0), obs=None if y is None else y[t]
        )


def flat_mean(y=None):
    series(pyro.sample("phi", dist.ImproperUniform(dist.constraints.real, (), ())), y)


def flat_past(y=None):
    phi = pyro.sample("phi", dist.ImproperUniform(dist.constraints.real, (), ()))
    series(phi * (torch.zeros(6, dtype=torch.float64) if y is None else y.roll(1)), y)


def outcome(entry):
    (check,) = [c for c in checks(entry) if c.name == "prior_predictive"]
    return check.run()


def card(program, **train):
    return ModelEntry(
        name="planted",
        title="A planted program",
        make_data=lambda seed: Data(train=train, observed=("y",), source="typed", licence="CC0"),
        build=lambda data: program,
        quantities={"phi": Quantity(fn=lambda draws, data: draws["phi"])},
        reference="nuts",
    )


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (past_or_zeros, "Site 'y' is drawn from another distribution"),
        (past_by_slices, "does not run without"),
        (past_without_default, "does not run without"),
        (scale_of_the_data, "Site 'phi' is drawn from another distribution"),
        (still_observed, "still observed"),
        (without_noise, "ignores its random choices"),
        (other_shape, "simulates shape [3]"),
        (other_site, "Site 'y' does not appear"),
        (flat_past, "Site 'y' is drawn from another distribution"),
    ],
)
def test_a_broken_promise_fails_with_site_and_cure(program, words):
    found = outcome(card(program, y=Y))
    assert found.status == "failed"
    assert words in found.sentence
    assert "'y'" in found.sentence
    assert found.sentence.endswith(".")


@pytest.mark.parametrize("program", [past_by_slices, past_without_default])
def test_stock_programs_whose_past_is_their_data_fail_as_well(program):
    """Their observed argument has no default or gives sizes, so it is exchanged, not removed."""
    found = outcome(zoo.from_program(program, {"y": Y}))
    assert found.status == "failed"
    assert "as an argument that stays" in found.sentence


@pytest.mark.parametrize("program", [plain, sized_by_the_data])
def test_stock_programs_that_take_sizes_from_their_data_pass(program):
    assert outcome(zoo.from_program(program, {"y": Y})).status == "ok"


@pytest.mark.parametrize("program", [from_returned_values, one_step_ahead])
def test_a_past_that_stays_or_is_returned_passes(program):
    train = {"y": Y, "lags": Y.roll(1)} if program is one_step_ahead else {"y": Y}
    assert outcome(card(program, **train)).status == "ok"


@pytest.mark.parametrize(
    ("program", "expected"), [(one_step_ahead, 1), (without_noise, predictive.SEEDS)]
)
def test_other_noise_is_tried_until_every_site_has_differed(program, expected, monkeypatch):
    seeds, real = [], predictive._run

    def counted(subject, program, tensors, held, seed):
        seeds.append(seed)
        return real(subject, program, tensors, held, seed)

    monkeypatch.setattr(predictive, "_run", counted)
    train = {"y": Y, "lags": Y.roll(1)} if program is one_step_ahead else {"y": Y}
    outcome(card(program, **train))
    assert len([s for s in seeds if s > 1]) == expected


def test_flat_priors_are_held_at_a_point():
    found = outcome(card(flat_mean, y=Y))
    assert found.status == "skipped"
    assert "at one point of them 'y' can" in found.sentence


@pytest.mark.parametrize(
    ("name", "sites", "found"),
    [
        ("y", ["y"], "y"),
        ("y_observed", ["y"], "y"),  # `obs_mask=` gave it this name with data only
        ("y_observed", ["y_observed"], "y_observed"),
        ("y_observed", ["y", "y_observed"], "y_observed"),
        ("y_observed", [], "y_observed"),
        ("y", ["y_observed"], "y"),
    ],
)
def test_a_site_with_missing_values_is_found_under_its_name_without_data(name, sites, found):
    assert predictive._name(name, SimpleNamespace(nodes=dict.fromkeys(sites))) == found
