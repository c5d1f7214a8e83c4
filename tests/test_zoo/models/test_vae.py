"""The autoencoder's program, its evaluation subset, and its exact posterior by formulas."""

import math

import numpy as np
import pytest
import torch
from pyro import poutine

import zoo
from zoo.datasets.images import load_images
from zoo.density.log_density import LogDensity, default_dtype
from zoo.errors import DataError, UsageError
from zoo.models.autoencoders import vae
from zoo.truth.grid import BernoulliLikelihood, LatentGrid

SMALL = {"rows": 60, "hidden": 8, "layers": 1}


def small(name="vae", **options):
    entry = zoo.load(name, **SMALL, **options)
    data = entry.load_data()
    return entry, data, entry.program(data)


def formula(program, x, z):
    """log p(x, z) by hand."""
    p = torch.sigmoid(program.decoder(z))
    like = (x * p.log() + (1 - x) * (1 - p).log()).sum()
    return like - 0.5 * z.square().sum() - z.numel() * 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("name", ["vae", "beta_vae", "iwae"])
def test_the_density_is_the_formula(name):
    _, data, program = small(name)
    density = LogDensity(program, data)
    z = torch.randn(48, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert density.dim == 96
    assert float(density(z.flatten()).detach()) == pytest.approx(
        float(formula(program, data.train["x"], z).detach()), rel=1e-12
    )
    assert density.batch_function().vectorized


def test_weights_start_alike_and_leave_the_random_stream_alone():
    entry, data, program = small()
    state = torch.random.get_rng_state()
    again = entry.program(data)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(program.parameters(), again.parameters(), strict=True)
    )
    other = small(init=1)[2]
    assert not torch.equal(program.decoder[0].weight, other.decoder[0].weight)


def test_gray_pixels_are_an_error_not_a_warning():
    _, data, program = small()
    gray = {**data.train, "x": data.train["x"] * 0.5}
    with pytest.raises(DataError):
        LogDensity(program, zoo.Data(train=gray, observed=("x",), batched=("x", "label"), size=48))
    assert set(data.train["x"].unique().tolist()) == {0.0, 1.0}


def test_chosen_images_are_one_of_each_class_of_both_parts():
    entry = zoo.load("vae")
    data = entry.load_data()
    chosen = vae.judged(data)
    assert chosen.size == 20
    assert chosen.train["label"].tolist() == [*range(10), *range(10)]
    assert chosen.coords["image"][0] == "0 train"
    assert chosen.coords["image"][19] == "9 held out"
    assert data.coords["latent"] == ["z1", "z2"]
    rows = {tuple(r) for r in data.train["x"].int().tolist()}
    # held-out rows may equal a training row by chance
    assert sum(tuple(r) in rows for r in chosen.train["x"][10:].int().tolist()) <= 2


def test_held_out_images_need_codes_of_their_own():
    _, data, program = small()
    density = LogDensity(program, data)
    with pytest.raises(DataError, match="one per image is needed"):
        density.pointwise({"z": torch.zeros(1, 48, 2, dtype=torch.float64)}, data.test)


@pytest.mark.parametrize(("prior", "latent"), [("normal", 1), ("mixture", 2), ("normal", 3)])
def test_the_grid_equals_an_independent_integral(prior, latent):
    """Importance sampling from the prior, within four standard errors."""
    _, data, program = small(prior=prior, latent=latent)
    with torch.no_grad():
        for p in program.decoder.parameters():
            p.mul_(2.0)
        points = {1: 401, 2: 81, 3: 31}[latent]
        grid = LatentGrid(
            BernoulliLikelihood(program.decoder),
            latent,
            log_prior=program.log_prior,
            points=points,
        )
        x = data.train["x"][:3]
        torch.manual_seed(0)
        z = program.prior().sample((40_000,)).double()
        p = torch.sigmoid(program.decoder(z)).clamp(1e-12, 1 - 1e-12)
        log_like = p.log() @ x.T + (1 - p).log() @ (1 - x).T
        ratio = (log_like - log_like.max(0).values).exp()
        estimate = ratio.mean(0).log() + log_like.max(0).values
        error = ratio.std(0) / ratio.mean(0) / 200
        assert ((grid.log_evidence(x) - estimate).abs() < 4 * error + 1e-4).all()
        finer = LatentGrid(
            BernoulliLikelihood(program.decoder),
            latent,
            log_prior=program.log_prior,
            points=points + 8,
        )
        assert torch.allclose(grid.log_evidence(x), finer.log_evidence(x), atol=1e-4)


