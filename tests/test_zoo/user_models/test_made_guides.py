"""Guides that a function makes of the program: their rows are looked at as those of others."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import guides
import zoo
from zoo.errors import ProgramError, UsageError
from zoo.user_models.made_guides import MadeGuide, makes_guides

N = 40
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def model(x, index=None):
    with pyro.plate("row", N, subsample=index):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Encoder(nn.Module):
    """Reads a row as it is, less the mean of the rows beside it, or through a last layer of 0."""

    def __init__(self, program, kind):
        super().__init__()
        self.kind, self.net = kind, nn.Linear(2, 2).double()
        if kind == "zero":
            nn.init.zeros_(self.net.weight)

    def forward(self, x, index=None):
        read = x if self.kind == "alone" else x - x.mean(0)
        with pyro.plate("row", N, subsample=index):
            pyro.sample("z", dist.Normal(self.net(read), 0.7).to_event(1))


def plain(program):
    def guide(x, index=None):
        w = pyro.param("w", torch.tensor(0.3))
        with pyro.plate("row", N, subsample=index):
            pyro.sample("z", dist.Normal(w * (x - x.mean(0)), 0.7).to_event(1))

    return guide


def encoder(kind):
    return lambda program: Encoder(program, kind)


@pytest.mark.parametrize("guide", [encoder("mean"), encoder("zero"), plain])
@pytest.mark.parametrize("asked", [{"minibatch": 8}, {"judged": 4}])
def test_a_made_guide_that_reads_other_rows_is_refused_on_some(guide, asked):
    """On minibatches it was trained to another q, and nothing was said."""
    with pytest.raises(ProgramError, match="computes q of 'z' at a row from other rows"):
        zoo.from_program(model, {"x": X}, guide=guide, **asked)
    entry = zoo.from_program(model, {"x": X}, guide=guide, batched=["x"])
    assert any("its q is one of all rows" in notice for notice in entry.notices)


@pytest.mark.parametrize(
    "guide", [encoder("alone"), AutoNormal, lambda program: AutoNormal(program)]
)
def test_a_made_guide_that_reads_each_row_alone_is_not(guide):
    entry = zoo.from_program(model, {"x": X}, guide=guide, batched=["x"])
    assert entry.own_guides["own"].tied == ""
    assert not any("its q is one of all rows" in notice for notice in entry.notices)


def test_a_made_encoder_is_fitted_by_minibatches():
    """The posterior of a row is N(x / 2, 1 / 2): log p(x) less the KL of a sd of 0.7."""
    entry = zoo.from_program(model, {"x": X}, guide=encoder("alone"), minibatch=8)
    fit = guides.fit(entry, "own", seed=0, steps=1500, lr=0.02, compile="off")
    best = float(dist.Normal(0.0, 2**0.5).log_prob(X).sum())
    kl = N * 2 * (0.5 * (0.49 / 0.5 - 1) - 0.5 * float(torch.tensor(0.49 / 0.5).log()))
    assert fit.elbo.value_nats == pytest.approx(best - kl, abs=0.5)


def test_making_leaves_nothing_in_the_state_of_the_process():
    before, store = torch.get_rng_state(), set(pyro.get_param_store().keys())
    zoo.from_program(model, {"x": X}, guide=AutoNormal, batched=["x"])
    assert torch.equal(before, torch.get_rng_state())
    assert set(pyro.get_param_store().keys()) == store


def test_what_makes_guides_needs_one_argument_that_is_no_data():
    assert makes_guides(lambda program: None, {"x": X})
    assert not makes_guides(lambda x: None, {"x": X})
    assert not makes_guides(lambda program, other: None, {"x": X})
    assert not makes_guides(nn.Linear(2, 2), {"x": X})


def test_a_maker_that_returns_no_guide_is_refused():
    entry = zoo.from_program(model, {"x": X})
    with pytest.raises(UsageError, match="returned a int; accepted: a guide"):
        MadeGuide(lambda program: 3)(None, None, entry)
