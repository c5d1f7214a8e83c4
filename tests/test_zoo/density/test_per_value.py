"""Discrete sites summed out by one run of the program per value."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from support.densities import density_of

from zoo.density.completion import Completion
from zoo.density.log_density import LogDensity
from zoo.density.per_value import PerValue
from zoo.density.sites import samples, trace_program
from zoo.errors import ProgramError
from zoo.types import Data

Y = torch.tensor([0.3, 1.4, 2.2], dtype=torch.float64)
LOC = [0.0, 1.5, 3.0]
WEIGHT = [0.2, 0.5, 0.3]


def rows(y, other=None):
    """Statements that take one value per row: a list of Python floats."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.tensor(WEIGHT)))
        shift = torch.stack([torch.tensor(LOC[int(v)]) for v in k])
        pyro.sample("y", dist.Normal(m + shift, 1.0), obs=y)
    pyro.sample("other", dist.Normal(m, 2.0), obs=torch.tensor(0.5))


def by_hand(m):
    """The terms of every row, [value, row]."""
    return np.array(
        [
            [math.log(w) + scipy.stats.norm.logpdf(y, m + loc, 1.0) for y in Y.tolist()]
            for w, loc in zip(WEIGHT, LOC, strict=True)
        ]
    )


def made(program, *, failure=None, most=1000, completion=None, **train):
    trace = trace_program(program, train)
    nodes = [n for n in samples(trace) if not n["is_observed"] and n["name"] != "m"]
    return PerValue(
        program, completion or Completion(), nodes, failure or RuntimeError("no room"), most
    )


DRAWS = {"m": torch.tensor(0.4, dtype=torch.float64)}


@pytest.fixture(autouse=True)
def double():
    from zoo.density.sites import default_dtype

    with default_dtype(torch.float64):
        yield


def test_the_density_of_a_program_that_takes_one_value_is_the_sum():
    density = density_of(rows, y=Y)
    assert density.per_value is not None
    expected = scipy.stats.norm.logpdf(0.4) + scipy.stats.norm.logpdf(0.5, 0.4, 2.0)
    expected += np.logaddexp.reduce(by_hand(0.4), 0).sum()
    assert float(density(torch.tensor([0.4]))) == pytest.approx(expected)
    assert density.per_value.joint == [(0,), (1,), (2,)]


def test_rows_and_the_terms_outside_them():
    per_value = made(rows, y=Y)
    inside, outside = per_value.rows(DRAWS, {"y": Y})
    np.testing.assert_allclose(inside, by_hand(0.4), rtol=1e-12)
    expected = scipy.stats.norm.logpdf(0.4) + scipy.stats.norm.logpdf(0.5, 0.4, 2.0)
    assert float(outside) == pytest.approx(expected)
    only, rest = per_value.rows(DRAWS, {"y": Y}, "other")
    np.testing.assert_allclose(only, np.log(WEIGHT)[:, None].repeat(3, 1), rtol=1e-12)
    assert float(rest) == pytest.approx(scipy.stats.norm.logpdf(0.5, 0.4, 2.0))
    assert float(per_value.log_prob(DRAWS, {"y": Y})) == pytest.approx(
        np.logaddexp.reduce(by_hand(0.4), 0).sum() + expected
    )


