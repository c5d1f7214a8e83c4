"""Whether a density grows as a class scale shrinks onto a tied value, on stubs with known values.

The stub's sites are not transformed, so that the scales at which it is evaluated are seen.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from zoo.contract.density import _grows


def grows(value_at, tried=None):
    """Ask about a density that is a function of the log of one scale."""

    def evaluate(draws):
        assert float(draws["location"][1]) == 2.5
        log_scale = math.log(float(draws["scale"][1]))
        if tried is not None:
            tried.append(round(log_scale))
        return torch.tensor(value_at(log_scale), dtype=torch.float64)

    draws = {"scale": torch.ones(2, dtype=torch.float64), "location": torch.zeros(2)}
    density = SimpleNamespace(
        constrain=lambda point: draws, unconstrain=lambda d: d, evaluate=evaluate
    )
    subject = SimpleNamespace(density=density, points=[None])
    answer = _grows(subject, "scale", "location", (1,), 2.5)
    assert float(draws["location"][1]) == 0.0  # the point itself is left alone
    return answer


@pytest.mark.parametrize(
    ("value_at", "answer"),
    [
        (lambda s: -s, True),  # one tied value: -log scale
        (lambda s: 0.0, True),  # flat
        (lambda s: 0.01 * s, True),  # falls by half a nat over 50: not yet a fall
        (lambda s: 0.03 * s, False),  # by one and a half
        (lambda s: -math.exp(-2 * s), False),  # of a proper posterior
        (lambda s: -math.inf, False),
    ],
)
def test_a_density_grows_unless_it_falls_by_more_than_a_nat(value_at, answer):
    assert grows(value_at) is answer


def test_larger_scales_are_tried_only_where_both_values_are_known():
    """The first pair holds a NaN, at either end; the next one falls."""
    for lost in (-250, -300):
        tried = []
        assert not grows(lambda s, lost=lost: math.nan if round(s) == lost else s, tried)
        assert tried == [-250, -300, -70, -80]
    tried = []
    assert grows(lambda s: -s, tried)
    assert tried == [-250, -300]


def test_a_density_that_cannot_be_computed_at_any_scale_is_not_said_to_grow():
    tried = []
    assert not grows(lambda s: math.nan, tried)
    assert tried == [-250, -300, -70, -80, -30, -35]
