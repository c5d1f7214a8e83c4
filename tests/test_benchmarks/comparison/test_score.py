"""`compare` on entries with known answers, on every kind of reference, with its sentences."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from support import planting
from torch import nn

import benchmarks
import zoo
from benchmarks.comparison.fit_checks import Failed, self_check
from benchmarks.comparison.score import compare, failed
from benchmarks.comparison.sentences import comparison_sentence, entry_sentence
from benchmarks.report.words import headline
from benchmarks.types import Comparison, Mcmc
from guides.types import Elbo, Fit, FitConfig, Restart, Stop
from zoo.errors import UsageError
from zoo.types import Analytic, Cost, Posterior, Quantity, Reference


def exact_reference(entry, data, n=20000, seed=0):
    exact: Analytic = entry.exact(data)
    truth = Posterior(
        entry=entry,
        data=data,
        method="analytic",
        draws=exact.sample(n, seed),
        sample_dims=("sample",),
    )
    return Reference(
        kind="analytic", posterior=truth, moments=exact.moments, log_evidence=exact.log_evidence
    )


def make_fit(posterior, status="ok", sentence="converged at step 900", elbos=(-1.0,)):
    starts = tuple(
        Restart(
            seed=i,
            elbo=Elbo(value_nats=v, se=0.01, draws=1000),
            stop=Stop(status="ok", sentence="", step=9),
        )
        for i, v in enumerate(elbos)
    )
    return Fit(
        entry=posterior.entry,
        data=posterior.data,
        family=posterior.method,
        program=lambda: None,
        guide=nn.Module(),
        config=FitConfig(),
        seed=0,
        losses=np.zeros(1),
        stop=Stop(status=status, sentence=sentence, step=900),
        elbo=starts[0].elbo,
        cost=Cost(seconds=1.0),
        restarts=starts,
    )


def mean_field(entry, data, n=2000, seed=1):
    """Draws of the exact mean-field optimum of an equicorrelated normal, with log weights."""
    d, rho = entry.settings["d"], entry.settings["rho"]
    sigma = (1 - rho) * np.eye(d) + rho * np.ones((d, d))
    sd = 1 / np.sqrt(np.diag(np.linalg.inv(sigma)))
    x = sd * np.random.default_rng(seed).standard_normal((n, d))
    log_q = -0.5 * ((x / sd) ** 2).sum(1) - np.log(sd).sum()
    log_p = (
        -0.5 * np.einsum("ni,ij,nj->n", x, np.linalg.inv(sigma), x)
        - 0.5 * np.linalg.slogdet(sigma)[1]
    )
    return Posterior(
        entry=entry,
        data=data,
        method="mean_field",
        draws={"x": torch.as_tensor(x)},
        sample_dims=("sample",),
        log_weights=torch.as_tensor(log_p - log_q),
    )


@pytest.mark.parametrize(("d", "ratio"), [(2, 0.436), (5, 0.353)])
def test_mean_field_on_a_correlated_normal_is_too_narrow_by_the_known_ratio(d, ratio):
    entry = zoo.load("correlated_gaussian", d=d)
    data = entry.load_data()
    found = compare(mean_field(entry, data), exact_reference(entry, data))
    assert found.verdict == "too_narrow"
    assert len(found.scores) == d
    for s in found.scores:
        assert s.sd_ratio == pytest.approx(ratio, abs=5 * s.sd_ratio_se + 0.0005)
        assert abs(s.mean_error) < 5 * s.mean_error_se
    assert found.correlations["difference"] == pytest.approx(
        -0.9, abs=5 * found.correlations["se"]
    )
    # the classifier detects the missing correlation, the sd names the verdict
    assert found.distances[0].value > found.distances[0].line
    sd = 1 / np.sqrt(np.diag(np.linalg.inv(0.1 * np.eye(d) + 0.9)))
    gap = 0.5 * (np.linalg.slogdet(0.1 * np.eye(d) + 0.9)[1] - 2 * np.log(sd).sum())
    # exact log evidence is 0
    assert found.elbo["value_nats"] == pytest.approx(-gap, abs=5 * found.elbo["se"])
    assert found.log_evidence["exact"] == 0.0
    assert found.pareto_k.draws == 2000
    assert "0.4" in found.sentence or "0.3" in found.sentence
    assert "try full_rank" in found.sentence


def test_exact_draws_agree_and_the_score_can_tell_a_better_seed_apart():
    entry = zoo.load("correlated_gaussian", d=3)
    data = entry.load_data()
    exact = Posterior(
        entry=entry,
        data=data,
        method="full_rank",
        draws=entry.exact(data).sample(2000, 5),
        sample_dims=("sample",),
    )
    found = compare(exact, exact_reference(entry, data))
    assert found.verdict == "agrees"
    assert (
        found.sentence
        == "full_rank agrees with the analytic reference: every mean and sd is within its line."
    )
    assert found.pareto_k is None
    assert found.heldout_lpd is None
    assert [d.name for d in found.distances] == ["c2st", "sliced_wasserstein"]
    assert all(d.floor is not None for d in found.distances)


def test_a_borrowed_reference_is_read_with_its_own_quantities():
    """The centered form has site x, the non-centered one z with x = 2 z; both have quantity x."""
    rng = np.random.default_rng(0)
    centered = planting.entry(2, "centered")
    other = replace(
        centered,
        name="other",
        quantities={"x": Quantity(fn=lambda draws, data: 2 * draws["z"], dims=("dim",))},
    )
    data = other.load_data()
    z = torch.as_tensor(rng.standard_normal((4, 1000, 2)))
    truth = Reference(
        kind="stored",
        posterior=Posterior(
            entry=other, data=data, method="nuts", draws={"z": z}, sample_dims=("chain", "draw")
        ),
    )
    right = compare(planting.guide(2 * rng.standard_normal((2000, 2)), model=centered), truth)
    assert right.verdict == "agrees"
    assert right.scores[0].reference_sd == pytest.approx(2.0, rel=0.1)
    renamed = replace(
        truth,
        posterior=replace(
            truth.posterior, entry=replace(other, quantities={"w": other.quantities["x"]})
        ),
    )
    with pytest.raises(UsageError, match="share no quantity"):
        compare(planting.guide(rng.standard_normal((2000, 2)), model=centered), renamed)
    with pytest.raises(UsageError, match="both sides need the same"):
        compare(planting.guide(rng.standard_normal((2000, 3))), truth)


def test_stored_moments_are_used_for_means_and_sds():
    posterior, truth = planting.planted("shift 0.05 sd", 0, 2)
    zero, one = torch.zeros(2), torch.ones(2)
    moved = replace(truth, moments={"x": zoo.types.Moments(one, zero, one, zero)})
    found = compare(posterior, moved, distances="none")
    assert found.verdict == "shifted"
    assert found.scores[0].mean_error == pytest.approx(
        -0.95, abs=5 * found.scores[0].mean_error_se
    )
    assert found.scores[0].reference_draws_needed == 0


def test_without_a_reference_only_trust_checks_speak():
    entry = zoo.load("correlated_gaussian")
    posterior = mean_field(entry, entry.load_data())
    found = compare(posterior, None, fit=make_fit(posterior, elbos=(-1.0, -9.0)))
    assert found.verdict == "no_reference"
    assert found.scores == ()
    k = found.pareto_k
    expected = {
        "convergence": True,
        "restarts": False,
        "pareto_k": k.trusted,
        "importance_ess": k.importance_ess >= 400,
        "self_check": False,  # weights widen both sds, which mean field cannot
    }
    assert {t.name: t.passed for t in found.trust} == expected
    assert "never visits is invisible" in found.sentence
    assert "within 8.000 nats" in found.sentence
    raw, _ = found.pareto_k.reweighted["x[1]"]
    assert raw == 0.0  # relative to the raw draws


@pytest.mark.parametrize(
    ("factor", "at", "passed"), [(1.0, 0.0, True), (1.3, 0.0, False), (1.0, 0.3, False)]
)
def test_the_self_check_sees_means_and_sds_alike(factor, at, passed):
    """Weights of N(at, factor^2) for draws at the quantiles of N(0, 1)."""
    n = 20_000
    x = norm.ppf((np.arange(n) + 0.5) / n)
    logs = norm.logpdf(x, at, factor) - norm.logpdf(x)
    share = np.exp(logs) / np.exp(logs).sum()
    mean = float((share * x).sum())
    sd = float((share * (x - mean) ** 2).sum()) ** 0.5
    known = SimpleNamespace(
        points=(),
        judged=("x",),
        pareto_k=SimpleNamespace(reweighted={"x": (0.0, mean)}, reweighted_sd={"x": (1.0, sd)}),
    )
    assert abs(mean) < 1e-6 or at > 0  # a wider target moves no mean
    if passed:
        assert "sd by x1.00" in self_check(known)
    else:
        with pytest.raises(Failed, match=f"sd by x{sd:.2f}"):
            self_check(known)


def point(d=2, at=None, n=2000):
    """A guide that is a point mass in the last component and exact elsewhere.

    It has the constant weights that Pyro would give it.
    """
    draws = np.random.default_rng(3).standard_normal((n, d))
    draws[:, -1] = 0.5 if at is None else at
    return planting.guide(draws, log_weights=np.full(n, -3.25))


def only_a_point(n=2000):
    draws = np.tile([0.0, 0.5], (n, 1))
    return replace(
        planting.guide(draws, log_weights=np.full(n, -3.25)), unconstrained=torch.as_tensor(draws)
    )


@pytest.mark.parametrize("how", ["draws", "unconstrained", "fit"])
def test_a_point_passes_no_trust_check(how):
    """Without a reference.

    It is detected by its draws, by its unconstrained draws if only a part is constant, or by its
    fit.
    """
    posterior = {
        "draws": replace(only_a_point(), unconstrained=None),
        "unconstrained": point(),
        "fit": point(),
    }[how]
    if how == "unconstrained":
        posterior = replace(posterior, unconstrained=posterior.draws["x"])
    fit = replace(make_fit(posterior, elbos=(-1.0, -1.5)), points=("z",) if how == "fit" else ())
    found = compare(posterior, None, fit=fit)
    where = {"draws": "x[d0], x[d1]", "unconstrained": "x[d1]", "fit": "z"}[how]
    assert found.verdict == "no_reference"
    assert {t.name: t.passed for t in found.trust} == {
        "spread": False,
        "convergence": None,
        "restarts": None,
    }
    assert found.trust[0].sentence.startswith(
        f"A point, no spread, in {where}: the guide has no density there"
    )
    assert (found.pareto_k, found.elbo) == (None, None)
    assert found.log_evidence is None
    assert "0 of 1 trust checks pass. A point, no spread" in found.sentence
    assert f"has no reference (a point, no spread, in {where})" in entry_sentence([found])
    assert headline(found) == ("", f"a point, no spread, in {where}")
    stopped = compare(
        posterior,
        None,
        fit=replace(fit, stop=Stop(status="not_converged", sentence="too few steps", step=9)),
    )
    assert [t.passed for t in stopped.trust] == [False, False, None]


def test_what_stands_still_by_definition_is_no_point():
    """An exact guide has equal weights and rightly k-hat 0.

    A diagonal of ones, and a quantity that counts data, are constant.
    """
    entry = zoo.load("correlated_gaussian", d=2)
    data = entry.load_data()
    entry = replace(
        entry,
        quantities={
            **entry.quantities,
            "one": Quantity(fn=lambda draws, data: torch.ones_like(draws["x"][..., 0])),
        },
    )
    x = entry.exact(data).sample(2000, 5)["x"]
    weights = torch.zeros(2000, dtype=torch.float64)
    for unconstrained in (None, x):
        exact = Posterior(
            entry=entry,
            data=data,
            method="full_rank",
            draws={"x": x},
            sample_dims=("sample",),
            log_weights=weights,
            unconstrained=unconstrained,
        )
        for reference in (None, exact_reference(entry, data)):
            found = compare(exact, reference, distances="none")
            assert found.verdict == ("no_reference" if reference is None else "agrees")
            assert {t.name: t.passed for t in found.trust} == {
                "pareto_k": True,
                "importance_ess": True,
                "self_check": True,
            }
            assert found.pareto_k.value == 0.0
            assert found.elbo["value_nats"] == 0.0


@pytest.mark.parametrize("at", [0.0, 0.4, 1 / 3])
def test_a_point_beside_a_reference_is_too_narrow_by_a_ratio_of_zero(at):
    """Its mean is judged as usual; its shape, which no scaling can change, is not."""
    truth = planting.reference(
        planting.four_chains(planting.normals(np.random.default_rng(1), 8000, 2, 0.0))
    )
    found = compare(point(at=at), truth)
    assert found.verdict == "too_narrow"
    assert found.reasons[0].sentence == "x[d1]: a point, no spread (sd 0 times the reference's)"
    others = [(r.verdict, r.label) for r in found.reasons[1:]]
    assert others == ([] if at == 0.0 else [("shifted", "x[d1]")])
    score = found.scores[1]
    assert (score.sd_ratio, score.sd_ratio_se) == (0.0, 0.0)
    assert score.mean_error == pytest.approx(at, abs=5 * score.mean_error_se)
    assert found.scores[0].sd_ratio == pytest.approx(1.0, abs=5 * found.scores[0].sd_ratio_se)
    assert found.correlations == {}
    # of the component that varies
    assert [d.name for d in found.distances] == ["c2st", "sliced_wasserstein"]
    assert found.distances[0].value < found.distances[0].line
    assert {t.name: t.passed for t in found.trust} == {"spread": False}
    assert found.pareto_k is None
    assert headline(found) == ("x[d1]", "a point, sd ×0")
    assert "x[d1] is a point, no spread" in entry_sentence([found])
    assert found.sentence.startswith(
        "full_rank is too narrow: x[d1]: a point, no spread (sd 0 times the reference's)"
    )
    assert "log sd" not in found.sentence


def test_rounding_is_no_spread():
    """Draws that differ in the last digit are those of a point mass.

    A site behind a vectorized exponential has such draws.
    """
    truth = planting.reference(
        planting.four_chains(planting.normals(np.random.default_rng(1), 8000, 2, 0.0))
    )
    draws = 0.4 * (1 + 1e-16 * np.random.default_rng(0).integers(-3, 3, (2000, 2)))
    assert draws.std() > 0
    found = compare(planting.guide(draws), truth)
    assert found.verdict == "too_narrow"
    assert [s.sd_ratio for s in found.scores] == [0.0, 0.0]
    assert {r.verdict for r in found.reasons} == {"too_narrow", "shifted"}
    assert found.distances == ()
    assert "No joint distance: draws that do not move" in found.notes[0]


def test_a_guide_is_no_truth_and_exact_draws_are():
    one, two = (
        planting.guide(np.random.default_rng(0).standard_normal((2000, 1))),
        planting.guide(np.random.default_rng(1).standard_normal((4000, 1))),
    )
    with pytest.raises(UsageError, match="a guide; accepted"):
        compare(one, two)
    assert compare(one, replace(two, method="exact")).reference.kind == "exact"


def test_draws_compared_with_themselves_say_nothing():
    draws = planting.chains(np.random.default_rng(0).standard_normal((4, 1000, 2)))
    found = compare(draws, Reference(kind="nuts", posterior=replace(draws)))
    assert found.verdict == "no_reference"
    assert "comparing them with themselves" in found.sentence


def test_bad_fits_fail_with_their_reason_and_no_scores():
    posterior, truth = planting.planted("shift 0.05 sd", 0, 2)
    stopped = compare(
        posterior,
        truth,
        fit=make_fit(posterior, status="nan", sentence="NaN at step 7, site tau."),
    )
    assert (stopped.verdict, stopped.status, stopped.scores) == ("fit_failed", "nan", ())
    assert "NaN at step 7, site tau" in stopped.sentence
    early = compare(
        posterior,
        truth,
        fit=make_fit(posterior, status="not_converged", sentence="6000 steps were not enough."),
        distances="none",
    )
    assert (early.verdict, early.status) == ("fit_failed", "not_converged")
    assert len(early.scores) == 2
    broken = posterior.draws["x"].clone()
    broken[3, 1] = math.inf
    infinite = compare(replace(posterior, draws={"x": broken}), truth)
    assert infinite.verdict == "fit_failed"
    assert "1 of 2,000 draws of x are not finite" in infinite.sentence
    nothing = failed(
        posterior.entry, posterior.data, "laplace", truth, "init_failed", "no mode was found"
    )
    assert (nothing.verdict, nothing.status, nothing.sentence) == (
        "fit_failed",
        "init_failed",
        "laplace failed: no mode was found.",
    )


def test_weights_that_are_not_numbers_cost_only_their_own_scores():
    posterior, truth = planting.planted("shift 0.05 sd", 0, 2)
    weights = torch.zeros(2000, dtype=torch.float64)
    weights[5] = math.nan
    found = compare(replace(posterior, log_weights=weights), truth, distances="none")
    assert found.verdict == "agrees"
    assert {t.name: t.passed for t in found.trust} == {"pareto_k": False}
    assert found.trust[0].sentence == "No k-hat: 1 of 2,000 log weights are not finite."
    assert found.pareto_k is None
    assert found.elbo is None
    assert "1 of 2,000 log weights are not finite" in found.notes[0]


def test_chains_as_a_method_are_judged_and_their_divergences_shown():
    rng = np.random.default_rng(3)
    truth = planting.reference(rng.standard_normal((4, 1000, 2)))
    row = planting.chains(rng.standard_normal((4, 1000, 2)))
    diverging = torch.zeros(4, 1000, dtype=torch.bool)
    diverging[0, :12] = True
    found = compare(replace(row, stats={"diverging": diverging}), truth)
    assert found.verdict == "agrees"
    assert "with 12 divergences" in found.sentence
    assert found.mcmc.divergences == 12
    stuck = row.draws["x"].clone()
    stuck[2] += 2.0
    apart = compare(replace(row, draws={"x": stuck}), truth, distances="none")
    assert (apart.verdict, apart.status) == ("fit_failed", "not_converged")
    assert "the chains disagree: R-hat" in apart.sentence
    assert len(apart.scores) == 2  # shown, with the wide errors of chains that disagree
    still = row.draws["x"].clone()
    still[2] = 0.0
    constant = compare(replace(row, draws={"x": still}), truth, distances="none")
    assert (constant.verdict, constant.scores) == ("fit_failed", ())


# -- sentences ---------------------------------------------------------------------------------


def rows(**verdicts) -> list[Comparison]:
    out = []
    for method, plant in verdicts.items():
        posterior, truth = planting.planted(plant, 0, 2)
        out.append(compare(replace(posterior, method=method), truth, distances="none"))
    return out


def test_the_entry_sentence_names_the_worst_first_and_the_next_step():
    text = entry_sentence(
        rows(full_rank="shift 0.05 sd", mean_field="sd x 0.75", low_rank="shift 0.25 sd")
    )
    assert text.startswith("planted: prefer full_rank; mean_field is too narrow (x[d")
    assert "low_rank is shifted (x[d" in text
    assert text.endswith("; full_rank agrees with the stored reference.")
    only = rows(mean_field="sd x 0.75")
    borrowed = [
        replace(
            c,
            posterior=replace(
                c.posterior, entry=replace(c.posterior.entry, reference_of="eight_schools")
            ),
        )
        for c in only
    ]
    twin = "try eight_schools (same posterior, another form); mean_field is"
    assert entry_sentence(borrowed).startswith(f"planted: {twin}")
    known = [
        replace(
            c,
            posterior=replace(
                c.posterior, entry=replace(c.posterior.entry, conditional=lambda *_: None)
            ),
        )
        for c in only
    ]
    assert "zoo.truth.grid" not in entry_sentence(known)
    known = [replace(c, reference=replace(c.reference, kind="exact")) for c in known]
    assert ": use the exact posterior (zoo.truth.grid); mean_f" in entry_sentence(known)
    entry = replace(
        known[0].posterior.entry, families=("amortized", "amortized_full", "amortized_flow")
    )
    steps = {
        m: comparison_sentence(m, "too_narrow", known[0].reasons, kind="exact", entry=entry)
        for m in entry.families
    }
    assert steps["amortized"].endswith("; try amortized_full.")
    assert steps["amortized_full"].endswith("; try amortized_flow.")
    assert steps["amortized_flow"].endswith("; use the exact posterior (zoo.truth.grid).")
    chained = comparison_sentence(
        "amortized_flow", "too_narrow", known[0].reasons, kind="conditional", entry=entry
    )
    assert chained.endswith("; try nuts.")
    awful = planting.guide(0.2 * np.random.default_rng(0).standard_normal((2000, 1)))
    truth = planting.reference(np.random.default_rng(1).standard_normal((4, 1000, 1)))
    assert "do not use full_rank (x[d0] sd x0.199)" in entry_sentence(
        [compare(awful, truth, distances="none")]
    )
    assert entry_sentence([]) == "Nothing was compared."


def test_the_entry_sentence_groups_what_to_avoid_and_advises_on_chains_that_diverge():
    truth = planting.reference(np.random.default_rng(1).standard_normal((4, 1000, 1)))
    awful = compare(
        planting.guide(0.2 * np.random.default_rng(0).standard_normal((2000, 1))),
        truth,
        distances="none",
    )
    good = compare(
        planting.guide(np.random.default_rng(2).standard_normal((2000, 1))),
        truth,
        distances="none",
    )
    chains = replace(
        good,
        posterior=replace(good.posterior, method="nuts"),
        mcmc=Mcmc(rhat_max=1.0, ess_bulk_min=2e3, ess_tail_min=2e3, ebfmi_min=1.0, divergences=8),
    )
    worst = [
        replace(awful, posterior=replace(awful.posterior, method=m))
        for m in ("laplace", "mean_field")
    ]
    text = entry_sentence([*worst, chains])
    assert "do not use laplace (x[d0] sd x0.199) or mean_field (" in text
    assert text.count("do not use") == 1
    assert text.startswith(
        "planted: use nuts, with smaller steps (target_accept 0.95 or 0.99) until no draw diverges"
    )
    assert text.endswith("; nuts (8 divergences) agrees with the stored reference.")
    fits = [
        replace(
            good, posterior=replace(good.posterior, method=m), elbo={"value_nats": v, "se": 0.1}
        )
        for m, v in (("a", -3.0), ("b", -1.0))
    ]
    assert ": prefer b or a; do not" in entry_sentence([*worst, *fits])


def test_the_public_surface_resolves_on_first_use():
    import benchmarks.comparison.score as module

    assert benchmarks.compare is module.compare
    posterior, truth = planting.planted("sd x 1.35", 0, 1)
    assert benchmarks.compare(posterior, truth, distances="none").verdict == "too_wide"
    for name in benchmarks.__all__:
        assert getattr(benchmarks, name) is not None
    with pytest.raises(AttributeError, match="it offers"):
        benchmarks.no_such_thing  # noqa: B018
