"""The normalization of log q: an integral of 1.01 or 0.999 fails, one of 1 passes."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.audit.guide_checks import log_q_normalized
from zoo.contract.subject import Failed

SCALES = torch.tensor([0.3, 5.0], dtype=torch.float64)


def subject(integral):
    """Return what the check reads of a normal guide whose density is off by a constant."""
    normal = torch.distributions.Normal(torch.tensor([1.0, -2.0]).double(), SCALES)
    noise = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def log_q(u):
        return normal.log_prob(u).sum(-1) + math.log(integral)

    u = normal.loc + SCALES * noise
    return SimpleNamespace(flat=True, log_q=log_q, own=SimpleNamespace(u=u, log_q=log_q(u)))


def test_a_density_passes():
    assert "integrates to 1 within" in log_q_normalized(subject(1.0))


@pytest.mark.parametrize("integral", [1.01, 0.99, 1.001])
def test_an_integral_other_than_one_fails(integral):
    with pytest.raises(Failed, match=f"q integrates to {integral:.5g}, not 1"):
        log_q_normalized(subject(integral))
