"""Chains given as the truth are gated; a closed form comes before any chains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import planting

import zoo
from benchmarks.reference.coerce import as_reference
from benchmarks.reference.find import find


def chains(**stats):
    x = np.random.default_rng(0).standard_normal((4, 1000, 2))
    return replace(planting.chains(x), stats={k: torch.as_tensor(v) for k, v in stats.items()})


def test_healthy_chains_are_a_usable_truth():
    found = as_reference(
        chains(
            energy=np.random.default_rng(1).standard_normal((4, 1000)),
            diverging=np.zeros((4, 1000), dtype=bool),
        )
    )
    assert found.usable
    assert found.reason == ""
    assert found.ess_min > 3000


def test_one_divergence_makes_chains_unusable():
    diverging = np.zeros((4, 1000), dtype=bool)
    diverging[3, 7] = True
    found = as_reference(chains(diverging=diverging))
    assert not found.usable
    assert "have 1 divergences" in found.reason


def test_a_chain_whose_energy_wanders_makes_them_unusable():
    energy = np.random.default_rng(2).standard_normal((4, 1000))
    energy[1] = energy[1].cumsum()
    found = as_reference(chains(energy=energy))
    assert not found.usable
    assert "E-BFMI 0.0" in found.reason


@pytest.mark.parametrize("given", [False, True])
def test_the_closed_form_is_the_truth_whatever_chains_are_at_hand(given):
    found = find(zoo.load("coin"), nuts=chains() if given else None)
    assert found.kind == "analytic"
    assert found.posterior.method == "analytic"
    assert found.log_evidence == pytest.approx(-np.log(981))
