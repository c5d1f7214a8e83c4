"""The contract's checks pass on sound families and fail on planted faults."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides.draws
from guides.contract import checks


def outcomes(entry, family):
    return {check.name.split(".")[-1]: check.run() for check in checks(entry, family)}


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank", "laplace", "amortized"])
def test_sound_families_pass(tiny, family):
    results = outcomes(tiny.intercepts()[0], family)
    assert len(results) == 6
    assert all(result.status != "failed" for result in results.values()), results


def test_a_wrong_log_weight_is_caught(tiny, monkeypatch):
    sound = guides.draws.weighted_draws

    def shifted(*args):
        u, log_p, log_q = sound(*args)
        return u, log_p, log_q + 0.01

    monkeypatch.setattr(guides.draws, "weighted_draws", shifted)
    assert outcomes(tiny.intercepts()[0], "full_rank")["log_weights_exact"].status == "failed"


def test_an_untrained_value_is_caught(tiny):
    class Detached(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
            self.width = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, loc, index=None):
            pyro.sample("x", dist.Normal(self.loc, self.width.detach().exp()).expand([2]).to_event(1))

    entry, _ = tiny.gaussian()
    entry = tiny.entry("own", entry.load_data, entry.program(None), own_guides={"mine": lambda program, data, entry: Detached()})
    result = outcomes(entry, "mine")["gradients_reach_parameters"]
    assert result.status == "failed"
    assert "width" in result.sentence