def test_the_likelihood_of_every_row_at_each_observed_site():
    def inside(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            k = pyro.sample("k", dist.Categorical(torch.tensor(WEIGHT)))
            shift = torch.stack([torch.tensor(LOC[int(v)]) for v in k])
            pyro.sample("y", dist.Normal(m + shift, 1.0), obs=y)
            pyro.sample("w", dist.Normal(shift, 2.0), obs=y + 1)
            pyro.deterministic("shift", shift)
            pyro.factor("f", 0 * shift)

    found = made(inside, y=Y).observed_terms(DRAWS, {"y": Y})
    assert sorted(found) == ["w", "y"]
    np.testing.assert_allclose(found["y"], np.logaddexp.reduce(by_hand(0.4), 0), rtol=1e-12)
    w = [
        [math.log(p) + scipy.stats.norm.logpdf(y + 1, loc, 2.0) for y in Y.tolist()]
        for p, loc in zip(WEIGHT, LOC, strict=True)
    ]
    np.testing.assert_allclose(found["w"], np.logaddexp.reduce(w, 0), rtol=1e-12)


def test_a_mask_takes_its_rows_out_of_the_likelihood_and_a_scale_does_not_count():
    def inside(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            k = pyro.sample("k", dist.Categorical(torch.tensor(WEIGHT)))
            shift = torch.stack([torch.tensor(LOC[int(v)]) for v in k])
            with pyro.poutine.mask(mask=torch.tensor([True, False, True])):
                pyro.sample("y", dist.Normal(m + shift, 1.0), obs=y)

    found = made(inside, y=Y).observed_terms(DRAWS, {"y": Y})["y"]
    expected = np.logaddexp.reduce(by_hand(0.4), 0)
    expected[1] = 0.0
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plate", [True, False])
def test_observations_that_share_a_discrete_site_have_no_likelihood_of_their_own(plate):
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if plate:
            with pyro.plate("row", 3):
                k = pyro.sample("k", dist.Bernoulli(0.5))
        else:
            k = pyro.sample("k", dist.Bernoulli(0.5))
        with pyro.plate("seen", 3):
            pyro.sample("y", dist.Normal(m + k, 1.0), obs=y)

    with pytest.raises(ProgramError) as caught:
        made(program, y=Y).observed_terms(DRAWS, {"y": Y})
    assert str(caught.value) == (
        "Discrete site 'k' is shared by several observations of 'y', so no log likelihood per"
        " observation exists; compare the evidence instead."
    )


def refused(act):
    with pytest.raises(ProgramError) as caught:
        act()
    message = str(caught.value)
    assert message.endswith(
        "; write the statement for values of any leading axes (index with [..., i], expand before"
        " torch.cat), choose between branches with torch.where or a mask, or sum the site out by"
        " hand."
    )
    return message.partition(" do not give the sum: ")[2].partition("; write the statement")[0]


def test_the_message_has_the_sites_and_why_they_could_not_be_run_at_once():
    def two(y):
        pyro.sample("a", dist.Bernoulli(0.5))
        with pyro.plate("row", 3):
            pyro.sample("b", dist.Bernoulli(0.5))

    with pytest.raises(ProgramError) as caught:
        made(two, failure=ValueError("wrong\nshape."), y=Y)
    assert str(caught.value).startswith(
        "The program has no room for an axis of all values of discrete site 'a', 'b' (ValueError:"
        " wrong shape), and runs with one value at a time do not give the sum: they lie in"
        " different plates; write"
    )
    try:
        exec(compile("1 / 0", "theirs.py", "exec"))
    except ZeroDivisionError as error:
        with pytest.raises(ProgramError, match="site 'a', 'b' in `line 1` "):
            made(two, failure=error, y=Y)


def test_a_site_with_an_axis_that_is_no_plate_is_refused():
    def program(y):
        pyro.sample("k", dist.Bernoulli(torch.full((2,), 0.5)))

    assert refused(lambda: made(program, y=Y)) == "one of them has an axis that is no plate"

    def fine(y):
        with pyro.plate("row", 3):
            pyro.sample("k", dist.Bernoulli(0.5))

    assert made(fine, y=Y).dims == [-1]
    assert made(fine, y=Y).plates == {"row"}


def test_more_runs_than_allowed_are_refused():
    def program(y):
        for i in range(3):
            pyro.sample(f"k{i}", dist.Bernoulli(0.5))

    assert len(made(program, most=8, y=Y).joint) == 8
    assert refused(lambda: made(program, most=7, y=Y)) == (
        "8 runs, more than 7, would be needed for the sum"
    )


def test_a_minibatch_is_refused():
    per_value = made(rows, y=Y)
    assert refused(lambda: per_value.log_prob(DRAWS, {"y": Y, "index": torch.tensor([0])})) == (
        "a minibatch has other rows in every run"
    )


def checked(program):
    per_value = made(program, y=Y)
    return per_value.check(DRAWS, {"y": Y})


def test_rows_of_their_own_pass_the_check():
    assert checked(rows) is None


def test_a_term_outside_the_plates_that_depends_on_them_is_refused():
    def program(y):
        pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(k.sum(), 1.0).expand([3]).to_event(1), obs=y)

    assert refused(lambda: checked(program)) == "a term outside their plates depends on them"


def test_a_row_that_depends_on_the_value_of_another_is_refused():
    def program(y):
        pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(k + k.flip(0), 1.0), obs=y)

    assert refused(lambda: checked(program)) == (
        "a term of one row depends on the value of another"
    )


