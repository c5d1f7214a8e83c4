"""Text alternatives of figures, word for word, of a view with values that are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.report import alternatives
from benchmarks.report.alternatives import MOST
from benchmarks.types import ParetoK

MINUS = "\N{MINUS SIGN}"
MU, TAU = ("mu", 0), ("tau", 0)
RAMP = np.linspace(0.0, 1.0, 101) ** 2  # quantile q is q^2; mean 0.335, sd 0.30129


def view(**fields):
    made = {
        "order": [("absent", 0), MU, TAU],
        "labels": {MU: "mu", TAU: "tau"},
        "reference": {MU: RAMP, TAU: 3 * RAMP},
        "draws": {"laplace": {MU: RAMP + 0.30129}, "nuts": {TAU: 4 * RAMP}},
        "shown": ["laplace", "nuts"],
        "marks": {"laplace": "o", "flow": "s"},
        "by_name": {},
    }
    return SimpleNamespace(**{**made, **fields})


def score(mean_error, log_sd_ratio, judged=True):
    return SimpleNamespace(
        judged=judged,
        mean_error=mean_error,
        mean_error_se=0.01,
        log_sd_ratio=log_sd_ratio,
        log_sd_ratio_se=0.02,
    )


def comparison(scores=(), gradients=0, seconds=0.0, pareto=None):
    cost = SimpleNamespace(gradient_evaluations=gradients, seconds=seconds)
    return SimpleNamespace(
        posterior=SimpleNamespace(cost=cost), scores=scores, verdict="agrees", pareto_k=pareto
    )


def pareto(value, **reweighted):
    return ParetoK(
        value=value, threshold=0.7, draws=1000, importance_ess=10.0, reweighted=reweighted
    )


@pytest.mark.parametrize(("number", "end"), [(13, "12"), (14, "13"), (15, "13; and 1 more")])
def test_beyond_fourteen_values_the_rest_is_counted(number, end):
    assert MOST == 14
    found = alternatives.listed(str(i) for i in range(number))
    assert found.startswith("0; 1; 2; ")
    assert found.endswith(f"; {end}")


def test_nothing_is_listed_as_nothing():
    assert alternatives.listed([]) == ""


def test_costs_are_of_gradients_or_of_seconds():
    methods = {
        "laplace": comparison([score(0.1, -0.25)], 12345, 1.23),
        "nuts": comparison([score(-0.04, 0.01), score(9.0, 9.0, judged=False)], 100, 61.2),
        "free": comparison([score(0.1, 0.1)], 0, 0.0),
    }
    shown = view(by_name=methods)
    assert alternatives.costs(shown, "gradients") == (
        "laplace 0.25 at 12,345 gradients; nuts 0.040 at 100 gradients"
    )
    assert alternatives.costs(shown, "seconds") == "laplace 0.25 at 1.2 s; nuts 0.040 at 61 s"


def test_intervals_are_of_the_worst_component_in_sds_of_the_reference():
    """The ends are (0.0025 - 0.335) / 0.30129 and so on; laplace lies one sd above."""
    assert alternatives.intervals(view(), 3) == (
        f"mu, in reference sds: reference {MINUS}0.282 [{MINUS}1.10, 1.88];"
        f" laplace 0.718 [{MINUS}0.104, 2.88]"
    )


def test_without_a_component_that_varies_or_is_shown_there_are_no_intervals():
    assert alternatives.intervals(view(), 0) == ""
    assert alternatives.intervals(view(reference={MU: np.ones(5)}), 3) == ""


def test_a_component_that_the_reference_fixes_is_passed_over():
    found = alternatives.intervals(view(reference={MU: np.ones(5), TAU: RAMP}), 1)
    assert found.startswith(f"tau, in reference sds: reference {MINUS}0.282 [")
    assert "laplace" not in found


def test_a_margin_is_of_one_component_in_its_own_units():
    assert alternatives.margin(view(), TAU) == (
        "reference 0.750 [0.00750, 2.71]; nuts 1.00 [0.0100, 3.61]"
    )


def test_a_stop_is_the_median_of_the_last_tenth_of_the_losses():
    fits = {
        "laplace": SimpleNamespace(losses=[9.0] * 1900 + list(range(100))),
        "flow": SimpleNamespace(losses=[100.0, 3.0, 2.0, 7.0]),  # three at least
        "unmarked": SimpleNamespace(losses=[1.0, 2.0]),
    }
    assert alternatives.stops(view(), fits) == (
        "laplace 9.000 nats at step 2,000; flow 3.000 nats at step 4"
    )
    fits["laplace"].losses = [9.0] * 10 + [1.0] * 40
    fits["flow"].losses = [1.0]  # no curve
    assert alternatives.stops(view(), fits) == "laplace 1.000 nats at step 50"


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        ([50.0] * 90 + [7.0] * 5 + [8.0, 9.0, 9.0, 9.0, 9.0], "flow 7.500 nats at step 100"),
        ([50.0] * 89 + [7.0] * 6 + [8.0, 9.0, 9.0, 9.0, 9.0], "flow 7.500 nats at step 100"),
        ([6.0, 7.0], "flow 6.500 nats at step 2"),
        ([], ""),
    ],
)
def test_a_tenth_of_a_hundred_losses_is_ten_and_of_two_all(losses, text):
    fits = {"flow": SimpleNamespace(losses=losses)}
    assert alternatives.stops(view(), fits) == text


def test_weights_are_k_hats_or_the_largest_error_before_and_after():
    methods = {
        "laplace": comparison(pareto=pareto(0.456, mu=(0.3, -0.01), tau=(-0.5, 0.1))),
        "flow": comparison(pareto=pareto(1.234)),
        "nuts": comparison(),
    }
    shown = view(by_name=methods)
    assert alternatives.weights(shown) == "laplace 0.46 (at most 0.70); flow 1.2 (at most 0.70)"
    assert alternatives.weights(shown, moved=True) == f"laplace tau {MINUS}0.50 to +0.10"


def test_replications_stand_beside_what_was_observed():
    check = SimpleNamespace(
        observed=[0.0, 2.0], replicated={"nuts": [1.0, 1.0], "flow": [0.0, 3.0]}
    )
    assert alternatives.replications(check) == (
        "observed mean 1.00, sd 1.00; nuts mean 1.00, sd 0; flow mean 1.50, sd 1.50"
    )
