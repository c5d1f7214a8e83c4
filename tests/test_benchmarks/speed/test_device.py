"""Steps on two devices: the cases, the interleaving of slices, and the table of documents."""

import json
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.speed import device
from benchmarks.speed.device import CASES, Case, measure, page
from benchmarks.speed.sides import Timing
from benchmarks.speed.targets import find
from zoo.errors import UsageError


def test_a_table_has_one_column_per_device_and_the_ratio_of_times():
    text = page(
        [
            {"names": {"cpu": "thread"}, "rows": [{"case": "a", "cpu": 2e-3}]},
            {
                "names": {"cuda": "card"},
                "rows": [{"case": "a", "cuda": 5e-4}, {"case": "b", "cuda": 1.25e-6}],
            },
        ]
    )
    assert text == (
        "| one step | thread | card | ratio |\n"
        "|---|---|---|---|\n"
        "| a | 2,000 us | 500 us | 4.00 |\n"
        "| b |  | 1 us |  |\n"
    )


def test_the_cases_are_small_to_large(tmp_path):
    assert [(c.family, c.settings) for c in CASES] == [
        ("full_rank", {}),
        ("full_rank", {}),
        ("mean_field", {"num_particles": 4, "batch_size": 200_000}),
        ("amortized", {"num_particles": 1, "batch_size": 256}),
    ]
    assert [c.make(tmp_path).name for c in CASES[:3]] == [
        "eight_schools",
        "linear_20000",
        "growth_200000",
    ]


def test_the_images_of_the_autoencoder_are_a_fifth_ink(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "IMAGES", 50)
    target = CASES[3].make(tmp_path)
    values = np.load(tmp_path / "images.npy")
    assert values.shape == (50, 28, 28)
    assert values.dtype == np.uint8
    assert set(np.unique(values)) == {0, 255}
    # 39,200 pixels: the standard error is 0.002
    assert abs((values == 255).mean() - 0.2) < 0.01
    settings = target.entry.settings
    assert (settings["latent"], settings["hidden"], settings["layers"]) == (20, 400, 1)
    assert settings["threshold"] == 0.5
    assert (target.name, target.form) == ("vae", "vae")


class Fit:
    """A fit whose slices on a device take one, two, three ... milliseconds per step."""

    log: ClassVar[list] = []

    def __init__(self, target, data, family, settings, **more):
        self.more, self.calls = more, 0
        Fit.log.append(("made", target.name, family, settings.particles, settings.compile, more))

    def slice(self, seconds):
        Fit.log.append((self.more["device"], seconds))
        self.calls += 1
        return Timing(count=1, wall=1e-3 * self.calls, cpu=0.0)

    def close(self):
        Fit.log.append((self.more["device"], "closed"))


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(device, "PausedFit", Fit)
    monkeypatch.setattr(device, "check_device", lambda name: None)
    monkeypatch.setattr(Fit, "log", [])
    small = Case(
        title="t", family="mean_field", make=lambda _: find("eight_schools"), settings={"x": 3}
    )
    monkeypatch.setattr(device, "CASES", (small,))
    return small


def test_slices_alternate_after_a_first_that_compiles(quiet, capsys):
    """Slices of 2, 3, 4, 5 ms follow the first: median 3.5, quartiles 2.75 and 4.25."""
    (row,) = measure([quiet], seconds=0.5, pairs=4)
    made = [
        ("made", "eight_schools", "mean_field", 64, "on", {"device": d, "x": 3})
        for d in ("cpu", "cuda")
    ]
    assert Fit.log == [
        *made,
        ("cpu", 0.1),
        ("cuda", 0.1),
        *[("cpu", 0.5), ("cuda", 0.5)] * 4,
        ("cpu", "closed"),
        ("cuda", "closed"),
    ]
    assert row["case"] == "t"
    for name in ("cpu", "cuda"):
        assert row[name] == pytest.approx(3.5e-3)
        assert row[f"{name}_quartiles"] == pytest.approx([2.75e-3, 4.25e-3])
        assert 0 < row[f"{name}_first"] < 1
    assert "'case': 't'" in capsys.readouterr().err


def test_a_missing_card_is_refused_before_anything_runs(quiet, monkeypatch):
    def refuse(name):
        if name == "cuda":
            raise UsageError("There is no card; use the CPU.")

    monkeypatch.setattr(device, "check_device", refuse)
    with pytest.raises(UsageError, match="no card"):
        measure([quiet], seconds=0.5, pairs=1)
    assert Fit.log == []


def test_the_command_writes_a_document_and_prints_its_table(quiet, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(device, "machine", lambda: {"processor": "Model 7"})
    out = tmp_path / "a" / "b"
    words = ["device", "--devices", "cpu", "--seconds", "0.25", "--pairs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    device.main()
    table = "| one step | one thread of Model 7 | ratio |\n|---|---|---|\n| t | 2,000 us |  |\n"
    assert capsys.readouterr().out == table
    document = json.loads((out / "device.json").read_text())
    assert document["names"] == {"cpu": "one thread of Model 7"}
    assert document["machine"] == {"processor": "Model 7"}
    assert document["versions"] == {"torch": torch.__version__, "cuda": torch.version.cuda}
    assert document["rows"][0]["cpu"] == pytest.approx(2e-3)
    assert ("cpu", 0.25) in Fit.log
    monkeypatch.setattr(sys, "argv", ["device", "--table", str(out / "device.json")])
    device.main()
    assert capsys.readouterr().out == table
