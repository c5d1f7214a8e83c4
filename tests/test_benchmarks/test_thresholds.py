"""The numbers of a verdict are those of the page that explains them, and follow from it."""

import math
from pathlib import Path

import pytest
from scipy.stats import norm

from benchmarks import thresholds as lines

PAGE = (Path(__file__).parents[2] / "docs" / "reading_a_report.md").read_text(encoding="utf-8")
Z90, Z50 = norm.isf(0.05), norm.isf(0.25)


def test_the_page_names_every_line():
    for said in (
        f"a mean is off by more than {lines.MEAN:g} reference sd",
        f"an sd is too small by more than a factor {math.exp(lines.LOG_SD):g}",
        f"an sd is too large by more than a factor {math.exp(lines.LOG_SD):g}",
        f"max({lines.MEAN:g}, z se)",
        f"max(log {math.exp(lines.LOG_SD):g}, z se)",
        f"3 se <= {lines.AGREE:g} for every mean and every log sd",
        f"within ±{lines.CORRELATION:g} |",
        f"min(1 − 1/log10 S, {lines.PARETO_K:g})",
        f"| {lines.IMPORTANCE_ESS} or more |",
        f"| R-hat, worst component | at most {lines.RHAT:g} |",
    ):
        assert said in PAGE, said


def test_a_mean_at_its_line_leaves_a_90_percent_interval_nearly_whole():
    held = norm.cdf(Z90 - lines.MEAN) - norm.cdf(-Z90 - lines.MEAN)
    assert held == pytest.approx(0.896, abs=5e-4)


def test_a_width_at_its_line_costs_the_coverage_of_its_line():
    ratio = math.exp(-lines.LOG_SD)
    assert 1 - 2 * norm.sf(Z90 * ratio) == pytest.approx(0.847, abs=5e-4)
    assert pytest.approx(0.9 - 0.847, abs=0.004) == lines.COVERAGE90
    moved = [abs(1 - 2 * norm.sf(Z50 * r) - 0.5) for r in (ratio, 1 / ratio)]
    assert max(moved) == pytest.approx(0.062, abs=5e-4)
    assert max(moved) < lines.COVERAGE50 == 0.07  # a width within its line is no wrong shape


def test_another_mode_counts_where_it_moves_a_mean_by_its_line():
    mass = math.exp(-lines.OTHER_MODE)
    assert 3 * mass == pytest.approx(lines.MEAN)


def test_to_agree_three_errors_lie_within_the_line():
    assert lines.AGREE == lines.MEAN == 0.15
    assert lines.multiplier(1) == pytest.approx(lines.SIGMAS) == 3.0
    assert [round(lines.multiplier(n), 1) for n in (10, 100)] == [3.6, 4.2]
    assert norm.sf(lines.multiplier(50)) == pytest.approx(norm.sf(3.0) / 50)
    assert lines.multiplier(0) == pytest.approx(3.0)
