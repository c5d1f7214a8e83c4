"""Discrete latent sites: finite sums where they are finite, one sentence where they are not."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError

F = torch.float64


def density_of(entry):
    data = entry.load_data()
    return LogDensity(entry.program(data), data, dtype=entry.dtype)


# -- only discrete -----------------------------------------------------------------------------

WET = torch.tensor([[0.0, 0.9], [0.8, 0.99]], dtype=F)  # P(wet | rain, sprinkler)


def grass(wet=None):
    rain = pyro.sample("rain", dist.Bernoulli(0.3))
    sprinkler = pyro.sample("sprinkler", dist.Bernoulli(torch.where(rain > 0, 0.01, 0.1).to(WET)))
    pyro.sample("wet", dist.Bernoulli(WET[rain.long(), sprinkler.long()]), obs=wet)


def branches(wet=None):
    """The same with Python's own branches: one run per value."""
    rain = pyro.sample("rain", dist.Bernoulli(0.3))
    sprinkler = pyro.sample("sprinkler", dist.Bernoulli(0.01 if rain > 0 else 0.1))
    row = WET[1] if rain > 0 else WET[0]
    pyro.sample("wet", dist.Bernoulli(row[int(sprinkler)]), obs=wet)


@pytest.mark.parametrize("program", [grass, branches])
def test_a_program_of_discrete_sites_has_its_exact_posterior(program):
    joint = torch.tensor(
        [[0.7 * 0.9 * 0.0, 0.7 * 0.1 * 0.9], [0.3 * 0.99 * 0.8, 0.3 * 0.01 * 0.99]], dtype=F
    )
    rain, sprinkler = joint[1].sum() / joint.sum(), joint[:, 1].sum() / joint.sum()
    assert float(rain) == pytest.approx(0.7925, abs=5e-5)
    entry = zoo.from_program(program, {"wet": torch.tensor(1.0)})
    assert list(entry.quantities) == ["rain", "sprinkler"]
    assert "P(rain = 1) = 0.7925" in entry.notices[0]
    data = entry.load_data()
    found = zoo.finite_sum(entry.program(data), data)
    assert float(found.probabilities["rain"][1]) == pytest.approx(float(rain), abs=1e-7)
    assert float(found.probabilities["sprinkler"][1]) == pytest.approx(float(sprinkler), abs=1e-7)
    assert found.log_evidence == pytest.approx(math.log(float(joint.sum())), abs=1e-7)
    exact = entry.exact(data)
    assert exact.log_evidence == found.log_evidence
    draws = exact.sample(400, 3)
    both = (draws["rain"] * draws["sprinkler"]).mean()
    chance = float(joint[1, 1] / joint.sum())
    for got, p in ((draws["rain"].mean(), float(rain)), (both, chance)):
        assert abs(float(got) - p) < 5 * (p * (1 - p) / 400) ** 0.5
    for method in (lambda: guides.fit(entry, "mean_field"), lambda: density_of(entry)):
        with pytest.raises(ProgramError, match=r"'rain', 'sprinkler'.* is discrete.*finite sum"):
            method()


def test_classes_in_a_plate_have_their_probabilities():
    y = torch.tensor([0.1, 2.0, -1.0], dtype=F)
    weights, centers = torch.tensor([0.2, 0.5, 0.3], dtype=F), torch.tensor([0.0, 1.0, -2.0])

    def program(y):
        with pyro.plate("rows", 3):
            c = pyro.sample("c", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(centers[c], 1.0), obs=y)

    entry = zoo.from_program(program, {"y": y})
    assert entry.quantities["c"].dims == ("rows", "c_value")
    data = entry.load_data()
    found = zoo.finite_sum(entry.program(data), data)
    terms = weights.log() + dist.Normal(centers.double(), 1.0).log_prob(y[:, None])
    assert torch.allclose(found.probabilities["c"], terms.softmax(-1), atol=1e-9)
    assert found.log_evidence == pytest.approx(float(terms.logsumexp(-1).sum()), abs=1e-7)


