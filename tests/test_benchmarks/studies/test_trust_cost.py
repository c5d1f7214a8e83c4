"""The cost of an assessment beside NUTS: what a row measures, and what the page counts."""

import math
from types import SimpleNamespace

import pytest

import zoo
from benchmarks.studies.trust import cost, render
from benchmarks.studies.trust.render_cost import cost_lines, cost_table


def row(**fields):
    return {
        "status": "ok",
        "entry": "coin",
        "family": "mean_field",
        "dimensions": 1,
        "gradient_seconds": 1e-6,
        "nuts_seconds": 1.0,
        "nuts_depth": 10_000.0,
        "nuts_ess": 1500.0,
        "drift_seconds": 1.0,
        "seconds": 4.0,
        "depth": 300,
        "gradients": 400_000,
        "verdict": "agrees",
        "smc": True,
    } | fields


def cells(lines, criterion):
    found = next(text for text in lines if criterion in text)
    return [c.strip() for c in found.strip("|").split("|")]


def test_nuts_is_counted_to_an_ess_of_a_thousand():
    """800 + 1,000 iterations with an ESS of 2,000: 1,300 of them; with one of 500: 2,800."""
    assert cost.to_ess(2000.0, 1000, tune=800) == pytest.approx(1300 / 1800)
    assert cost.to_ess(500.0, 1000, tune=800) == pytest.approx(2800 / 1800)
    assert cost.to_ess(1000.0, 2000, tune=800) == pytest.approx(1.0)
    assert math.isfinite(cost.to_ess(0.0, 1000))


def test_seconds_are_judged_against_both_limits():
    """2 s or 1x, 10 s or 5x: the larger counts, and a median is met where half of them meet it."""
    rows = {
        "a": row(),
        "b": row(drift_seconds=2.5, seconds=11.0),  # above both limits
        "c": row(nuts_seconds=4.0, drift_seconds=3.0, seconds=19.0, depth=1_000),  # below 1x, 5x
    }
    lines = cost_lines(rows)
    assert cells(lines, "seconds without SMC, medians, tiny")[2] == "2.5 s, 1.0x; 2 of 3 entries"
    assert cells(lines, "seconds without SMC, medians, tiny")[3] == "yes"
    assert cells(lines, "seconds with SMC")[2] == "11.0 s, 4.8x; 2 of 3 entries"
    assert cells(lines, "one after another")[1:] == ["<= 5 % of NUTS's", "3.0%", "yes"]
    slow = {k: row(drift_seconds=2.5, seconds=11.0, depth=600) for k in "ab"} | {"c": row()}
    lines = cost_lines(slow)
    assert cells(lines, "seconds without SMC")[3] == "**no**"
    assert cells(lines, "seconds with SMC")[3] == "**no**"
    assert cells(lines, "one after another")[2:] == ["6.0%", "**no**"]


def test_densities_that_are_bound_by_their_arithmetic_stand_apart():
    rows = {"a": row(), "b": row(gradient_seconds=5e-5, seconds=90.0), "c": {"status": "timeout"}}
    lines = cost_lines(rows)
    assert len(lines) == 6
    assert cells(lines, "seconds with SMC, medians, tiny")[2].startswith("4.0 s")
    assert cells(lines, "seconds with SMC, medians, compute")[2].startswith("90.0 s")
    assert cost_lines({}) == []


def test_the_table_has_a_line_per_entry():
    rows = {"a": row(), "b": row(entry="big", drift_seconds=None, gradient_seconds=2.5e-4)}
    table = cost_table(rows)
    assert cells(table, "| coin")[1:] == [
        "1",
        "1.0",
        "1.0",
        "1.0",
        "4.0",
        "10,000, 300",
        "`agrees`",
    ]
    assert cells(table, "| big")[2:5] == ["250.0", "1.0", "not run"]
    assert cost_table({}) == []
    page = render.page({"cost": {**rows, "c": {"status": "timeout", "why": "stopped"}}})
    assert "## Cost beside NUTS" in page
    assert "| timeout: stopped | 1 |" in page


def test_every_entry_is_planned_and_some_are_left_out_with_a_reason():
    names = [name for name, _ in cost.cost_rows(quick=False)]
    assert sorted(names) == sorted(zoo.names())
    assert names != list(zoo.names())
    assert names == [name for name, _ in cost.cost_rows(quick=False)]
    assert cost.cost_row("vae")["why"] == "a program that is trained"


def test_once_the_time_of_nuts_is_asked_without_smc():
    """6 s where NUTS takes 4: above 1x and 2 s."""
    lines = cost_lines({"a": row(nuts_seconds=4.0, drift_seconds=6.0)})
    assert cells(lines, "seconds without SMC")[2:] == ["6.0 s, 1.5x; 0 of 1 entries", "**no**"]


def test_depths_are_those_of_one_chain_and_without_climbs(monkeypatch):
    nuts = SimpleNamespace(sample_shape=(4, 1000), cost=SimpleNamespace(gradient_evaluations=8000))
    found = SimpleNamespace(
        climbs=SimpleNamespace(gradients=70),
        depth=370,
        gradients=9,
        verdict="agrees",
        checks=(SimpleNamespace(name="smc", passed=None),),
    )
    monkeypatch.setattr(cost, "run_nuts", lambda *_, **__: nuts)
    monkeypatch.setattr(cost, "smallest_ess", lambda _: 2000.0)
    monkeypatch.setattr(cost, "assess", lambda fit, *, seed, progress: progress("a: b") or found)
    monkeypatch.setattr(cost, "POINTS", 0)
    made = cost.cost_row("coin")
    assert made["depth"] == 300
    assert made["nuts_depth"] == pytest.approx(2000 * cost.to_ess(2000.0, 1000))
    assert (made["drift_seconds"], made["smc"], made["nuts_ess"]) == (None, None, 2000.0)


def test_a_row_measures_both_sides(monkeypatch):
    monkeypatch.setattr(cost, "DRAWS", 100)
    monkeypatch.setattr(cost, "POINTS", 0)
    monkeypatch.setattr(cost, "ESS", 50.0)
    found = cost.cost_row("coin")
    assert found["status"] == "ok"
    assert found["verdict"] == "agrees"
    assert 0 < found["drift_seconds"] < found["seconds"]
    assert found["nuts_seconds"] > 0
    assert found["gradient_seconds"] > 0
    # a gradient or more for each of 800 iterations; climbs are not part of the other
    assert found["nuts_depth"] > 400
    assert 16 < found["depth"] < 2_000
