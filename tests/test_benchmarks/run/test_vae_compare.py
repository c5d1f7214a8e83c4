"""Comparing entries that learn: trained on all data, judged on an evaluation subset.

The truth is the exact posterior given the decoder.
"""

import dataclasses

import pytest
import torch

import guides
import zoo
from benchmarks import gap_report
from benchmarks.comparison.score import compare
from benchmarks.reference import find as references
from benchmarks.report.inputs import EntryReport
from benchmarks.report.panels.vae import figures, mosaic
from benchmarks.report.theme import style
from benchmarks.run.plan import Plan
from benchmarks.run.prepare import plan_cells, prepare
from benchmarks.studies.vae.render import render
from zoo.errors import FitError

OPTIONS = {"rows": 150, "hidden": 6, "layers": 1}
SHORT = {"steps": 40, "patience": 8, "anneal": 16, "compile": "off", "batch_size": 32}


@pytest.fixture(scope="module")
def trained():
    entry = zoo.load("vae", **OPTIONS)
    return entry, guides.fit(entry, "amortized", **SHORT)


def test_training_uses_all_data_and_comparison_the_chosen_images(trained):
    entry, fit = trained
    assert fit.data.size == 120
    assert fit.config.lr == entry.training["lr"]
    chosen = entry.judged(fit.data)
    moved = guides.transfer(fit, chosen)
    posterior = guides.draw(moved, 200)
    assert posterior.draws["z"].shape == (200, chosen.size, 2)
    truth = references.find(entry, chosen, given=fit)
    assert truth.kind == "exact"
    result = compare(posterior, truth, fit=moved, heldout=False, distances="none")
    assert {s.quantity for s in result.scores} == {"z"}
    assert len(result.scores) == 2 * chosen.size
    gap = truth.log_evidence - moved.elbo.value_nats
    assert gap > -5 * moved.elbo.se
    assert result.log_evidence["exact"] == truth.log_evidence


def test_the_program_gets_trained_and_its_history_is_kept(trained, tmp_path):
    entry, fit = trained
    fresh = entry.program(fit.data)
    assert not torch.equal(fresh.decoder[0].weight, fit.program.decoder[0].weight)
    assert fit.history["step"][-1] == 40
    reconstruction = fit.history["reconstruction_nats"]
    assert reconstruction[-1] < reconstruction[0]
    moved = guides.transfer(fit, entry.judged(fit.data))
    guides.save(moved, tmp_path / "guide.pt")
    again = guides.load(tmp_path / "guide.pt", entry, data=moved.data)
    assert torch.equal(again.guide.numbers(None), moved.guide.numbers(None))
    assert (again.history["kl_nats"] == fit.history["kl_nats"]).all()


def test_an_encoder_is_fitted_alike_to_trained_weights_from_memory_and_from_a_file(
    trained, tmp_path
):
    """A run stores the trained program with the twenty compared images.

    The scale of minibatches of all images must not be that of twenty.
    """
    entry, fit = trained
    moved = guides.transfer(fit, entry.judged(fit.data))
    guides.save(moved, tmp_path / "guide.pt")
    stored = guides.load(tmp_path / "guide.pt", entry, data=moved.data)
    short = {"steps": 4, "patience": 1, "anneal": 2, "compile": "off", "batch_size": 32}
    first, second = (guides.fit(entry, "amortized_full", given=g, **short) for g in (fit, stored))
    assert (first.losses == second.losses).all()
    assert float(second.losses[0]) > 0.5 * -float(fit.elbo.value_nats)
    assert second.program.rows == fit.data.size


@pytest.mark.slow
def test_given_weights_stay_as_they_are(trained):
    entry, fit = trained
    chosen = entry.judged(fit.data)
    before = [p.clone() for p in fit.program.parameters()]
    other = guides.fit(
        entry,
        "block_full_rank",
        data=chosen,
        given=fit,
        steps=40,
        patience=8,
        anneal=16,
        compile="off",
    )
    assert all(torch.equal(a, b) for a, b in zip(before, fit.program.parameters(), strict=True))
    # the settings of the training fit do not apply to twenty images
    assert other.config.num_particles == 64
    assert (
        other.elbo.value_nats
        < references.find(entry, chosen, given=fit).log_evidence + 5 * other.elbo.se
    )
    with pytest.raises(FitError, match="knows only its own units"):
        guides.transfer(other, chosen)


