"""The study of trust: what its rows measure, and what its page counts."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from benchmarks.studies.rows import Kept, json_text
from benchmarks.studies.trust import criteria, hard, measure, render
from benchmarks.trust.estimate import LOG_Z
from zoo.density.log_density import LogDensity
from zoo.density.propriety import at_the_edge, may_not_exist


def row(**fields):
    """A fit that is good by the reference, agrees, and is repaired."""
    good = {
        "status": "ok",
        "entry": "coin",
        "family": "laplace",
        "seed": 0,
        "gate": 0,
        "verdict": "agrees",
        "sentence": "laplace agrees.",
        "k_hat": 0.2,
        "held": 9,
        "looks": 10,
        "seconds": 2.0,
        "fit_seconds": 1.0,
    }
    for kind in ("true", "estimated", "repaired"):
        good |= {f"{kind}_mean": 0.01, f"{kind}_log_sd": 0.01}
    return good | fields


def cells(page, criterion):
    line = next(text for text in page.splitlines() if criterion in text)
    return [c.strip() for c in line.strip("|").split("|")]


def test_the_page_counts_bad_and_good_fits():
    bad = {"true_mean": 0.5, "estimated_mean": 0.5, "gate": 1}
    rows = {
        "a": row(**bad),
        "b": row(**{**bad, "gate": 4}, entry="banana", sentence="open.", k_hat=0.9),
        "c": row(),
        "d": row(gate=1, sentence="a false alarm."),
        "e": row(true_mean=0.15, estimated_mean=0.4, repaired_mean=0.2),  # neither bad nor good
        "f": {"status": "left out", "why": "300 coordinates"},
    }
    page = render.page({"fits": rows})
    assert cells(page, "bad fits flagged")[2].startswith("1 of 2 (50%, ")
    assert cells(page, "k-hat above")[2].startswith("1 of 2")
    assert cells(page, "false alarms on good fits")[2].startswith("1 of 2")
    assert cells(page, "good fits called")[2].startswith("1 of 2")
    assert cells(page, "estimated worst errors")[2].startswith("4 of 5")
    assert cells(page, "repaired draws")[2].startswith("4 of 5")
    assert cells(page, "repaired draws")[3] == "**no**"
    assert "90.0% of 50" in cells(page, "90 % intervals")[2]
    assert "banana `laplace` seed 0: worst mean error 0.50 sd" in page
    assert "a false alarm." in " ".join(page.split())
    assert "| left out: 300 coordinates | 1 |" in page


def test_intervals_are_exact():
    """Clopper and Pearson: with 0 of 10 the upper end is 1 - 0.025^(1/10)."""
    high = 1 - 0.025**0.1
    assert criteria.count(0, 10) == f"0 of 10 (0%, 0% to {high:.0%})"
    assert criteria.count(10, 10) == f"10 of 10 (100%, {1 - high:.0%} to 100%)"


def test_an_evidence_must_hold_both_its_error_and_the_line():
    kept = {"status": "ok", "islands": 16, "exact": 0.0, "pilot": 0.3}
    rows = {
        "near": kept | {"value": 0.01, "error": 0.01, "se": 0.01},
        "far": kept | {"value": 0.2, "error": 0.2, "se": 0.2},
        "sure": kept | {"value": 0.05, "error": 0.05, "se": 0.001},
        "open": kept | {"value": 0.01, "error": 0.01, "se": 0.01, "known": False},
    }
    page = render.page({"evidence": rows})
    assert cells(page, "log evidence within")[2].startswith("1 of 4")
    assert "| open | 0.000 | 0.010 +- 0.010, not known | +0.010 | +0.300 |" in page
    assert "| far | 0.000 | 0.200 +- 0.200 | +0.200 | +0.300 |" in page


def test_exact_draws_are_counted_over_entries():
    rows = {
        name: {"status": "ok", "seeds": 100, "found": 0, "rejected": n}
        for name, n in (("a", 4), ("b", 6))
    }
    page = render.page({"exact_draws": rows})
    assert cells(page, "the test of no drift")[2].startswith("10 of 200 (5%, ")
    assert cells(page, "drift is a finding")[2].startswith("0 of 200")


def test_a_row_of_a_fit_knows_its_true_error():
    """Mean field on a correlated normal (rho 0.9): sds are sqrt(1 - rho^2) = 0.436 of those."""
    found = measure.fit_row("correlated_gaussian", "mean_field", 0)
    truth = -0.5 * math.log(1 - 0.9**2)
    assert found["true_log_sd"] == pytest.approx(truth, abs=0.1)
    assert found["estimated_log_sd"] == pytest.approx(truth, abs=0.1)
    assert found["repaired_log_sd"] < 0.08
    assert found["gate"] == 1
    assert found["looks"] == 2 * found["dimensions"]
    assert found["kl"][0] == pytest.approx(truth, abs=0.1)


def test_what_cannot_be_judged_is_left_out_with_its_reason():
    found = measure.fit_row("vae", "amortized", 0)
    assert found["status"] == "left out"
    assert "trained" in found["why"]


def test_an_evidence_row_is_the_closed_form():
    found = measure.evidence_row("coin", "laplace")
    assert abs(found["error"]) < 5 * found["se"] + 0.01
    assert found["islands"] == 16
    assert found["known"]


def test_published_rows_of_this_protocol_are_carried_over(tmp_path):
    published, kept = tmp_path / "trust.json", Kept(tmp_path / "rows.json")
    own = {"status": "ok", "protocol": measure.PROTOCOL}
    old = {"status": "ok", "protocol": measure.PROTOCOL - 1}
    published.write_text(
        json_text({"fits": {"new": own, "old": old, "known": own, "before": {"status": "ok"}}})
    )
    kept.put("known", {"status": "other"})
    measure._carry("fits", kept, published)
    assert kept.rows == {"known": {"status": "other"}, "new": own}
    measure._carry("hard", kept, published)
    assert len(kept.rows) == 2


# -- the hard set ------------------------------------------------------------------------------


def hard_fit(**fields):
    """A bad fit that is flagged and repaired."""
    found = row(true_mean=0.5, estimated_mean=0.4, gate=1, verdict="shifted")
    found |= {"evidence": 0.0, "log_z": -0.01, "log_z_se": 0.02, "repaired": "smc"}
    found |= {"probability_error": 0.012, "repaired_passes": True, "repaired_doubt": ""}
    return found | fields


def test_the_page_counts_targets_and_doubted_repairs():
    wrong = {"repaired_passes": False, "probability_error": 0.2}
    rows = {
        "ring laplace": hard_fit(entry="ring"),
        "ring mean_field": hard_fit(entry="ring", family="mean_field", k_hat=0.9),
        "funnel laplace": hard_fit(entry="funnel"),
        "funnel mean_field": hard_fit(
            entry="funnel",
            family="mean_field",
            gate=4,
            repaired_doubt="They move.",
            log_z=None,
            **wrong,
        ),
        "modes laplace": hard_fit(entry="modes", **wrong),
        "gone": {"status": "init_failed", "why": "no mode"},
    }
    page = render.page({"hard": rows})
    assert cells(page, "bad fits flagged, hard set")[2].startswith("4 of 5 (80%, ")
    assert cells(page, "bad fits flagged, hard set")[3] == "**no**"
    assert cells(page, "k-hat above")[2].startswith("1 of 5")
    assert cells(page, "hard targets whose")[2:] == ["1 of 3", "**no**"]
    assert cells(page, "repairs that are not right")[2].startswith("1 of 2")
    line = next(text for text in page.splitlines() if text.startswith("| funnel | `mean_field`"))
    assert (
        "| `shifted` | 0.50, 0.40 | 0.01, 0.01 | smc, in doubt | 0.200 **(not right)** |" in line
    )
    assert line.endswith("| 0.00, not known |")
    assert "| ring | `laplace` | `shifted` |" in page
    assert "| 0.012 | 0.00, -0.01 +- 0.02 |" in page
    assert "| init_failed: no mode | 1 |" in page


@pytest.mark.parametrize("name", sorted(hard.TARGETS))
def test_exact_draws_follow_the_density_of_their_program(name):
    """E[g' grad log p + div g] = 0 for every field g of compact support (Stein, 1972).

    With g_i(u) = tanh((u_i - m) / s): mean of g_i d_i log p + d_i g_i, over 20,000 exact draws, is
    zero within 5 standard errors in every unconstrained coordinate.
    """
    target = hard.TARGETS[name]
    entry = target.entry(name)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    drawn = target.draws(20_000, 3)
    u = density.unconstrain({s.name: drawn[s.name] for s in density.sites})
    u = u[torch.isfinite(u).all(1)]
    assert len(u) > 19_900
    _, slope = density.batch_gradient(u.contiguous())
    center, scale = u.median(0).values, u.quantile(0.84, 0) - u.quantile(0.16, 0)
    bump = torch.tanh((u - center) / scale)
    terms = bump * slope + (1 - bump.square()) / scale
    z = terms.mean(0) / (terms.std(0) / len(u) ** 0.5)
    assert z.abs().max() < 5.0


def test_exact_draws_of_sparse_probabilities_do_not_doubt_their_posterior():
    """Dirichlet(0.2): one draw in some hundreds has an entry that rounds to zero."""
    target = hard.TARGETS["dirichlet"]
    entry = target.entry("dirichlet")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    u = density.unconstrain(target.draws(4_000, 3))
    edges = at_the_edge(density, u)
    assert edges[0] == "x"
    assert 0.0 < edges[1] < 0.01
    assert may_not_exist(density, u) == ""
    wide = u.clone()
    wide[:200] *= 40.0  # a twentieth of the mass, most of it nearer to a corner than floats are
    assert 0.03 < at_the_edge(density, wide)[1] < 0.06
    assert "of the draws of site 'x' are at the end" in may_not_exist(density, wide)


def test_a_shifted_sampler_does_not_follow_the_density():
    """The check above notices draws of the banana that are a tenth too wide."""
    target = hard.TARGETS["banana"]
    entry = target.entry("banana")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    drawn = {k: 1.1 * v for k, v in target.draws(20_000, 3).items()}
    u = density.unconstrain({s.name: drawn[s.name] for s in density.sites})
    _, slope = density.batch_gradient(u.contiguous())
    terms = torch.tanh(u) * slope + 1 - torch.tanh(u).square()
    assert (terms.mean(0) / (terms.std(0) / len(u) ** 0.5)).abs().max() > 5.0


@pytest.mark.parametrize(("name", "low", "high"), [("ring", 1e-9, 14.0), ("boundary", -30.0, 9.0)])
def test_evidences_of_hard_targets_are_those_of_quadrature(name, low, high):
    """Ring: the integral over the radius. Boundary: over log tau, y a normal of closed form."""
    target = hard.TARGETS[name]
    if name == "ring":
        value, _ = quad(lambda r: 2 * math.pi * r * math.exp(-2 * (r - 5) ** 2), low, high)
    else:
        y = target.data["y"].numpy()
        normal = lambda t: multivariate_normal(cov=(1 + t**2) * np.eye(8) + 25.0).pdf(y)  # noqa: E731
        value, _ = quad(lambda t: normal(t) * 2 * norm.pdf(t), 0, 10)
    assert target.log_evidence == pytest.approx(math.log(value), abs=1e-6)


def test_exact_draws_pass_the_probability_check():
    """4,000 exact draws pass in each of 100 seeds, draws a third too wide in none."""
    target = hard.TARGETS["gamma"]
    entry = target.entry("gamma")
    data = entry.load_data()
    truth = target.reference(entry, data, 100_000, 1).posterior

    def passes(seed, stretch):
        drawn = {"x": target.draws(4_000, seed)["x"] ** stretch}
        draws = dataclasses.replace(truth, draws=drawn, method="short_chains")
        gaps, errors = hard.probability_errors(draws, truth, entry, data)
        assert gaps.shape == errors.shape == (5, 3)
        return bool((gaps.abs() <= (3 * errors).clamp(min=hard.CLOSE)).all())

    assert sum(passes(seed, 1.0) for seed in range(100, 200)) >= 99
    assert not any(passes(seed, 1.33) for seed in range(100, 110))


def test_errors_of_islands_come_from_their_differences():
    """Two islands with P(x <= 0) = 0.4 and 0.6: the error is 0.1, whatever their size."""
    target = hard.TARGETS["cauchy"]
    entry = target.entry("cauchy")
    data = entry.load_data()
    truth = target.reference(entry, data, 20_000, 1).posterior
    signs = torch.ones(2, 1_000, 3, dtype=torch.float64)
    signs[0, :400], signs[1, :600] = -1.0, -1.0
    islands = dataclasses.replace(
        truth,
        draws={"x": signs},
        sample_dims=("chain", "draw"),
        stats={LOG_Z: torch.zeros(2, 1_000)},
    )
    gaps, errors = hard.probability_errors(islands, truth, entry, data)
    assert gaps[2].tolist() == pytest.approx([0.0] * 3)
    assert errors[2].tolist() == pytest.approx([0.1] * 3)


def test_a_mode_that_the_guide_misses_is_found_and_repaired():
    """modes10: 0.3 of the mass lies 10 sds from the guide; the true mean error is 0.64 sd."""
    found = hard.hard_row("modes10", "laplace")
    assert found["true_mean"] == pytest.approx(3.0 / math.hypot(1.0, 10 * 0.21**0.5), abs=0.05)
    assert found["estimated_mean"] == pytest.approx(found["true_mean"], abs=0.1)
    assert found["gate"] == 1
    assert found["repaired"] == "smc"
    assert found["repaired_passes"]
    assert not found["repaired_doubt"]
    assert found["log_z"] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("missing", ["draws", "truth"])
def test_a_target_without_draws_or_truth_has_no_probability_error(missing):
    found = SimpleNamespace(repaired=None if missing == "draws" else object(), estimate=None)
    truth = None if missing == "truth" else object()
    assert hard._repaired(found, truth, None, None) == {"repaired": None}
