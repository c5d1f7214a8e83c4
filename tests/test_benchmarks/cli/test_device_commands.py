"""`--device` on the command line: refused early, cards hidden by default, reported."""

import json
import os

import pytest
import torch

from benchmarks.cli import environment
from benchmarks.cli import process as cli
from guides.optimize import settings
from guides.optimize.step import Step
from zoo.compiler import cuda


@pytest.fixture
def cards(monkeypatch):
    """Restore the environment and the command's record of it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(environment, "_found", {})


def test_a_card_that_is_not_there_is_a_usage_error_before_anything_runs(
    tmp_path, capsys, monkeypatch, cards
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in (
        ["fit", "coin", "--guide", "mean_field"],
        ["compare", "coin", "--out", str(tmp_path / "run")],
    ):
        assert cli.run([*words, "--device", "cuda"]) == 2
        assert "accepted here: cpu" in capsys.readouterr().err
        assert cli.run([*words, "--device", "gpu"]) == 2
        assert (
            "device 'gpu' (did you mean 'cpu'?); accepted: cpu, cuda. A graphics card is cuda."
            in capsys.readouterr().err
        )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli.run(["compare", "coin", "--device", "cuda", "--compile", "off"]) == 2
    assert "leave out --compile off" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("before", [None, "", "1"])
def test_cards_are_hidden_unless_they_are_asked_for(monkeypatch, cards, before):
    """With a card that torch sees, `zoo compare` could not use several processes."""
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    seen = []
    monkeypatch.setattr(
        torch.cuda,
        "is_available",
        lambda: seen.append(os.environ.get("CUDA_VISIBLE_DEVICES")) or False,
    )
    cli.run(["fit", "coin", "--guide", "mean_field", "--device", "cuda"])
    assert seen == [before]
    cli.run(["list"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.usefixtures("brief", "undrawn")
def test_a_run_on_a_card_stays_in_one_process_and_says_so_in_its_report(
    tmp_path, capsys, monkeypatch, cards
):
    """The CPU stands in for the card."""
    real, processes = Step._on_device, set()

    def pretended(self, _, mode, expected):
        processes.add(os.getpid())
        return real(self, torch.device("cpu"), mode, expected)

    for home in (cuda, settings):
        monkeypatch.setattr(home, "check_device", lambda name: None)
    monkeypatch.setattr(Step, "_on_device", pretended)
    words = [
        "compare",
        "coin",
        "--guides",
        "mean_field",
        "--no-nuts",
        "--quick",
        "--device",
        "cuda",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.run([*words, "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["compiled"] == {"used": True, "reason": "on cpu"}
    assert processes == {os.getpid()}
    page = (tmp_path / "run" / "report.md").read_text()
    assert "--device cuda" in page
    assert "yes, on cpu" in (tmp_path / "run" / "report.html").read_text()
