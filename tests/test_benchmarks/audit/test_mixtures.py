"""The bound audit on a mixture: one numbering of the classes costs log K!, nothing else."""

import math

import pytest
import torch

import zoo
from benchmarks import audit as bounds
from benchmarks.audit.estimators import Reported, _fit
from benchmarks.audit.subject import Audited
from zoo.contract.draws import free_classes
from zoo.contract.subject import Skipped, Subject


def converges(entry, **keywords):
    (check,) = [
        c
        for c in bounds.checks(entry, ["laplace"], **keywords)
        if c.name == "bounds.laplace.bound_converges"
    ]
    return check.run()


def test_a_guide_in_one_numbering_is_low_by_log_two():
    result = converges(zoo.load("gaussian_mixture_exact"))
    assert result.status == "ok", result.sentence
    assert "one of the 2 numberings" in result.sentence


@pytest.mark.parametrize("nats", [0.3, -0.3])
def test_another_error_is_not_taken_for_the_numbering(nats):
    right = zoo.load("gaussian_mixture_exact")
    truth = right.exact(right.load_data()).log_evidence
    result = converges(right, log_evidence=truth + nats, reported=Reported(fit=_fit))
    assert result.status == "failed"


def evidence(**keywords):
    (check,) = [
        c
        for c in bounds.checks(zoo.load("gaussian_mixture_exact"), [], **keywords)
        if c.name == "bounds.evidence"
    ]
    return check.run()


def test_points_around_one_numbering_are_known_to_miss_the_other():
    """Importance sampling around one of two equal modes has a k-hat of 0.1 and misses log 2."""
    found = evidence()
    assert found.status == "ok", found.sentence
    assert "around 1 of the 2 numberings" in found.sentence
    entry = zoo.load("gaussian_mixture_exact")
    truth = entry.exact(entry.load_data()).log_evidence
    assert evidence(log_evidence=truth + 0.3).status == "failed"
    unknown = Audited(
        zoo.load("gaussian_mixture"), log_evidence=None, route="", reported=Reported()
    )
    with pytest.raises(Skipped, match="one numbering of free classes"):
        _ = unknown.evidence


def test_free_classes_are_counted_from_the_density():
    assert free_classes(Subject(zoo.load("gaussian_mixture_exact", K=3))) == 3
    assert free_classes(Subject(zoo.load("coin"))) == 1


def test_the_elbo_of_one_numbering_misses_at_least_log_two():
    entry = zoo.load("gaussian_mixture_exact")
    truth = entry.exact(entry.load_data()).log_evidence
    import guides

    value = guides.elbo(guides.fit(entry, "laplace", compile="off"), 2000)
    assert value.value_nats + 5 * value.se < truth - 0.9 * math.log(2)
    assert torch.isfinite(torch.tensor(value.value_nats))