def test_a_chain_of_states_has_its_smoothed_probabilities():
    """By hand: all 3^4 paths."""
    moves = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]], dtype=F)
    emit, y = torch.tensor([0.1, 0.5, 0.9], dtype=F), torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=F)

    def program(y):
        x = torch.tensor(0)
        for t in pyro.markov(range(4)):
            x = pyro.sample(f"x{t}", dist.Categorical(moves[x]))
            pyro.sample(f"y{t}", dist.Bernoulli(emit[x]), obs=y[t])

    entry = zoo.from_program(program, {"y": y})
    data = entry.load_data()
    found = zoo.finite_sum(entry.program(data), data)
    paths = torch.cartesian_prod(*[torch.arange(3)] * 4)
    before = torch.cat([torch.zeros(81, 1, dtype=torch.long), paths[:, :3]], 1)
    seen = torch.where(y > 0, emit[paths], 1 - emit[paths])
    joint = moves[before, paths].log().sum(-1) + seen.log().sum(-1)
    assert found.log_evidence == pytest.approx(float(joint.logsumexp(0)), abs=1e-9)
    for t in range(4):
        smoothed = torch.stack([joint.softmax(0)[paths[:, t] == k].sum() for k in range(3)])
        assert torch.allclose(found.probabilities[f"x{t}"], smoothed, atol=1e-9)


# -- finite sums that Pyro does not list -------------------------------------------------------

Y, TOTALS = torch.tensor([3.0, 1.0, 4.0], dtype=F), torch.tensor([3.0, 4.0, 5.0], dtype=F)


def ragged(y=None):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("d", 3):
        n = pyro.sample("n", dist.Binomial(TOTALS, p))
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)


def test_counts_with_another_total_per_row_are_summed_out():
    density = density_of(zoo.from_program(ragged, {"y": Y}))
    for u in (0.0, 0.7):
        p = 1 / (1 + math.exp(-u))
        value = math.log(6 * p * (1 - p)) + math.log(p * (1 - p))
        for v, total in zip(Y.tolist(), map(int, TOTALS), strict=True):
            terms = (
                math.comb(total, k) * p**k * (1 - p) ** (total - k) * math.exp(-0.5 * (v - k) ** 2)
                for k in range(total + 1)
            )
            value += math.log(sum(terms) / math.sqrt(2 * math.pi))
        got, slope = density.eager_gradient(torch.tensor([u], dtype=F))
        assert float(got) == pytest.approx(value, abs=1e-8)
        assert bool(slope.isfinite().all())
    assert float(density(torch.zeros(1, dtype=F))) == pytest.approx(-6.1351, abs=5e-5)
    assert density.compile("on")["used"]


def test_a_multinomial_count_is_summed_out():
    """By hand: the 10 splits of 3 into 3 classes."""
    target = torch.tensor([1.2, 0.4, 1.3], dtype=F)

    def program(y):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        n = pyro.sample("n", dist.Multinomial(3, probs=p))
        pyro.sample("y", dist.Normal(n, 1.0).to_event(1), obs=y)

    density = density_of(zoo.from_program(program, {"y": target}))
    u = torch.tensor([0.3, -0.5], dtype=F)
    p = density.constrain(u)["p"]
    splits = [(a, b, 3 - a - b) for a in range(4) for b in range(4 - a)]
    terms = []
    for split in splits:
        n = torch.tensor(split, dtype=F)
        ways = 6 / math.prod(math.factorial(k) for k in split)
        terms.append(
            math.log(ways) + (n * p.log()).sum() + dist.Normal(n, 1.0).log_prob(target).sum()
        )
    jacobian = density.sites[0].transform.log_abs_det_jacobian(u, p)
    expected = torch.stack(terms).logsumexp(0) + math.log(2) + jacobian
    assert len(splits) == 10
    assert float(density(u)) == pytest.approx(float(expected), abs=1e-9)


