"""Tables of `lora_head` from stored rows, failures included."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.run.progress import Events
from benchmarks.studies import Work
from benchmarks.studies.lora_head import cost, lab
from benchmarks.studies.lora_head.study import MODEL_PAGE, STUDY

TRUTH = {
    "form": "core",
    "rank": 1,
    "log_evidence": -151.780813,
    "error": 1e-9,
    "distance": 0.0012,
    "floor": 0.0019,
    "gaps": {
        "laplace": [0.002, 0.001],
        "mean_field": None,
        "full_rank": [0.1, 0.01],
        "flow": [0.0, 0.0],
    },
}
SCALE = [
    {"form": "rank", "scales": [0.25, 1.0], "seed": s, "nats": [-67.5, v]}
    for s, v in ((100, -70.0), (101, None))
]
PEER = [
    {
        "method": "nuts",
        "accuracy": 0.76,
        "log_loss": 0.658,
        "ece": 0.084,
        "distance": None,
        "floor": 0.006,
    },
    {
        "method": "laplace",
        "accuracy": 0.769,
        "log_loss": 0.735,
        "ece": 0.164,
        "distance": 0.088,
        "floor": None,
    },
]


def test_every_table_says_what_was_measured():
    made = STUDY.render({"truth": [TRUTH], "scale": SCALE, "peer": PEER})
    gaps = "0.002 ± 0.001, –, 0.100 ± 0.010, 0.000 ± 0.000"
    assert f"| core, rank 1 | -151.780813 ± 1e-09 | 0.0012 (0.0019) | {gaps} |" in made.text
    assert "| data seed 101 | -67.5 | – |" in made.text
    assert "| mean | -67.5 | – |" in made.text
    assert "What a step costs" not in made.text
    table = made.parts[MODEL_PAGE]["laplace-torch"]
    assert "| nuts | 0.760 | 0.658 | 0.084 | floor 0.006 |" in table
    assert "| laplace | 0.769 | 0.735 | 0.164 | 0.088 |" in table


def test_tables_are_published_beside_the_bars_and_read_again(tmp_path):
    rows = {"truth": [TRUTH], "scale": SCALE}
    for name, content in STUDY.render(rows).files.items():
        (tmp_path / name).write_text(content)
    assert STUDY.read(tmp_path) == rows


def test_the_cost_of_a_step_is_that_of_its_loss(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    milliseconds, megabytes, numbers = cost.step_cost(
        lambda: (weight * weight).sum(), [weight], steps=1
    )
    assert 0 < milliseconds < 10_000
    assert megabytes == 24 / 1e6
    assert numbers == 3
    before = torch.random.get_rng_state()
    rows = cost.measure(Work(quick=True, jobs=1, out=tmp_path, progress=Events()))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [r["numbers"] for r in rows] == [20_480, 40_960, 40_960]
    assert "| one step of SVI, mean field, 4 draws |" in STUDY.render({"cost": rows}).text


def test_the_ratio_of_widths_is_that_of_the_method_to_the_chains(monkeypatch):
    """Twice as wide is 2; the mean over probe images is taken of logs."""
    p = np.full((6, 3), 1 / 3)
    widths = {"nuts": np.array([1.0, 1.0]), "wide": np.array([1.0, 4.0]), "half": np.full(2, 0.5)}
    made = SimpleNamespace(probabilities={}, labels=torch.tensor([0, 1, 2, 0, 1, 2]))
    monkeypatch.setattr(lab, "predictive", lambda made, posterior: {"test": p})
    monkeypatch.setattr(lab, "halves", lambda made, nuts: ({"test": p}, {"test": p}))
    monkeypatch.setattr(lab, "certify", lambda nuts, made: {})
    monkeypatch.setattr(lab, "log_odds_sd", lambda posterior: widths[posterior])
    rows = lab.scored(made, {n: n for n in widths}, dict.fromkeys(widths, "ok"), {})
    found = {row["method"]: row["sd_ratio"] for row in rows}
    assert found == pytest.approx({"nuts": 1.0, "wide": 2.0, "half": 0.5})
