"""The contract's checks pass on sound families and fail on planted faults."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides.draws
import zoo
from guides.contract import checks
from zoo.errors import FitError, UsageError


def outcomes(entry, family):
    return {check.name.split(".")[-1]: check.run() for check in checks(entry, family)}


def subject(tiny, family):
    """The first entry the family supports.

    Conjugate intercepts, a topic model, or a mixture with classes.
    """
    for entry in (tiny.intercepts()[0], zoo.load("lda_exact"), zoo.load("gaussian_mixture_exact")):
        data = entry.load_data()
        try:
            guides.build(family, entry.program(data), data, entry)
        except (FitError, UsageError):  # ProgramError is a UsageError
            continue
        return entry
    return pytest.fail(f"no subject for {family}: add a tiny program it can be built for")


@pytest.mark.parametrize("family", guides.FAMILIES)
def test_every_registered_family_passes(tiny, family, monkeypatch):
    # of classes, one search for a mode: where it begins is no matter of the contract
    monkeypatch.setattr("guides.families.class_network.STARTS", 1)
    results = outcomes(subject(tiny, family), family)
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
            pyro.sample(
                "x", dist.Normal(self.loc, self.width.detach().exp()).expand([2]).to_event(1)
            )

    entry, _ = tiny.gaussian()
    entry = tiny.entry(
        "own",
        entry.load_data,
        entry.program(None),
        own_guides={"mine": lambda program, data, entry: Detached()},
    )
    result = outcomes(entry, "mine")["gradients_reach_parameters"]
    assert result.status == "failed"
    assert "width" in result.sentence


@pytest.mark.parametrize(
    ("trained", "said"), [(True, "different losses"), (False, "two draws with one seed differ")]
)
def test_a_stream_that_no_seed_controls_is_caught(tiny, trained, said):
    """The guide takes numbers from a stream of its own, in training or in drawing."""
    stream = torch.Generator().manual_seed(0)

    class Unseeded(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, loc, index=None):
            noise = torch.randn(2, dtype=torch.float64, generator=stream)
            use = torch.is_grad_enabled() == trained
            pyro.sample("x", dist.Normal(self.loc + 0.1 * noise * use, 1.0).to_event(1))

    entry, _ = tiny.gaussian()
    entry = tiny.entry(
        "own",
        entry.load_data,
        entry.program(None),
        own_guides={"mine": lambda program, data, entry: Unseeded()},
    )
    check = next(c for c in checks(entry, "mine") if c.name.endswith("same_seed_same_result"))
    result = check.run()
    assert result.status == "failed"
    assert said in result.sentence
