"""The table of class probabilities: its rows, its distances, and both reports show it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import report_factory

from benchmarks.comparison.baselines import predictive, table
from benchmarks.metrics import calibration
from benchmarks.metrics.calibration import total_variation
from benchmarks.report import ReportInput, render_html, render_markdown
from benchmarks.report.predictions import cells, heads
from benchmarks.studies.lora_head.lab import bin_sums
from benchmarks.studies.lora_head.render import bars, best_guide, page, pooled_ece, spearman
from zoo.types import Baselines

FACTORY = vars(report_factory)
ROWS = 60


def made(data=None, seed=0, **options):
    """Logits of three classes are linear in a site `z`; one point estimate."""
    generator = torch.Generator().manual_seed(0)
    weight = {
        n: torch.randn(ROWS, 3, 5, dtype=torch.float64, generator=generator)
        for n in ("test", "elsewhere")
    }
    label = torch.randint(3, (ROWS,), generator=generator)

    def predict(draws):
        return {
            n: torch.einsum("rck,sk->src", w, draws["z"]).softmax(-1) for n, w in weight.items()
        }

    one = {n: p[0] for n, p in predict({"z": torch.ones(1, 5, dtype=torch.float64)}).items()}
    images = torch.rand(ROWS, 8, 8, generator=generator, dtype=torch.float64)
    return Baselines(
        labels=label,
        classes=("a", "b", "c<i>"),
        probabilities={"point": one},
        predict=predict,
        about={"point": "chosen by hand"},
        images=images,
    )


@pytest.fixture(scope="module")
def report():
    torch.set_num_threads(1)
    found = FACTORY["gaussian"](np.random.default_rng(7))
    return replace(found, entry=replace(found.entry, baselines=made))


@pytest.fixture(scope="module")
def filled(report):
    rows = {c.posterior.method: c for c in report.comparisons}
    return replace(report, predictions=table(report.entry, report.data, rows, report.reference))


def test_a_posterior_predicts_by_the_mean_of_its_probabilities(report):
    posterior = next(c.posterior for c in report.comparisons if c.posterior.method == "full_rank")
    by_hand = made().predict(posterior.draws)["test"].mean(0).numpy()
    assert np.allclose(predictive(made(), posterior)["test"], by_hand)


def test_rows_are_baselines_then_posteriors_with_distances_to_nuts(report, filled):
    found = filled.predictions
    methods = [r.method for r in found.rows]
    assert methods[0] == "point"
    assert [r.posterior for r in found.rows] == [False] + [True] * (len(methods) - 1)
    assert found.truth == "nuts"
    by_name = {r.method: r for r in found.rows}
    nuts = next(c.posterior for c in report.comparisons if c.posterior.method == "nuts")
    exact = predictive(made(), nuts)["test"]
    point = made().probabilities["point"]["test"].numpy()
    assert by_name["point"].distance == pytest.approx(total_variation(point, exact))
    assert by_name["nuts"].distance is None
    assert by_name["full_rank"].distance < 4 * found.floor  # the same normal, other draws
    assert by_name["mean_field"].distance > 10 * found.floor  # its spread is far too small
    assert by_name["point"].distance > by_name["mean_field"].distance
    assert set(by_name["point"].outside) == {"elsewhere"}


def test_without_nuts_the_reference_is_the_truth(report):
    rows = {c.posterior.method: c for c in report.comparisons if c.posterior.method != "nuts"}
    found = table(report.entry, report.data, rows, report.reference)
    assert found.truth == "the analytic reference"
    assert all(r.distance is not None for r in found.rows)


def test_both_reports_show_the_table(filled):
    run = ReportInput(entries=[filled])
    page, text = render_html(run), render_markdown(run)
    assert "Predictions of posteriors and other methods" in page
    assert page.index('title="chosen by hand"') > 0
    assert "Reliability: posteriors" in page
    assert "Where the methods differ most from the truth" in page
    assert "<i>" not in page.replace("<i class", "")
    assert "| *point* |" in text
    assert "total variation" in text
    assert "AUROC, elsewhere" in text


def test_every_number_of_the_table_stands_under_its_head(filled):
    """The distance to the truth comes first: a narrow page must not hide it."""
    found, names = filled.predictions, [name or key for key, name in heads(filled.predictions)]
    assert names == [
        "total_variation",
        "accuracy",
        "log_loss",
        "ece",
        "adaptive_ece",
        "brier",
        "AUROC, elsewhere",
    ]
    row = next(r for r in found.rows if r.method == "mean_field")
    shown = dict(zip(names, cells(found, row), strict=True))
    assert float(shown["total_variation"]) == pytest.approx(row.distance, rel=0.05)
    assert float(shown["accuracy"].split(" %")[0]) == pytest.approx(
        100 * row.metrics["accuracy"].value, abs=0.06
    )
    assert float(shown["brier"].split(" ")[0]) == pytest.approx(
        row.metrics["brier"].value, abs=1e-3
    )
    assert float(shown["AUROC, elsewhere"]) == pytest.approx(row.outside["elsewhere"], abs=6e-3)


def test_a_hook_that_fails_costs_one_sentence(report):
    def broken(data, seed, **options):
        raise ValueError("no <labels>")

    entry = replace(report.entry, baselines=broken)
    found = table(entry, report.data, {}, report.reference)
    run = ReportInput(entries=[replace(report, entry=entry, predictions=found)])
    assert "no &lt;labels&gt;" in render_html(run)
    assert "ValueError" in render_markdown(run)
    assert table(replace(entry, baselines=None), report.data, {}, report.reference) is None


# -- the bars of the laboratory ----------------------------------------------------------------


def lab_rows(seeds=10):
    """Rows in which the flow is close to NUTS and well calibrated.

    Distance and ECE rank the methods alike.
    """
    random, rows = np.random.default_rng(1), []
    same = {
        "case": "rotation",
        "bins": "14:350:340:300",
        "ece_floor": 0.03,
        "accuracy": 0.8,
        "adaptive_ece": 0.1,
        "brier": 0.3,
        "floor": 0.005,
    }
    for seed in range(seeds):
        for k, method in enumerate(("flow", "full_rank", "temperature scaling", "laplace", "mle")):
            noise = random.uniform(0.9, 1.1)
            rows.append(
                {
                    **same,
                    "seed": seed,
                    "method": method,
                    "log_loss": (0.5 + 0.1 * k) * noise,
                    "ece": 0.02 + 0.03 * k,
                }
            )
            rows[-1]["distance"] = 0.01 + 0.02 * k
        rows.append(
            {**same, "seed": seed, "method": "nuts", "log_loss": 0.5, "ece": 0.03, "distance": ""}
        )
        rows[-1] |= {"rhat_share": 1.0, "ess_share": 0.97}
    return rows


def test_bars_are_met_or_missed_by_the_rows():
    found = {bar: met for bar, _, met in bars(lab_rows())}
    assert found["rank one: best guide within 0.02 mean total variation of NUTS"] is True
    assert found["rank one: NUTS certified on 99 % of test images"] is False
    assert found["rank one: log loss 30 % below mle at 64 labels, 10 data seeds"] is True
    assert found["rank one: ECE 60 % below mle at 64 labels, 10 data seeds"] is True
    worse = [{**r, "log_loss": 2.0} if r["method"] == "flow" else r for r in lab_rows()]
    assert {bar: met for bar, _, met in bars(worse)}[
        "rank one: log loss 30 % below mle at 64 labels, 10 data seeds"
    ] is False
    assert "**missed**" in page(worse)
    # the closest ran once: the next one is judged
    rare = [r for r in lab_rows() if r["method"] != "flow" or r["seed"] == 0]
    texts = {bar: text for bar, text, _ in bars(rare)}
    assert texts["rank one: best guide within 0.02 mean total variation of NUTS"].startswith(
        "flow 0.010"
    )
    assert texts["rank one: log loss 30 % below mle at 64 labels, 10 data seeds"].startswith(
        "full_rank"
    )
    assert bars([]) == []
    timed = [{**r, "seconds": 10.0} for r in lab_rows()]
    # a single case is a quick run
    quick = {bar: (text, met) for bar, text, met in bars(timed)}["quick tier within 3 minutes"]
    assert quick == (
        (
            f"{len(timed) / 6:.1f} minutes of chains and fits, one after the other (compiling,"
            " baselines and scores apart)"
        ),
        False,
    )
    assert {bar: met for bar, _, met in bars([*timed[:6], {**timed[0], "case": "inversion"}])}[
        "full tier within 15 minutes"
    ] is True
    few = {bar: met for bar, _, met in bars(lab_rows(2))}
    assert few["rank one: log loss 30 % below mle at 64 labels, 10 data seeds"] is None
    assert (
        few["rank correlation of ECE and distance to NUTS over methods, with its interval"] is None
    )


def test_the_rank_correlation_is_that_of_each_case():
    value, low, high, cases = spearman(lab_rows())
    assert (value, low, high, cases) == (
        pytest.approx(1.0),
        pytest.approx(1.0),
        pytest.approx(1.0),
        10,
    )
    turned = [{**r, "ece": -float(r["ece"])} if r["seed"] < 5 else r for r in lab_rows()]
    value, low, high, _ = spearman(turned)
    assert value == pytest.approx(0.0)
    assert low < 0 < high
    torn = [
        {**r, "rhat_share": 0.5, "rhat_max": 1.8} if r["method"] == "nuts" and r["seed"] < 5 else r
        for r in turned
    ]
    assert spearman(torn)[0::3] == (pytest.approx(1.0), 5)  # chains that disagree are no truth
    torn = [
        (
            {**r, "rhat_share": 0.5, "rhat_max": 1.8}
            if r["method"] == "nuts" and r["seed"] == 2
            else r
        )
        for r in lab_rows()
    ]
    assert "disagree** (R-hat at most 1.01 on 50 % of the test images, up to 1.80)" in page(torn)
    assert "disagree" not in page(lab_rows())


def test_pooled_calibration_error_is_that_of_all_predictions_and_its_floor_is_chance():
    random = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        p = random.dirichlet(np.full(4, 0.5), size=200)
        parts.append((p, np.array([random.choice(4, p=row) for row in p])))
    rows = [{"bins": bin_sums(p, y)} for p, y in parts]
    p, y = np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])
    assert pooled_ece(rows) == pytest.approx(calibration.ece(p, y), abs=1e-6)
    assert pooled_ece(rows[:1]) == pytest.approx(calibration.ece(*parts[0]), abs=1e-6)
    floors = [calibration.ece_floor(p) for p, _ in parts]
    assert 0.02 < np.mean(floors) < 0.12
    assert abs(np.mean([calibration.ece(*part) for part in parts]) - np.mean(floors)) < 0.04
    sure = np.eye(4)[[0, 1, 2, 3]]
    assert calibration.ece_floor(sure) == 0.0


def test_the_guide_judged_by_its_predictions_ran_on_enough_data_seeds():
    """The family closest to the chains may have run once: one data seed is not enough."""
    rows = [
        {"method": "flow", "seed": "0", "distance": "0.008"},
        {"method": "full_rank", "seed": "0", "distance": "0.013"},
    ]
    rows += [{"method": "full_rank", "seed": str(k), "distance": ""} for k in range(1, 10)]
    rows += [
        {"method": "laplace", "seed": str(k), "distance": "0.09" if k == 0 else ""}
        for k in range(10)
    ]
    assert best_guide(rows) == ("flow", 0.008)
    assert best_guide(rows, 10) == ("full_rank", 0.013)
    assert best_guide(rows, 11) == ("flow", 0.008)
