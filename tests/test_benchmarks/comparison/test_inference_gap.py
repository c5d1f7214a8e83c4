"""The gap report on a linear decoder with closed forms.

They give log p(x), the posterior and the best of every family.
"""

import math
import re
from dataclasses import replace

import pytest
import torch

from benchmarks.comparison import inference_gap
from benchmarks.comparison.best_in_family import (
    LocalQ,
    OwnFlowHead,
    Target,
    best_numbers,
    elbo_nats,
    refine,
)
from benchmarks.comparison.inference_gap import GapReport, datum_gaps
from guides.base.heads import DiagonalHead, TriangularHead, make_head
from zoo.truth.grid import GaussianLikelihood, LatentGrid, standard_normal

SIGMA, PIXELS, ROWS = 0.8, 5, 6
generator = torch.Generator().manual_seed(0)
LOADINGS = torch.randn(PIXELS, 2, dtype=torch.float64, generator=generator)
LOADINGS[:, 1] = 0.5 * LOADINGS[:, 1] + LOADINGS[:, 0]  # a posterior with correlated axes
OFFSET = torch.randn(PIXELS, dtype=torch.float64, generator=generator)
X = OFFSET + torch.randn(ROWS, 2, dtype=torch.float64, generator=generator) @ LOADINGS.T
LIKELIHOOD = GaussianLikelihood(lambda z: z @ LOADINGS.T + OFFSET, SIGMA)
TARGET = Target(LIKELIHOOD, standard_normal)
GRID = LatentGrid(LIKELIHOOD, 2, points=161, half_width=6.0)
COVARIANCE = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + LOADINGS.T @ LOADINGS / SIGMA**2)
MEAN = (X - OFFSET) @ LOADINGS @ COVARIANCE / SIGMA**2
EVIDENCE = torch.distributions.MultivariateNormal(
    OFFSET, LOADINGS @ LOADINGS.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
).log_prob(X)
# Of all independent normals the one with the precision's diagonal is nearest; its KL is half the
# log ratio of determinants.
BEST_DIAGONAL = 0.5 * (
    COVARIANCE.logdet() - torch.linalg.inv(COVARIANCE).diagonal().reciprocal().log().sum()
)


def q_of(kind, *, shift=0.0, stretch=0.0):
    head = make_head(kind, 2, torch.float64)
    numbers = torch.zeros(ROWS, head.numbers, dtype=torch.float64)
    factor = torch.linalg.cholesky(COVARIANCE)
    numbers[:, :2] = MEAN + shift
    numbers[:, 2:4] = factor.diagonal().log() + stretch
    if kind != "diagonal":
        numbers[:, 4] = factor[1, 0]
    return LocalQ(
        head, numbers, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    )


def report(q, **options):
    return GapReport(
        family="test",
        data=tuple(datum_gaps(TARGET, GRID, q, X, **options)),
        grid=GRID.check(X),
        images=X,
    )


def test_the_grid_equals_the_closed_form():
    evidence, mean, covariance = GRID.moments(X)
    assert torch.allclose(evidence, EVIDENCE, atol=1e-9)
    assert torch.allclose(mean, MEAN, atol=1e-9)
    assert torch.allclose(covariance, COVARIANCE.expand_as(covariance), atol=1e-9)
    assert GRID.check(X).ok


def test_a_coarse_or_narrow_grid_is_not_ok():
    assert not LatentGrid(LIKELIHOOD, 2, points=21, half_width=6.0).check(X).ok
    assert not LatentGrid(LIKELIHOOD, 2, points=161, half_width=1.0).check(X).ok


def test_information_adds_up_and_equals_the_closed_form():
    parts = GRID.information(X)
    assert parts["mutual_information_nats"] + parts["aggregate_kl_nats"] == pytest.approx(
        parts["mean_kl_nats"], abs=1e-9
    )
    kl = 0.5 * (COVARIANCE.trace() + MEAN.square().sum(-1) - 2 - COVARIANCE.logdet())
    assert parts["mean_kl_nats"] == pytest.approx(float(kl.mean()), abs=1e-8)
    assert 0 < parts["mutual_information_nats"] < math.log(ROWS)


def test_grid_draws_have_the_posterior_moments():
    draws = GRID.sample(X, 4000, seed=1)
    assert draws.shape == (4000, ROWS, 2)
    assert ((draws.mean(0) - MEAN) / (COVARIANCE.diagonal() / 4000).sqrt()).abs().max() < 5
    ratio = (draws.var(0) / COVARIANCE.diagonal()).log().abs().max()
    assert ratio < 5 * math.sqrt(2 / 4000) + float(GRID.step[0]) ** 2 / 6 / float(
        COVARIANCE.diagonal().min()
    )