def test_a_site_that_is_there_for_some_values_only_is_refused():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Bernoulli(0.5))
        if float(k) > 0.5:
            pyro.sample("late", dist.Normal(m, 1.0))

    trace = trace_program(program, {"y": Y}, seed=0)
    per_value = PerValue(program, Completion(), [trace.nodes["k"]], RuntimeError("no room"))
    assert refused(lambda: per_value.log_prob(DRAWS, {"y": Y})) == (
        "site 'late' is there for some values only, so the latent sites are no fixed set (fix the"
        " value, or keep every site and mask it)"
    )


def test_events_and_several_sites_of_a_row():
    """A pair of a class and a whole event per row; joint values in the order of the sites."""

    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            k = pyro.sample("k", dist.Bernoulli(0.25))
            urn = pyro.sample("urn", dist.OneHotCategorical(torch.tensor([0.4, 0.6])))
            loc = torch.stack([torch.tensor(float(v)) for v in k]) + 2 * urn[:, 1]
            pyro.sample("y", dist.Normal(m + loc, 1.0), obs=y)

    per_value = made(program, y=Y)
    per_value.check(DRAWS, {"y": Y})
    assert per_value.joint == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert per_value.shapes == {"k": ((3,), ()), "urn": ((3,), (2,))}
    first = [row.tolist() for row in per_value.values["urn"]].index([0.0, 1.0])
    inside, _ = per_value.rows(DRAWS, {"y": Y})
    for run, (k, u) in enumerate(per_value.joint):
        loc = k + 2 * (u == first)
        prior = math.log(0.25 if k else 0.75) + math.log(0.6 if u == first else 0.4)
        expected = [prior + scipy.stats.norm.logpdf(y, 0.4 + loc, 1.0) for y in Y.tolist()]
        np.testing.assert_allclose(inside[run], expected, rtol=1e-12)


def test_terms_with_further_plates_are_summed_over_them():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3, dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.25))
            loc = torch.stack([torch.tensor(float(v)) for v in k])
            with pyro.plate("time", 2, dim=-2):
                pyro.sample("y", dist.Normal(m + loc, 1.0), obs=torch.stack([y, y + 1]))

    inside, outside = made(program, y=Y).rows(DRAWS, {"y": Y})
    assert inside.shape == (2, 3)
    for k in (0, 1):
        expected = [
            math.log(0.25 if k else 0.75)
            + scipy.stats.norm.logpdf(y, 0.4 + k)
            + scipy.stats.norm.logpdf(y + 1, 0.4 + k)
            for y in Y.tolist()
        ]
        np.testing.assert_allclose(inside[k], expected, rtol=1e-12)
    assert float(outside) == pytest.approx(scipy.stats.norm.logpdf(0.4))


def test_a_density_has_at_most_a_thousand_runs():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        ks = [pyro.sample(f"k{i}", dist.Bernoulli(0.5)) for i in range(10)]
        pyro.sample("y", dist.Normal(m + float(ks[0]), 1.0), obs=y)

    with pytest.raises(ProgramError, match="1,024 runs, more than 1,000, would be needed"):
        LogDensity(program, Data(train={"y": Y[0]}, observed=("y",)))
