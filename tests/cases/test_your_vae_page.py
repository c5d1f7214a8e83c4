"""The code of docs/your_vae.md runs as it is printed, on fewer rows and with fewer steps."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "your_vae.md"
SMALLER = {
    "pixels[:1437], pixels[1437:]": "pixels[:140], pixels[140:180]",
    "judged=10": "judged=1",
    "minibatch=128": "minibatch=64, training=SHORT",
    "rows=32": "rows=2",
}
SHORT = {"steps": 200, "patience": 20, "anneal": 60}


@pytest.mark.slow
def test_the_page_runs_as_printed(tmp_path, monkeypatch):
    text = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    for long, short in SMALLER.items():
        assert long in text
        text = text.replace(long, short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    seen = {"SHORT": SHORT}
    exec(compile(text, "page", "exec"), seen)
    assert set(seen["card"].verdicts) == {"own", "amortized", "mean_field", "nuts"}
    assert seen["card"].comparisons["own"].reference.kind == "exact"
    assert "own trained the weights" in str(seen["card"])
    assert seen["report"].faults == ()
    for row in seen["report"].data:
        assert row.log_evidence_nats > row.elbo_nats
    assert (tmp_path / "gaps.png").exists()
    # the networks of the page were not trained in place: they are scored as they are
    encoder, trained = seen["encoder"], seen["fit"].networks["encoder"]
    assert not torch.equal(encoder[0].weight.double(), trained[0].weight)
    assert seen["scored"].comparisons["own"].fit.cost.steps == 0
