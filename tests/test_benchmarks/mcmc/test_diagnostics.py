"""Gates: healthy chains pass; chains that only look healthy to R-hat fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import planting

from benchmarks.mcmc.diagnostics import components, diagnose, smallest_ess
from zoo.errors import UsageError


@pytest.fixture
def draws():
    return np.random.default_rng(0).standard_normal((4, 1000, 3))


def posterior(draws, **stats):
    from dataclasses import replace

    return replace(planting.chains(draws), stats={k: torch.as_tensor(v) for k, v in stats.items()})


def test_independent_chains_pass_every_gate(draws):
    rng = np.random.default_rng(1)
    found = diagnose(
        posterior(draws, lp=rng.standard_normal((4, 1000)), energy=rng.standard_normal((4, 1000))),
        reference=True,
    )
    assert found.passed
    assert set(found.gates) == {
        "finite",
        "non_constant",
        "rhat",
        "ess_bulk",
        "ess_tail",
        "ebfmi",
        "no_divergences",
    }
    assert found.rhat_max < 1.01
    assert found.ess_bulk_min > 3000


@pytest.mark.parametrize(
    ("fault", "gate", "words"),
    [
        (
            lambda x: np.where(np.arange(12000).reshape(4, 1000, 3) == 100, np.inf, x),
            "finite",
            "not finite",
        ),
        (
            lambda x: np.where(np.arange(12000).reshape(4, 1000, 3) == 100, np.nan, x),
            "finite",
            "not finite",
        ),
        (lambda x: x * np.array([1.0, 0.0, 1.0]), "non_constant", "x[d1] does not move"),
        (
            lambda x: x * np.array([1.0, 1.0, 1.0, 0.0])[:, None, None],
            "non_constant",
            "does not move",
        ),
        (lambda x: x + np.array([0.0, 0.0, 0.0, 0.5])[:, None, None], "rhat", "R-hat"),
        (lambda x: x[:1], "rhat", "R-hat"),
        (lambda x: np.repeat(x[:, :200], 5, axis=1), "ess_bulk", "ESS"),
        (lambda x: x[:, :200], "ess_tail", "ESS"),
    ],
    ids=[
        "inf",
        "nan",
        "constant",
        "constant chain",
        "shifted chain",
        "one chain",
        "sticky",
        "short",
    ],
)
def test_each_fault_fails_its_gate(draws, fault, gate, words):
    found = diagnose(posterior(fault(draws)))
    assert not found.gates[gate]
    assert not found.passed
    assert words in found.worst


def test_lp_is_gated_too(draws):
    stuck = np.random.default_rng(2).standard_normal((4, 1000)) + np.arange(4)[:, None]
    found = diagnose(posterior(draws, lp=stuck))
    assert not found.gates["rhat"]
    assert found.worst.startswith("lp ")


def test_energy_that_wanders_slowly_fails_ebfmi(draws):
    walk = np.random.default_rng(3).standard_normal((4, 1000)).cumsum(1)
    assert not diagnose(posterior(draws, energy=walk)).gates["ebfmi"]
    assert "ebfmi" not in diagnose(posterior(draws)).gates


def test_divergences_are_counted_for_all_and_gated_for_a_reference(draws):
    diverging = np.zeros((4, 1000), dtype=bool)
    diverging[2, 10:13] = True
    row, truth = (
        diagnose(posterior(draws, diverging=diverging), reference=flag) for flag in (False, True)
    )
    assert row.divergences == truth.divergences == 3
    assert row.passed
    assert not truth.gates["no_divergences"]


def test_draws_of_a_guide_are_refused(draws):
    with pytest.raises(UsageError, match=r"R-hat compares chains.*compare"):
        diagnose(planting.guide(draws[0]))


def test_smallest_ess_is_nan_for_broken_draws(draws):
    assert 3000 < smallest_ess(posterior(draws)) < 5000
    assert np.isnan(smallest_ess(posterior(draws * np.array([1.0, 0.0, 1.0]))))


def test_components_carry_their_labels(draws):
    x, labels = components(posterior(draws, lp=draws[..., 0]))
    assert labels == ["x[d0]", "x[d1]", "x[d2]", "lp"]
    assert x.shape == (4, 1000, 4)
    assert components(planting.guide(draws[0]))[0].shape == (1, 1000, 3)


def test_one_wandering_chain_of_four_fails_ebfmi(draws):
    """The smallest E-BFMI counts: three healthy chains do not make up for one."""
    rng = np.random.default_rng(4)
    energy = rng.standard_normal((4, 1000))
    energy[2] = 0.1 * rng.standard_normal(1000).cumsum()
    each = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1)
    assert each[2] < 0.1
    assert each.mean() > 1
    found = diagnose(posterior(draws, energy=energy))
    assert not found.gates["ebfmi"]
    assert found.ebfmi_min == pytest.approx(each[2], rel=0.01)


def test_chains_whose_width_changes_slowly_fail_the_tail_gate_alone():
    """Widths of 1 and 4 in blocks of fifty draws: the center mixes, the 5 % quantile does not."""
    rng = np.random.default_rng(0)
    width = np.where(np.repeat(rng.random((4, 30)) < 0.15, 50, axis=1), 4.0, 1.0)
    found = diagnose(posterior(rng.standard_normal((4, 1500, 2)) * width[..., None]))
    assert found.ess_bulk_min > 2000
    assert found.ess_tail_min < 900
    assert {name for name, passed in found.gates.items() if not passed} == {"ess_tail"}
