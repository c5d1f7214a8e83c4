"""Derived values of the records of a comparison, and the check that NUTS runs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks import contract
from benchmarks.types import (
    Comparison,
    Mcmc,
    ParetoK,
    PredictiveCheck,
    Score,
    has_draws,
    method_names,
)
from zoo.contract.subject import Failed, Skipped


def score(**changes):
    given = {
        "quantity": "a",
        "index": (),
        "label": "a",
        "mean_error": 0.0,
        "mean_error_se": 0.0,
        "sd_ratio": 1.0,
        "sd_ratio_se": 0.0,
        "wasserstein": 0.0,
        "q05_error": 0.0,
        "q50_error": 0.0,
        "q95_error": 0.0,
        "coverage50": 0.5,
        "coverage90": 0.9,
        "judged": True,
    }
    return Score(**{**given, **changes})


def test_a_component_is_judged_by_moments_or_by_quantiles():
    moments, quantiles = score(), score(by_quantiles=True)
    assert (moments.center, moments.spread) == ("mean", "sd")
    assert (quantiles.center, quantiles.spread) == ("median", "interquartile range")


def test_the_log_ratio_of_a_point_mass_is_finite():
    half = score(sd_ratio=0.5, sd_ratio_se=0.1)
    assert half.log_sd_ratio == pytest.approx(-math.log(2))
    assert half.log_sd_ratio_se == pytest.approx(0.2)
    point = score(sd_ratio=0.0, sd_ratio_se=2e-12)
    assert point.log_sd_ratio == pytest.approx(math.log(1e-12))
    assert point.log_sd_ratio_se == pytest.approx(2.0)


def pareto(value, threshold=0.7, draws=1000):
    return ParetoK(value=value, threshold=threshold, draws=draws, importance_ess=1.0)


def test_a_k_hat_is_trusted_up_to_its_threshold():
    assert pareto(0.7).trusted
    assert not pareto(0.701).trusted
    assert not pareto(math.nan).trusted


@pytest.mark.parametrize(
    ("value", "draws", "se"),
    [
        # 3 sqrt(900) = 90 of 900 draws; 100 / 5 = 20 of 100 draws
        (0.5, 900, 1.5 / math.sqrt(90) * 0.9),
        (0.5, 100, 1.5 / math.sqrt(20) * 20 / 30),
        (-2.0, 900, 0.0),
        (0.0, 900, 0.0),
    ],
)
def test_the_error_of_k_hat_is_that_of_its_tail(value, draws, se):
    assert pareto(value, draws=draws).se == pytest.approx(se)


def test_a_k_hat_is_near_its_line_within_one_error():
    error = pareto(0.6, draws=900).se
    assert pareto(0.6, 0.6 + 0.99 * error, 900).near
    assert pareto(0.6, 0.6 - 0.99 * error, 900).near
    assert not pareto(0.6, 0.6 + error * 1.01, 900).near


@pytest.mark.parametrize(
    ("gates", "passed"), [({}, False), ({"a": True}, True), ({"a": True, "b": False}, False)]
)
def test_chains_pass_all_of_some_gates(gates, passed):
    found = Mcmc(
        rhat_max=1.0, ess_bulk_min=1.0, ess_tail_min=1.0, ebfmi_min=1.0, divergences=0, gates=gates
    )
    assert found.passed is passed


def posterior(method="flow", seed=0):
    return SimpleNamespace(method=method, seed=seed, entry=SimpleNamespace(key="mine"))


def comparison(**fields):
    made = object.__new__(Comparison)
    given = {"posterior": posterior(), "scores": (), "log_evidence": None, "elbo": None}
    for name, value in {**given, "sentence": "It is fine.", **fields}.items():
        object.__setattr__(made, name, value)
    return made


def test_a_comparison_is_shown_by_its_sentence():
    assert repr(comparison()) == "Comparison(mine, flow: It is fine.)"


@pytest.mark.parametrize(
    ("evidence", "elbo", "lost"),
    [
        ({"exact": -1.0}, {"value_nats": -3.0, "se": 0.5}, (2.0, 0.5)),
        (
            {"exact": -1.0, "estimate": -9.0, "estimate_se": 4.0},
            {"value_nats": -3.0, "se": 0.5},
            (2.0, 0.5),
        ),
        (
            {"exact": None, "estimate": -1.0, "estimate_se": 0.3},
            {"value_nats": -3.0, "se": 0.4},
            (2.0, 0.5),
        ),
        ({"estimate": 0.0, "estimate_se": None}, {"value_nats": -3.0, "se": 0.4}, (3.0, 0.4)),
        (None, {"value_nats": -3.0, "se": 0.5}, None),
        ({"exact": -1.0}, None, None),
        ({"exact": -1.0}, {"value_nats": -3.0, "se": None}, None),
        ({"exact": -1.0}, {"value_nats": -math.inf, "se": 0.5}, None),
        ({"exact": -1.0}, {"value_nats": -3.0, "se": math.nan}, None),
    ],
)
def test_what_a_guide_loses_is_the_evidence_less_its_bound(evidence, elbo, lost):
    found = comparison(log_evidence=evidence, elbo=elbo).lost
    assert found == (None if lost is None else pytest.approx(lost))


def test_the_worst_component_is_judged_and_farthest_over_its_line():
    small = score(label="small", mean_error=-0.3)  # twice 0.15
    wide = score(label="wide", sd_ratio=1.15**-3)  # three times log 1.15
    shown = score(label="shown", mean_error=9.0, judged=False)
    assert comparison(scores=(small, wide, shown)).worst().label == "wide"
    assert comparison(scores=(small, shown)).worst().label == "small"
    assert comparison(scores=(shown,)).worst() is None


def test_a_predictive_check_names_its_site_and_methods():
    check = PredictiveCheck(
        label="y", observed=np.zeros(4), replicated={"a": np.zeros((2, 4)), "b": np.zeros((2, 4))}
    )
    assert repr(check) == "PredictiveCheck(y: 4 observed; a, b)"


def test_a_method_that_failed_has_no_draws():
    assert has_draws(SimpleNamespace(draws={"a": 1}, sample_shape=(2, 3)))
    assert not has_draws(SimpleNamespace(draws={"a": 1}, sample_shape=(2, 0)))
    assert not has_draws(SimpleNamespace(draws={}, sample_shape=(2, 3)))


def test_methods_with_several_seeds_are_told_apart():
    rows = [posterior("flow", 0), posterior("nuts", 3), posterior("flow", 1)]
    names = method_names([SimpleNamespace(posterior=p) for p in rows])
    assert names == ["flow s0", "nuts", "flow s1"]


# --- the check of a program


@pytest.mark.parametrize("finite", [True, False])
def test_a_short_chain_has_finite_draws(monkeypatch, finite):
    calls = []
    draws = {"a": torch.zeros(2), "b": torch.tensor([0.0, 0.0 if finite else math.nan])}
    monkeypatch.setattr(
        contract,
        "run_nuts",
        lambda entry, **options: calls.append(options) or SimpleNamespace(draws=draws),
    )
    entry = SimpleNamespace(learns=False)
    if finite:
        assert contract.nuts_runs(entry) == "a short chain starts, moves and stays finite"
    else:
        with pytest.raises(Failed) as caught:
            contract.nuts_runs(entry)
        assert str(caught.value) == "draws of b are not finite; check priors and transforms"
    assert calls == [
        {"seed": 1, "chains": 1, "tune": 60, "draws": 20, "min_ess": 0, "in_process": True}
    ]


def test_a_program_that_is_trained_first_is_skipped():
    with pytest.raises(Skipped) as caught:
        contract.nuts_runs(SimpleNamespace(learns=True))
    assert str(caught.value) == (
        "the program's weights are trained first; NUTS then takes the fit"
    )


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError) as caught:
        benchmarks.no_such_name  # noqa: B018
    assert str(caught.value) == (
        "module 'benchmarks' has no attribute 'no_such_name'; it offers"
        f" {', '.join(benchmarks.__all__)}"
    )
    assert benchmarks.__getattr__("verdicts").__name__ == "benchmarks.verdicts"
    with pytest.raises(AttributeError):
        benchmarks.__getattr__("__path_of__")
    assert set(benchmarks.__all__) <= set(dir(benchmarks))
    assert dir(benchmarks) == sorted(dir(benchmarks))