def test_each_datum_is_integrated_on_its_own_grid_unless_that_disagrees_with_the_common_one():
    """A box 2.5 wide loses between 7e-5 and 0.02 nats of these rows.

    For five of the six that is within the tolerated difference of the two grids.
    """
    narrow = LatentGrid(LIKELIHOOD, 2, points=161, half_width=2.5)
    lost = (narrow.log_evidence(X) - EVIDENCE).abs()
    assert lost[2] > 1e-3
    assert lost[3] > 0.01
    found = datum_gaps(TARGET, narrow, q_of("diagonal"), X)
    for i, d in enumerate(found):
        assert abs(d.log_evidence_nats - float(EVIDENCE[i])) == pytest.approx(
            0 if lost[i] < 0.01 else float(lost[i]), abs=2e-6
        )
        assert (abs(d.identity_error_nats) <= 1e-5) == (float(lost[i]) < 0.01)
    faults = GapReport(family="test", data=tuple(found), grid=narrow.check(X), images=X).faults
    assert any("log p(x) - KL" in fault for fault in faults)


def test_the_exact_posterior_has_no_gap():
    found = report(q_of("full"))
    assert found.faults == ()
    for d in found.data:
        assert abs(d.kl_nats) < 1e-6
        assert d.approximation_gap_nats == pytest.approx(0, abs=1e-6)
        assert d.sd_ratio == pytest.approx(1, abs=1e-6)
        assert d.coverage90 == pytest.approx(0.9, abs=2e-3)
        assert d.coverage50 == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(
    ("kind", "approximation"),
    [
        ("diagonal", float(BEST_DIAGONAL)),
        ("full", 0.0),
        pytest.param("flow", 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_gap_splits_as_the_closed_form_says(kind, approximation):
    found = report(q_of(kind, shift=0.3, stretch=0.4))
    assert found.faults == ()
    for d in found.data:
        # the tails of a q that is too wide and shifted leave the box
        assert abs(d.identity_error_nats) < 1e-4
        assert d.approximation_gap_nats == pytest.approx(approximation, abs=2e-4)
        assert d.amortization_gap_nats == pytest.approx(d.kl_nats - approximation, abs=3e-4)
        assert d.amortization_gap_nats > 0.1
        assert d.refined_gap_nats < 0.1 * d.amortization_gap_nats


def test_couplings_of_a_row_s_own_start_as_the_shared_ones():
    head = make_head("flow", 3, torch.float64)
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(0.5 * torch.randn(p.shape, dtype=torch.float64, generator=stream))
    numbers, noise = (
        torch.randn(*shape, dtype=torch.float64, generator=stream)
        for shape in ((4, head.numbers), (50, 4, 3))
    )
    own = OwnFlowHead(head).double()
    same = OwnFlowHead.numbers_of(head, numbers)
    assert same.shape == (4, own.numbers)
    w = head.draw(numbers, noise)
    assert torch.allclose(own.draw(same, noise), w, atol=1e-12)
    assert torch.allclose(own.log_prob(same, w), head.log_prob(numbers, w), atol=1e-9)
    # the weights of a row affect no other row
    other = same + 0.1 * torch.tensor([0.0, 1, 0, 0])[:, None]
    assert torch.equal(
        (own.draw(other, noise) != own.draw(same, noise)).any(-1).any(0),
        torch.tensor([False, True, False, False]),
    )


def test_the_best_flow_of_a_row_has_couplings_of_its_own():
    """Posteriors along parabolas: the best normal loses over 0.1 nats, the flow almost nothing."""
    likelihood = GaussianLikelihood(
        lambda z: torch.stack([z[..., 1] + 0.8 * z[..., 0].square(), 0.5 * z[..., 0]], -1), 0.4
    )
    x = torch.tensor([[0.5, 0.1], [1.0, 0.8]], dtype=torch.float64)
    grid = LatentGrid(likelihood, 2, points=301, half_width=5.0)
    target, zero, one = (
        Target(likelihood, standard_normal),
        torch.zeros(2, dtype=torch.float64),
        torch.ones(2, dtype=torch.float64),
    )
    evidence, mean, covariance = grid.moments(x)
    lost = {}
    for kind in ("full", "flow"):
        head = make_head(kind, 2, torch.float64)
        q = LocalQ(head, torch.zeros(2, head.numbers, dtype=torch.float64), zero, one)
        best, elbos = best_numbers(target, q, x, mean, covariance)
        lost[kind] = evidence - elbos
        for i in range(2):  # by an integral without draws of q
            kl = inference_gap._on_grid(grid, best.take(torch.tensor([i])), x[i : i + 1])[0][
                "kl_nats"
            ]
            assert kl == pytest.approx(float(lost[kind][i]), abs=1e-3)
    assert (lost["full"] > 0.1).all()
    assert (lost["flow"] < 0.05 * lost["full"]).all()


def test_a_narrow_q_beside_an_axis_the_data_say_nothing_about_is_integrated_finely_enough(
    monkeypatch,
):
    """Two modes of sd 0.03 on one axis, the prior on the other.

    The steps of 201 points over sixteen units are two sds wide.
    """
    likelihood = GaussianLikelihood(lambda z: z[..., 1:].square(), 0.06)
    x, one = torch.ones(1, 1, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    grid = LatentGrid(likelihood, 2, points=801, half_width=6.0)
    q = LocalQ(
        DiagonalHead(2),
        torch.tensor([[0.0, 1.0, 0.0, math.log(0.028)]], dtype=torch.float64),
        0 * one,
        one,
    )
    (found,) = datum_gaps(Target(likelihood, standard_normal), grid, q, x, steps=1)
    assert abs(found.identity_error_nats) < 1e-5
    assert found.approximation_gap_nats == pytest.approx(math.log(2), abs=0.02)  # one of two modes
    monkeypatch.setattr(inference_gap, "MOST_POINTS", 50_000)
    (coarse,) = datum_gaps(Target(likelihood, standard_normal), grid, q, x, steps=1)
    assert abs(coarse.identity_error_nats) > 1e-3


def test_a_kl_divided_by_the_pixels_is_caught():
    def divided(q, x):
        noise = torch.zeros(1, len(x), 2, dtype=torch.float64)
        mean, sd = q.draw(noise)[0], q.numbers[:, 2:].exp()
        kl = (0.5 * (mean.square() + sd.square() - 1) - sd.log()).sum(-1)
        return elbo_nats(TARGET, q, x) + kl - kl / 64

    faults = report(q_of("diagonal"), elbo=divided).faults
    assert len(faults) == 1
    assert "the objective, the draws or log q are wrong" in faults[0]


@pytest.mark.parametrize("log_sd", [2.0, 3.5])
def test_an_elbo_too_noisy_to_check_is_called_that_and_not_wrong(log_sd):
    """E_q of exp(2 z) at an sd of 7 or 33 has no quadrature."""
    likelihood = GaussianLikelihood(torch.exp, 0.5)
    x = torch.tensor([[1.5], [0.7]], dtype=torch.float64)
    grid = LatentGrid(likelihood, 1, points=401, half_width=6.0)
    numbers = torch.tensor([[0.3, log_sd], [0.0, -1.0]], dtype=torch.float64)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    q = LocalQ(DiagonalHead(1), numbers, zero, one)
    target = Target(likelihood, standard_normal)
    found = datum_gaps(target, grid, q, x, part="held out", labels=["3", "4"], steps=1)
    faults = GapReport(family="test", data=tuple(found), grid=grid.check(x), images=x).faults
    (said,) = [f for f in faults if "ELBO" in f]
    assert said.startswith("The ELBO of row '3' (held out) cannot be checked: the error of its")
    assert not any("wrong" in f or "'4'" in f for f in faults)


def test_a_fault_is_named_by_its_row_and_part():
    rows = report(q_of("full"), part="held out", elbo=lambda q, x: elbo_nats(TARGET, q, x) + 1)
    (said,) = rows.faults
    assert re.search(r"ELBO of row '\d' \(held out\) is .* error of both [\d.e-]+: .* wrong", said)


def test_a_variance_used_as_standard_deviation_is_caught():
    class Swapped(DiagonalHead):
        def draw(self, out, noise):
            return out[:, :2] + (2 * out[:, 2:]).exp() * noise

    q = q_of("diagonal")
    wrong = LocalQ(Swapped(2), q.numbers, q.center, q.spread)
    assert any("are wrong" in fault for fault in report(wrong).faults)


def test_a_density_without_its_normalization_is_caught():
    class Unnormalized(TriangularHead):
        def log_prob(self, out, w):
            return super().log_prob(out, w) + 0.01

    q = q_of("full")
    wrong = LocalQ(Unnormalized(2), q.numbers, q.center, q.spread)
    assert any("are wrong" in fault for fault in report(wrong).faults)


def test_refinement_never_moves_a_row_by_another():
    q = q_of("full", shift=0.3, stretch=0.4)
    both, alone = refine(TARGET, q, X), refine(TARGET, q.take(torch.tensor([2])), X[2:3])
    assert torch.allclose(both.numbers[2], alone.numbers[0], atol=1e-10)


def test_the_report_says_means_worst_rows_and_table():
    found = report(q_of("diagonal", shift=0.2))
    assert found.worst() == [max(range(ROWS), key=lambda i: found.data[i].kl_nats)]
    mean, error = found.mean("kl_nats")
    assert mean == pytest.approx(sum(d.kl_nats for d in found.data) / ROWS)
    assert error == pytest.approx(0, abs=1e-6)  # all rows have one posterior covariance
    lines = found.markdown().splitlines()
    assert any(line.startswith(r"| KL(q \|\| posterior)") for line in lines)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1  # columns


def test_a_unit_the_data_say_nothing_about_does_not_coarsen_the_grid_of_the_other():
    """One axis as wide as the prior, the other ninety times narrower.

    The identity holds, and exact draws have the exact sds.
    """
    decoder = torch.tensor([[0.02, 60.0], [0.0, 50.0], [0.01, 40.0]], dtype=torch.float64)
    likelihood = GaussianLikelihood(lambda z: z @ decoder.T, 1.0)
    x = torch.tensor([[30.0, 25.0, 20.0], [-6.0, -5.0, -3.5]], dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + decoder.T @ decoder)
    mean = x @ decoder @ covariance
    grid = LatentGrid(likelihood, 2, points=1001, half_width=6.0)
    assert float(grid.step[0]) > 0.9 * float(covariance[1, 1].sqrt())
    near = grid.around(mean[0], covariance, points=161)
    draws = near.sample(x[:1], 4000, 0)[:, 0]
    ratio = draws.std(0) / covariance.diagonal().sqrt()
    assert float((ratio - 1).abs().max()) < 5 / math.sqrt(2 * 4000) + 0.01
    head = make_head("diagonal", 2, torch.float64)
    numbers = torch.cat([mean, covariance.diagonal().sqrt().log().expand(2, 2)], -1)
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    found = datum_gaps(
        Target(likelihood, standard_normal),
        near,
        LocalQ(head, numbers[:1], zero, one),
        x[:1],
        steps=1,
    )
    assert abs(found[0].identity_error_nats) < 1e-3


def test_half_of_the_draws_from_the_prior_find_what_q_misses(monkeypatch):
    """A q three sds off: 5,000 draws of it miss the evidence, those of the mixture do not.

    Its weights are at most 2 p(x | z).
    """
    from types import SimpleNamespace

    from benchmarks.comparison import best_in_family
    from benchmarks.studies.vae import measure as results
    from guides.objectives.bounds import iwae_bound_nats

    q = q_of("full", shift=3 * COVARIANCE.diagonal().sqrt().max())
    monkeypatch.setattr(best_in_family.LocalQ, "of", staticmethod(lambda guide: guide))
    program = SimpleNamespace(likelihood=LIKELIHOOD, log_prior=standard_normal, latent=2)
    weights = results._defensive_weights(
        SimpleNamespace(program=program), SimpleNamespace(guide=q), X
    )
    assert weights.shape == (5000, ROWS)
    relative = (weights - EVIDENCE).exp()
    errors = relative.std(0) / math.sqrt(5000)
    assert ((relative.mean(0) - 1).abs() < 4 * errors).all()
    assert errors.max() < 0.1
    alone = torch.randn(
        5000, ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    z = q.draw(alone)
    assert (
        (iwae_bound_nats(TARGET.log_joint(X, z) - q.log_prob(z)) - EVIDENCE).abs()
        > (iwae_bound_nats(weights) - EVIDENCE).abs()
    ).any()


def test_coverage_is_the_posterior_mass_in_the_intervals_of_q():
    """With q half as wide as the posterior: 2 Phi(z / 2) - 1, and not q's mass in the others."""
    normal = torch.distributions.Normal(0.0, 1.0)

    def inside(z):
        return float(2 * normal.cdf(torch.tensor(z)) - 1)

    q = q_of("full", stretch=-math.log(2.0)).take(torch.arange(1))
    found = datum_gaps(TARGET, GRID, q, X[:1], steps=2)
    # q's factor is not that of the posterior halved: its off-diagonal stays; the first axis is
    scale = torch.linalg.cholesky(COVARIANCE)
    ratio = [
        0.5,
        float((0.25 * scale[1, 1] ** 2 + scale[1, 0] ** 2).sqrt() / COVARIANCE[1, 1].sqrt()),
    ]
    for gap in found:
        assert gap.coverage50 == pytest.approx(
            sum(inside(0.674490 * r) for r in ratio) / 2, abs=0.003
        )
        assert gap.coverage90 == pytest.approx(
            sum(inside(1.644854 * r) for r in ratio) / 2, abs=0.003
        )
        assert gap.coverage90 < 0.8


def test_the_error_of_a_mean_over_rows_is_the_textbook_one():
    found = report(q_of("diagonal"))
    values = [0.1, 0.9, 0.4, 0.2, 1.5, 0.3]
    data = tuple(replace(d, kl_nats=v) for d, v in zip(found.data, values, strict=True))
    mean, error = replace(found, data=data).mean("kl_nats")
    tensor = torch.tensor(values, dtype=torch.float64)
    assert mean == pytest.approx(float(tensor.mean()))
    # of 1,000 resamples, whose sd is known to 2 %
    assert error == pytest.approx(float(tensor.std(correction=0)) / ROWS**0.5, rel=0.09)