def test_a_plan_prepares_the_chosen_images_and_trains_first():
    plan = Plan(
        entries=("vae[rows=150,hidden=6,layers=1]",),
        guides=("amortized", "mean_field"),
        quick=True,
    )
    prepared = prepare(plan, plan.entries[0])
    assert prepared.training.size == 120
    assert prepared.data.size == 20
    cells = plan_cells(plan, [prepared])
    assert [c.method for c in cells] == ["amortized", "mean_field", "nuts"]
    assert [c.given.method if c.given else None for c in cells] == [None, "amortized", "amortized"]


@pytest.mark.slow
def test_the_gap_report_of_a_fit(trained):
    _, fit = trained
    report = gap_report(fit, rows=3)
    assert [d.part for d in report.data] == ["train"] * 3 + ["held out"] * 3
    assert report.faults == ()
    for d in report.data:
        assert d.kl_nats == pytest.approx(
            d.approximation_gap_nats + d.amortization_gap_nats, abs=2e-3
        )
        assert abs(d.refined_gap_nats) <= d.amortization_gap_nats + 1e-3
    assert report.images.shape == (6, 64)


@pytest.mark.slow
def test_the_pictures_are_drawn(trained):
    entry, fit = trained
    chosen = entry.judged(fit.data)
    moved = guides.transfer(fit, chosen)
    truth = references.find(entry, chosen, given=fit)
    result = compare(guides.draw(moved, 100), truth, fit=moved, heldout=False, distances="none")
    with style():
        made = figures(
            EntryReport(entry=entry, data=chosen, reference=truth, comparisons=[result])
        )
    assert len(made) == 6
    assert all(caption.endswith(".") for _, caption in made)
    assert (
        figures(
            EntryReport(
                entry=entry,
                data=chosen,
                reference=truth,
                comparisons=[dataclasses.replace(result, fit=None)],
            )
        )
        == []
    )


def test_a_mosaic_keeps_every_pixel():
    images = torch.arange(12.0).reshape(3, 4)
    sheet = mosaic(images, 2, gap=-1)
    assert sheet.shape == (5, 5)
    assert sheet[:2, 3:].tolist() == [[4, 5], [6, 7]]
    assert sheet[3:, :2].tolist() == [[8, 9], [10, 11]]


def test_the_results_page_shows_what_was_measured_and_nothing_else():
    assert "## " not in render({})
    page = render({"bars": {"iwae5000": {"mean_error": -0.031, "largest": 0.2, "images": 50}}})
    assert "-0.0310" in page
    assert "**missed**" in page
    assert "6 minutes" not in page
    run = {
        "steps_asked": 9,
        "grid_ok": True,
        "nll_train": 18.0,
        "nll_held_out": 19.0,
        "nll_held_out_se": 0.25,
        "minus_elbo_held_out": 20.5,
        "active_units": 1,
        "mutual_information_nats": 2.5,
        "aggregate_kl_nats": 0.1,
        "seconds": 60.0,
        "wall": 70.0,
    }
    one = render({"scores": {"plain": run}})
    assert "| plain | 18.00 | 19.00 | 20.50 | 1.50 | 1 | 2.50 | 0.10 | 60 |" in one
    other = {**run, "nll_held_out": 18.0, "minus_elbo_held_out": 19.0, "active_units": 2}
    page = render(
        {
            "scores": {"plain": run, "beta 4": run},
            "others": {"plain, seed 1": other, "beta 4, seed 1": run},
        }
    )
    assert (
        "| plain | 18.00 (18.00 to 18.00) | 18.50 (18.00 to 19.00) | 19.75 (19.00 to 20.50) | 1.25"
        " | 1, 2 |" in page
    )
    assert "2 seeds (weights and training), means (smallest to largest)" in page