def test_a_sufficient_grid_prepares_each_grid_once_and_answers_like_a_new_one():
    """A narrow curve of codes on a coarse grid, which is doubled until nothing changes.

    The decoder is called once per grid.
    """
    asked = []

    class Line(BernoulliLikelihood):
        def prepare(self, points):
            asked.append(len(points))
            return super().prepare(points)

    x = (torch.arange(12).reshape(3, 4) % 2).double()
    start = LatentGrid(
        Line(lambda z: 30 * z[:, :1] + torch.arange(4.0)), 1, points=21, half_width=3.0
    )
    grid = start.sufficient(x)
    assert grid.number > start.number
    assert grid.check(x).ok
    assert asked == sorted(set(asked))  # every grid once, the last to check the previous
    fresh = LatentGrid(
        BernoulliLikelihood(grid.likelihood.decoder), 1, points=grid.number, half_width=3.0
    )
    assert fresh.check(x).sentence == grid.check(x).sentence
    assert not start.check(x).ok
    for known, new in zip(grid.moments(x), fresh.moments(x.clone()), strict=True):
        assert torch.allclose(known, new, atol=1e-12)
    # another tensor is not cached
    assert not torch.equal(grid.moments(1 - x)[0], fresh.moments(x)[0])
    assert torch.allclose(grid.moments(x)[0], fresh.moments(x)[0], atol=1e-12)
    grid.check(x)
    other = LatentGrid(
        BernoulliLikelihood(grid.likelihood.decoder), 1, points=grid.number, half_width=3.0
    ).check(x[:, [0, 0, 0, 0]])
    assert grid.check(x[:, [0, 0, 0, 0]]).border_mass == pytest.approx(other.border_mass, rel=1e-6)
    assert other.border_mass != pytest.approx(grid.check(x).border_mass, rel=0.1)


def test_the_exact_posterior_given_a_decoder():
    entry, data, program = small()
    chosen = vae.judged(data)
    exact = entry.conditional(chosen, program, **entry.settings)
    draws = exact.sample(2000, 3)["z"]
    moments = exact.moments["z"]
    assert draws.shape == (2000, chosen.size, 2)
    assert ((draws.mean(0) - moments.mean) / (moments.sd / math.sqrt(2000))).abs().max() < 5
    assert (draws.std(0) / moments.sd).log().abs().max() < 5 / math.sqrt(2 * 2000) + 0.005
    assert torch.equal(draws, exact.sample(2000, 3)["z"])
    evidence = LatentGrid(
        BernoulliLikelihood(program.decoder), 2, points=241, half_width=8.0
    ).log_evidence(chosen.train["x"])
    assert exact.log_evidence == pytest.approx(float(evidence.sum()), abs=1e-6)


def test_beyond_three_dimensions_there_is_no_grid():
    entry, data, program = small(latent=4)
    assert entry.conditional(vae.judged(data), program, **entry.settings) is None
    with pytest.raises(UsageError, match="1 to 3"):
        LatentGrid(BernoulliLikelihood(program.decoder), 4)


def test_a_mixture_prior_widens_the_box():
    _, _, program = small(prior="mixture")
    assert [v.shape[0] for v in (program.weight_logit, program.location, program.log_scale)] == [
        10
    ] * 3
    with torch.no_grad():
        program.location[0] = torch.tensor([7.0, 0.0])
    grid = LatentGrid(
        BernoulliLikelihood(program.decoder), 2, log_prior=program.log_prior, points=41
    )
    assert grid.half_width > 8.5


