"""The encoder of documents: unbiased minibatches, density, start, contract of guides."""

import pytest
import torch

import guides
import zoo
from guides.base.cavi_lda import ascend
from guides.contract import checks
from guides.families.dirichlet import priors
from guides.families.topic_encoder import TopicEncoder, build, start
from guides.objectives.flat import FlatObjective
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.models.topics._topics import counts_of


@pytest.fixture(scope="module")
def entry():
    return zoo.load("lda", documents=60, tokens=30, side=2, K=4)


@pytest.fixture(scope="module")
def begun(entry):
    data = entry.load_data()
    with session(entry.dtype), torch.random.fork_rng():
        torch.manual_seed(0)
        density = LogDensity(entry.program(data), data, dtype=entry.dtype)
        guide = build(entry.program(data), data, entry, density=density, hidden=8)
        found = start(density, torch.Generator().manual_seed(0))
        guide.begin(found)
    return density, guide, found


@pytest.mark.parametrize("size", [5, 20, 30])
def test_minibatches_average_to_the_full_loss(entry, begun, size):
    density, guide, _ = begun
    with session(entry.dtype), torch.no_grad():
        full = FlatObjective(density, guide, {}, num_particles=2, batch_size=None, stl=False)
        half = full.noise(torch.Generator().manual_seed(1))[0]
        whole = float(full.loss((half,)))
        batched = FlatObjective(density, guide, {}, num_particles=2, batch_size=size, stl=False)
        parts = torch.randperm(60, generator=torch.Generator().manual_seed(2)).split(size)
        losses = [float(batched.loss((half, part))) for part in parts]
        drawn = []
        for _ in range(60 // size):  # the loop's own minibatches: one epoch
            index = batched.batches.draw(torch.Generator().manual_seed(3))
            drawn.append(float(batched.loss((half, index))))
    assert sum(losses) / len(losses) == pytest.approx(whole, rel=1e-9)
    assert max(losses) - min(losses) > 1e-3  # the parts differ, which would reveal a wrong scale
    assert sum(drawn) / len(drawn) == pytest.approx(whole, rel=1e-9)


def test_draws_and_their_density_agree(begun):
    density, guide, _ = begun
    noise = torch.randn(
        5, guide.noise_dim, dtype=density.dtype, generator=torch.Generator().manual_seed(4)
    )
    with torch.no_grad():
        u, log_q = guide.sample(noise)
        torch.testing.assert_close(guide.log_prob_flat(u), log_q, rtol=1e-9, atol=1e-9)


def test_the_encoder_imitates_the_coordinate_ascent(begun):
    _, guide, found = begun
    assert isinstance(guide, TopicEncoder)
    first, last = guide.place["mixture"]
    wanted = found.loc[first:last].reshape(60, -1)
    with torch.no_grad():
        loc, _ = guide.encode(guide.features)
    left = (loc - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean()
    assert left < 0.2


@pytest.mark.slow
def test_contract(entry):
    results = {c.name: c.run() for c in checks(entry, "topic_encoder")}
    assert all(r.status != "failed" for r in results.values()), results


def test_another_program_is_refused():
    with pytest.raises(FitError, match="topic program"):
        guides.fit(zoo.load("random_intercepts"), "topic_encoder")


def test_the_start_has_the_moments_of_draws_of_its_dirichlets(entry, begun):
    """Means and sds of the log odds, against draws of the same Dirichlets."""
    density, _, found = begun
    prior = priors(density)
    counts = counts_of(density.data.train, prior["topic"].shape[-1]).to(density.dtype)
    best = ascend(counts, prior["topic"], prior["mixture"], torch.Generator().manual_seed(0))
    number = 4000
    with torch.random.fork_rng():
        torch.manual_seed(7)
        draws = {
            "topic": torch.distributions.Dirichlet(best.topics).sample((number,)),
            "mixture": torch.distributions.Dirichlet(best.mixtures).sample((number,)),
        }
    u = density.unconstrain({s.name: draws[s.name] for s in density.sites})
    looks = 5  # standard errors; log odds of small concentrations have heavier tails than normals
    assert ((u.mean(0) - found.loc).abs() < looks * u.std(0) / number**0.5).all()
    fourth = ((u - u.mean(0)) / u.std(0)).pow(4).mean(0)
    relative = ((fourth - 1) / (4 * number)).sqrt()
    assert ((u.std(0) / found.scale - 1).abs() < looks * relative).all()
