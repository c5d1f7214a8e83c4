"""Finite sums: probabilities, evidence and draws equal those of the listed joint distribution."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from zoo.density import finite_sum as module
from zoo.density.finite_sum import FiniteSum, finite_sum
from zoo.errors import ProgramError
from zoo.types import Data

Y = torch.tensor([0.3, 1.4, 2.2], dtype=torch.float64)


def data(y=Y):
    return Data(train={"y": y}, observed=("y",))


def shared_and_rows(y):
    """A class that all rows share, and one of each row."""
    a = pyro.sample("a", dist.Bernoulli(0.3))
    with pyro.plate("row", 3):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        pyro.sample("y", dist.Normal(2.0 * a + k, 1.0), obs=y)


def listed():
    """Joint log probabilities by hand: a, k_1, k_2, k_3 -> nats."""
    prior = [0.2, 0.5, 0.3]
    out = {}
    for a, *ks in itertools.product((0, 1), range(3), range(3), range(3)):
        total = math.log(0.3 if a else 0.7)
        for y, k in zip(Y.tolist(), ks, strict=True):
            total += math.log(prior[k]) + scipy.stats.norm.logpdf(y, 2 * a + k, 1.0)
        out[a, *ks] = total
    return out


def weights_of(joint):
    logs = np.array(list(joint.values()))
    evidence = np.logaddexp.reduce(logs)
    return dict(zip(joint, np.exp(logs - evidence), strict=True)), evidence


def test_probabilities_and_evidence_are_those_of_all_terms():
    found = finite_sum(shared_and_rows, data())
    weights, evidence = weights_of(listed())
    assert found.log_evidence == pytest.approx(evidence)
    assert found.values["a"].tolist() == [0.0, 1.0]
    assert found.values["k"].tolist() == [0, 1, 2]
    assert found.probabilities["a"].shape == (2,)
    assert found.probabilities["k"].shape == (3, 3)
    assert found.probabilities["a"].dtype == torch.float64
    for a in (0, 1):
        expected = sum(w for key, w in weights.items() if key[0] == a)
        assert float(found.probabilities["a"][a]) == pytest.approx(expected)
    for row, k in itertools.product(range(3), range(3)):
        expected = sum(w for key, w in weights.items() if key[1 + row] == k)
        assert float(found.probabilities["k"][row, k]) == pytest.approx(expected)


def test_joint_draws_have_the_joint_probabilities():
    """100 draws: five standard errors of a frequency."""
    found = finite_sum(shared_and_rows, data())
    draws = found.sample(100, seed=1)
    assert draws["a"].shape == (100,)
    assert draws["k"].shape == (100, 3)
    weights, _ = weights_of(listed())
    for a, k in itertools.product((0, 1), range(3)):
        p = sum(w for key, w in weights.items() if key[:2] == (a, k))
        share = ((draws["a"] == a) & (draws["k"][:, 0] == k)).double().mean()
        assert abs(float(share) - p) < 5 * math.sqrt(p * (1 - p) / 100)
    assert torch.equal(draws["k"][:9], found.sample(9, seed=1)["k"])
    assert not torch.equal(draws["k"][:9], found.sample(9, seed=2)["k"])


@pytest.fixture
def one_by_one():
    def program(y):
        a = pyro.sample("a", dist.Bernoulli(0.3))
        with pyro.plate("none", 1):
            pyro.sample("y", dist.Normal(2.0 if a > 0 else 0.5, 1.0), obs=y)

    return program


def test_a_program_that_takes_one_value_has_the_same_sum(one_by_one):
    y = torch.tensor([1.7], dtype=torch.float64)
    found = finite_sum(one_by_one, data(y))
    assert found._sum.per_value is not None
    zero, one = (
        math.log(p) + scipy.stats.norm.logpdf(1.7, m, 1.0) for p, m in ((0.7, 0.5), (0.3, 2.0))
    )
    assert found.log_evidence == pytest.approx(np.logaddexp(zero, one))
    p = 1 / (1 + math.exp(zero - one))
    assert found.probabilities["a"].tolist() == pytest.approx([1 - p, p])
    draws = found.sample(1000, seed=0)["a"]
    assert draws.shape == (1000,)
    assert set(draws.tolist()) == {0.0, 1.0}
    assert abs(float(draws.mean()) - p) < 5 * math.sqrt(p * (1 - p) / 1000)


def test_rows_with_several_sites_and_terms_outside_are_summed_one_value_at_a_time():
    """Two sites per row of a plate; a term without a plate is added once."""

    def program(y):
        with pyro.plate("row", 3):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            b = pyro.sample("b", dist.Bernoulli(0.4))
            loc = k.clone().double()
            for i in range(3):
                loc[i] = loc[i] + 2.0 * float(b[i])
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)
        pyro.sample("other", dist.Normal(0.0, 1.0), obs=torch.tensor(1.5))

    found = finite_sum(program, data())
    assert found._sum.per_value is not None
    total = scipy.stats.norm.logpdf(1.5)
    draws = found.sample(400, seed=3)
    assert draws["k"].shape == draws["b"].shape == (400, 3)
    for row, y in enumerate(Y.tolist()):
        table = np.array(
            [
                [
                    math.log(p) + math.log(q) + scipy.stats.norm.logpdf(y, k + 2 * b, 1.0)
                    for b, q in ((0, 0.6), (1, 0.4))
                ]
                for k, p in enumerate([0.2, 0.5, 0.3])
            ]
        )
        total += np.logaddexp.reduce(table.ravel())
        w = np.exp(table - np.logaddexp.reduce(table.ravel()))
        np.testing.assert_allclose(found.probabilities["k"][row], w.sum(1), rtol=1e-8)
        np.testing.assert_allclose(found.probabilities["b"][row], w.sum(0), rtol=1e-8)
        both = ((draws["k"][:, row] == 1) & (draws["b"][:, row] == 1)).double().mean()
        assert abs(float(both) - w[1, 1]) < 5 * math.sqrt(w[1, 1] * (1 - w[1, 1]) / 400)
    assert found.log_evidence == pytest.approx(total)


def test_events_of_several_values_are_drawn_whole():
    """Two balls over two urns; y is normal around the first count."""

    def program(y):
        k = pyro.sample("k", dist.Multinomial(2, torch.tensor([0.25, 0.75])))
        pyro.sample("y", dist.Normal(k[..., 0], 1.0), obs=y)

    found = finite_sum(program, data(torch.tensor(1.2, dtype=torch.float64)))
    prior = {0: 0.5625, 1: 0.375, 2: 0.0625}
    terms = {n: p * scipy.stats.norm.pdf(1.2, n, 1.0) for n, p in prior.items()}
    total = sum(terms.values())
    assert found.log_evidence == pytest.approx(math.log(total))
    values = found.values["k"].tolist()
    assert sorted(values) == [[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]
    for value, p in zip(values, found.probabilities["k"].tolist(), strict=True):
        assert p == pytest.approx(terms[int(value[0])] / total)
    draws = found.sample(100, seed=0)["k"]
    assert draws.shape == (100, 2)
    assert bool((draws.sum(-1) == 2).all())
    p = terms[1] / total
    share = float((draws[:, 0] == 1).double().mean())
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 100)


def test_a_continuous_site_is_no_finite_sum():
    def program(y):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z + k, 1.0), obs=y)

    with pytest.raises(ProgramError) as caught:
        finite_sum(program, data(torch.zeros((), dtype=torch.float64)))
    assert str(caught.value) == (
        "Site 'z' is continuous, so the posterior is no finite sum; fit the program or run NUTS,"
        " which sum its discrete sites out."
    )


def made(**probabilities):
    values = {k: torch.arange(float(len(p))) for k, p in probabilities.items()}
    return FiniteSum(
        values=values,
        probabilities={k: torch.tensor(p) for k, p in probabilities.items()},
        log_evidence=-1.23456,
        _sum=None,
    )


def test_the_sentence_has_the_probabilities_of_small_sites():
    assert made(a=[0.25, 0.75]).sentence() == (
        "P(a = 0) = 0.2500, P(a = 1) = 0.7500, log evidence -1.2346 nats"
    )
    four, five = [0.25] * 4, [0.2] * 5
    assert made(a=five).sentence() == "log evidence -1.2346 nats"
    assert made(a=four).sentence().count("P(a") == 4
    assert made(a=four, b=four, c=four).sentence().count("P(") == 8
    assert made(a=[four, four]).sentence() == "log evidence -1.2346 nats"
    events = made(a=[0.5, 0.5])
    whole = FiniteSum(
        values={"a": torch.zeros(2, 2)},
        probabilities=events.probabilities,
        log_evidence=0.0,
        _sum=None,
    )
    assert whole.sentence() == "log evidence 0.0000 nats"


def test_a_sum_is_not_limited_like_a_density_that_is_evaluated_often():
    assert module.Sum.finite is True
    assert module.Sum.most_runs == 100_000


def test_numbers_stand_for_the_values_of_a_distribution():
    base = dist.Multinomial(1, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    fn = module._Numbered(base, values)
    assert (fn.batch_shape, fn.event_shape) == ((2,), ())
    assert fn.enumerate_support().tolist() == [[0, 0], [1, 1]]
    assert fn.enumerate_support(expand=False).tolist() == [[0], [1]]
    torch.testing.assert_close(
        fn.log_prob(torch.tensor([0.0, 1.0])).exp(), torch.tensor([0.25, 0.5])
    )
    wide = fn.expand([3, 2])
    assert wide.batch_shape == (3, 2)
    draws = fn.sample((1000,))
    assert draws.shape == (1000, 2)
    share = draws.double().mean(0)
    assert abs(float(share[0]) - 0.75) < 0.07
    assert abs(float(share[1]) - 0.5) < 0.08


def test_sites_that_are_observed_or_no_events_keep_their_own_statement():
    apply = module._ByNumber(torch.eye(2)).apply
    for msg in (
        {"fn": dist.Bernoulli(0.5), "name": "k", "is_observed": False},
        {"fn": dist.Multinomial(1, torch.ones(2)), "name": "k", "is_observed": True},
    ):
        assert apply(msg) is msg
    new = apply({"fn": dist.Multinomial(1, torch.ones(2)), "name": "k", "is_observed": False})
    assert new["is_observed"] is True
    assert new["value"].sum() == 1.0
    assert new["fn"].event_dim == 1