@pytest.mark.parametrize(
    "bad",
    [{"latent": 0}, {"prior": "flat"}, {"rows": 1}, {"threshold": 1.5}, {"images": "/nowhere"}],
)
def test_options_are_refused_with_a_sentence(bad):
    entry = zoo.load("vae", **bad)
    with pytest.raises(UsageError, match=r"accepted|give a folder"):
        entry.program(entry.load_data())


def test_own_images_of_the_classic_shape(tmp_path):
    np.save(
        tmp_path / "own.npy",
        (np.random.Generator(np.random.PCG64(0)).random((12, 28, 28)) * 255).astype(np.uint8),
    )
    entry = zoo.load(
        "vae", images=str(tmp_path / "own.npy"), latent=20, hidden=400, layers=1, threshold=0.5
    )
    data = entry.load_data()
    program = entry.program(data)
    assert [tuple(p.shape) for p in program.parameters()] == [
        (400, 20),
        (400,),
        (784, 400),
        (784,),
    ]
    assert LogDensity(program, vae.judged(data)).dim == 20 * vae.judged(data).size
    assert load_images(str(tmp_path / "own.npy")).labels.unique().tolist() == [-1]


def test_a_decoder_with_context_is_the_product_of_its_conditionals_and_sums_to_one():
    from zoo.distributions.multivariate import SequentialBernoulli

    generator = torch.Generator().manual_seed(0)
    logits, weight = (
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((3, 5), (5, 5))
    )
    law = SequentialBernoulli(logits, weight)
    every = torch.tensor(
        [[(k >> j) & 1 for j in range(5)] for k in range(32)], dtype=torch.float64
    )
    table = law.log_prob(every[:, None, :]).exp()  # [image, row]
    assert torch.allclose(table.sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    x, by_hand = every[21], 1.0
    for j in range(5):
        p = torch.sigmoid(logits[0, j] + sum(weight[j, k] * x[k] for k in range(j)))
        by_hand = by_hand * (p if x[j] == 1 else 1 - p)
    assert float(table[21, 0]) == pytest.approx(float(by_hand), rel=1e-12)
    torch.manual_seed(0)
    drawn = law.sample((20_000,))[:, 0]
    counts = torch.bincount(
        (drawn @ (2.0 ** torch.arange(5, dtype=torch.float64))).long(), minlength=32
    ).double()
    expected = 20_000 * table[:, 0]
    chi2 = float(((counts - expected).square() / expected).sum())
    assert chi2 < 31 + 5 * math.sqrt(2 * 31)


def test_the_grid_of_a_decoder_with_context_agrees_with_the_program():
    entry, data, program = small(context=True)
    with torch.no_grad():
        program.context.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(2))
    x = data.train["x"]
    z = torch.randn(48, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grid = LatentGrid(program.likelihood, 2, points=3)
    by_program = float(LogDensity(program, data)(z.flatten()).detach())
    prior = float(program.log_prior(z).sum())
    assert by_program == pytest.approx(
        float(program.likelihood.paired(x, z).sum().detach()) + prior, rel=1e-12
    )
    pairs = torch.stack([program.likelihood.paired(x[:4], p.expand(4, 2)) for p in grid.points], 1)
    assert torch.allclose(
        grid.log_joint(x[:4]), pairs.detach() + grid.log_prior_values, rtol=0, atol=1e-10
    )
    assert program.likelihood.paired(x, z).requires_grad
    with default_dtype(entry.dtype):
        drawn = (
            poutine.trace(entry.program(data))
            .get_trace(label=data.train["label"])
            .nodes["x"]["value"]
        )
    assert drawn.shape == x.shape
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("label", "name"), [(-1, "(row 0)"), (0, "0 (row 0)"), (1, "1 (row 0)"), (9, "9 (row 0)")]
)
def test_rows_are_named_by_their_label_where_there_is_one(label, name):
    """Zero is a digit; -1 stands for no label."""
    data = vae._data(
        torch.zeros(1, 4), torch.tensor([label]), torch.tensor([0]), None, 2, "source", "licence"
    )
    assert list(data.coords["image"]) == [name]
