"""Draw parity: equal posteriors pass, planted differences do not."""

import csv
import dataclasses
import os

import numpy as np
import pytest
import torch

import zoo
from benchmarks.reference.find import find
from benchmarks.studies import pages
from benchmarks.studies.draw_parity import measure as draw_parity
from benchmarks.studies.draw_parity import render
from zoo.errors import UsageError
from zoo.types import Cost, Posterior

ENTRY = zoo.load("correlated_gaussian", d=3)
DATA = ENTRY.load_data()
SITE = next(iter(ENTRY.exact(DATA).sample(1, 0)))


def chains(seed, number=4, draws=1000, change=lambda x: x):
    """Independent exact draws in the form of chains, as from a sampler without error."""
    exact = ENTRY.exact(DATA).sample(number * draws, seed)
    sites = {name: change(v.reshape(number, draws, *v.shape[1:])) for name, v in exact.items()}
    cost = Cost(seconds=2.0, gradient_evaluations=100)
    return Posterior(
        entry=ENTRY,
        data=DATA,
        method="nuts",
        draws=sites,
        sample_dims=("chain", "draw"),
        cost=cost,
    )


THEIRS = chains(1, number=10)


def test_equal_posteriors_pass_for_nearly_every_seed():
    rows = [draw_parity.parity(chains(seed), THEIRS) for seed in range(2, 22)]
    # six comparisons at 4 standard errors: a false alarm in one of 2,600
    assert sum(r["passed"] for r in rows) >= 19
    assert all(
        r["components"] == 3 and r["ess_per_second"] == r["ess_bulk_min"] / 2.0 for r in rows
    )


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda x: x + 0.15 * x.std(), "mean_gap"),
        (lambda x: x.mean() + 1.1 * (x - x.mean()), "sd_gap"),
        (lambda x: torch.cat([x[:2], x[2:] + 1.0 * x.std()]), "rhat_pooled"),
    ],
)
def test_a_planted_difference_is_caught(change, column):
    row = draw_parity.parity(chains(2, change=change), THEIRS)
    assert not row["passed"]
    assert row[column] > {"mean_gap": 4.0, "sd_gap": 4.0, "rhat_pooled": 1.01}[column]


def test_a_component_that_never_moves_cannot_pass():
    stuck = chains(2, change=lambda x: torch.full_like(x, 0.0))
    row = draw_parity.parity(stuck, chains(3, change=lambda x: torch.full_like(x, 0.0)))
    assert not row["passed"]


def test_sides_are_checked():
    guide = dataclasses.replace(
        chains(2),
        method="mean_field",
        draws=ENTRY.exact(DATA).sample(10, 0),
        sample_dims=("sample",),
    )
    with pytest.raises(UsageError, match="without chains"):
        draw_parity.parity(guide, THEIRS)
    coin = zoo.load("coin")
    with pytest.raises(UsageError, match="one entry"):
        draw_parity.parity(dataclasses.replace(THEIRS, entry=coin), THEIRS)


def test_the_page_names_what_misses(tmp_path):
    rows = [
        draw_parity.parity(chains(2), THEIRS),
        draw_parity.parity(chains(2, change=lambda x: x + 1.0), THEIRS),
    ]
    rows = [
        {**rows[0], "entry": "posteriordb/good"},
        {**rows[1], "entry": "posteriordb/bad", "notes": ["A note."]},
    ]
    text = render.markdown(rows, "A title", ["A remark."])
    assert text.startswith("# A title\n\nA remark.\n")
    assert "1 of 2 pass" in text
    assert "| `bad` | **misses** |" in text
    assert "| `good` | passes |" in text
    assert "* `bad`: A note." in text
    (tmp_path / "draw_parity.csv").write_text(render.table(rows))
    with (tmp_path / "draw_parity.csv").open() as file:
        assert [r["passed"] for r in csv.DictReader(file)] == ["True", "False"]
    assert render.markdown(render.read(tmp_path), "A title", ["A remark."]) == text