def test_an_event_of_several_flags_is_summed_out():
    """By hand: the 2^3 settings of each of two rows."""
    target = torch.tensor([1.4, 0.2], dtype=F)
    loads = torch.tensor([1.0, 0.5, -0.7], dtype=F)

    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 2):
            b = pyro.sample("b", dist.Bernoulli(logits=a.expand(3)).to_event(1))
            pyro.sample("y", dist.Normal((b * loads).sum(-1), 1.0), obs=y)

    density = density_of(zoo.from_program(program, {"y": target}))
    a = torch.tensor(0.4, dtype=F)
    settings = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F)] * 3)
    chances = dist.Bernoulli(logits=a).log_prob(settings).sum(-1)
    rows = chances + dist.Normal(settings @ loads, 1.0).log_prob(target[:, None])
    expected = rows.logsumexp(-1).sum() + dist.Normal(torch.tensor(0.0, dtype=F), 1.0).log_prob(a)
    assert float(density(a[None])) == pytest.approx(float(expected), abs=1e-9)


# -- statements without room for an axis of values ---------------------------------------------

FIVE = torch.tensor([0.3, -0.2, 1.1, 0.4, -0.9], dtype=F)


def joined(y=None):
    m = pyro.sample("m", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    with pyro.plate("d", 5):
        c = pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
        features = torch.cat([torch.ones(5, 1), c], -1)
        pyro.sample("y", dist.Normal(features @ m, 1.0), obs=y)


def test_a_class_without_room_for_its_values_is_summed_by_runs():
    density = density_of(zoo.from_program(joined, {"y": FIVE}))
    zero = torch.zeros(4, dtype=F)
    assert float(density(zero)) == pytest.approx(-9.4254, abs=5e-5)
    m = torch.tensor([0.3, 1.0, -0.5, 0.2], dtype=F)
    rows = dist.Normal(m[0] + m[1:], 1.0).log_prob(FIVE[:, None]) - math.log(3)
    expected = rows.logsumexp(-1).sum() + dist.Normal(zero, 1.0).log_prob(m).sum()
    assert float(density(m)) == pytest.approx(float(expected), abs=1e-6)
    assert torch.allclose(density.pointwise({"m": m[None]})["y"], rows.logsumexp(-1)[None])
    assert density.compile("on")["used"]
    fit = guides.fit(zoo.from_program(joined, {"y": FIVE}), "mean_field", seed=0, steps=100)
    assert fit.elbo is not None


def crossed(y=None):
    """Terms of one row that depend on the class of another, and no room for an axis."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("d", 5):
        c = pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
        features = torch.cat([torch.ones(5, 1), c], -1)
        pyro.sample("y", dist.Normal(m + features.flip(0)[:, 1], 1.0), obs=y)


def many(y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    for i in range(5):
        k = int(pyro.sample(f"k{i}", dist.Categorical(torch.ones(6))))
        pyro.sample(f"y{i}", dist.Normal(m + k, 1.0), obs=y[i])


def groups(y=None):
    k = 1 + int(pyro.sample("k", dist.Categorical(torch.tensor([0.98, 0.02]))))
    for i in range(k):
        m = pyro.sample(f"m{i}", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(m, 1.0), obs=y[0])


def endless(y=None):
    r = pyro.sample("r", dist.Gamma(2.0, 1.0))
    n = pyro.sample("n", dist.Poisson(r))
    with pyro.plate("d", 5):
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)


def wide(y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Bernoulli(logits=a.expand(20)).to_event(1))
    pyro.sample("y", dist.Normal(b.sum(-1), 1.0), obs=y[0])


@pytest.mark.parametrize(
    ("program", "parts"),
    [
        (crossed, ("'c'", "torch.cat", "depends on the value of another")),
        (many, ("'k0'", "7,776 runs", "where or a mask")),
        (groups, ("'k'", "1 + int(pyro.sample", "'m1'", "mask")),
        (endless, ("'n' (Poisson)", "infinite support", "torch.arange(K + 1.)")),
        (wide, ("'b'", "1,048,576 values", "plate")),
    ],
)
def test_what_cannot_be_summed_is_refused_with_site_and_cure(program, parts):
    with pytest.raises(ProgramError) as caught:
        zoo.from_program(program, {"y": FIVE})
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)