def test_the_largest_of_many_gaps_is_that_of_simulation():
    rng = np.random.default_rng(0)
    largest = np.abs(rng.standard_normal((4000, 300))).max(1)
    median, chance = render.expected_largest(300)
    assert median == pytest.approx(np.median(largest), abs=0.03)
    assert chance == pytest.approx(300 * 6.334e-5, rel=0.02)


def test_what_a_person_wrote_outlives_the_table(tmp_path):
    rows = [{**draw_parity.parity(chains(2), THEIRS), "entry": "posteriordb/good"}]
    page = tmp_path / "table.md"
    page.write_text(pages.keep_notes(render.markdown(rows, "A title"), page))
    assert pages.part(page.read_text(), "notes") == ""
    page.write_text(pages.with_part(page.read_text(), "notes", "It was the funnel.\n"))
    text = pages.keep_notes(render.markdown(rows, "Another title"), page)
    assert text.startswith("# Another title")
    assert text.count("It was the funnel.") == 1


def test_a_part_of_a_page_is_replaced_and_the_rest_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- families -->\nold\n<!-- /families -->\n\nThe end.\n")
    pages.replace_part(page, "families", "| new |")
    assert (
        page.read_text()
        == "# Title\n\n<!-- families -->\n| new |\n<!-- /families -->\n\nThe end.\n"
    )
    with pytest.raises(UsageError, match="has no part 'other'"):
        pages.replace_part(page, "other", "")
    page.write_text("<!-- notes -->\nnever closed\n")
    with pytest.raises(UsageError, match="does not close it"):
        pages.keep_notes("# New\n", page)


@pytest.mark.parametrize("off", [1.0, 0.0])
def test_divergences_run_again_with_smaller_steps(tmp_path, monkeypatch, off):
    """Whether or not gaps fail: chains with divergences underestimate their errors.

    They have not reached every region.
    """
    asked = []

    def sampler(entry, *, target_accept, **settings):
        asked.append(target_accept)
        careful = target_accept > 0.9
        drawn = chains(2, change=lambda x: x if careful else x + off)
        health = {name: torch.zeros(4, 1000, dtype=torch.float64) for name in ("energy", "lp")}
        return dataclasses.replace(
            drawn, stats={**health, "diverging": torch.full((4, 1000), not careful)}
        )

    monkeypatch.setattr("benchmarks.studies.draw_parity.measure.run_nuts", sampler)
    rows = draw_parity.run([ENTRY], tmp_path)
    assert asked == [0.8, 0.99]
    assert [r["passed"] for r in rows] == [off == 0, True]
    page = render.markdown(rows, "A title")
    assert f"{int(off == 0)} of 1 pass" in page
    assert "at target acceptance 0.99: 1 of 1 pass." in page
    assert f"| `{ENTRY.key}` at 0.99 | passes |" in page
    draw_parity.run([ENTRY], tmp_path)
    assert len(asked) == 2  # resumed from the files


def test_entries_without_reference_draws_are_refused(tmp_path):
    with pytest.raises(UsageError, match="has no reference draws"):
        draw_parity.run([dataclasses.replace(ENTRY, analytic=None, reference="none")], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("POSTERIORDB"), reason="POSTERIORDB names no copy of posteriordb"
)
@pytest.mark.parametrize(
    "name",
    [
        "kidiq-kidscore_momiq",
        "arK-arK",
        "hmm_example-hmm_example",
        "low_dim_gauss_mix-low_dim_gauss_mix",
    ],
)
def test_our_nuts_has_the_draws_of_posteriordb(name, tmp_path):
    (row,) = draw_parity.run([zoo.load(f"posteriordb/{name}")], tmp_path)
    assert row["passed"], row
    assert np.isfinite(row["ess_per_second"])


def test_the_reference_agrees_with_itself_in_halves():
    truth = find(ENTRY, DATA).posterior
    halves = [
        dataclasses.replace(truth, draws={k: v[part] for k, v in truth.draws.items()})
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert draw_parity.parity(*halves)["passed"]
