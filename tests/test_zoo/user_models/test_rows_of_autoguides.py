"""Guides of a user that are run on some rows: autoguides by minibatches, tables on new rows."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import nn

import guides
import zoo
from zoo.errors import FitError, ProgramError

N = 40
X = torch.randn(N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def by_index(x, index=None):
    with pyro.plate("row", N, subsample=index):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def by_length(x):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("program", [by_index, by_length])
def test_an_autoguide_by_minibatches_is_told_of_its_plates(program):
    """The cure works: log p(x) is that of N(0, 2), and a normal guide is exact."""
    for kind in (AutoNormal, AutoDelta):
        with pytest.raises(ProgramError) as caught:
            zoo.from_program(program, {"x": X}, guide=kind, minibatch=10)
        cure = (
            f"functools.partial({kind.__name__}, create_plates=lambda x, index=None:"
            " pyro.plate('row', 40, subsample=index))"
        )
        assert str(caught.value).endswith(f"so its ELBO would be wrong; pass guide={cure}.")
        scope = {"functools": functools, "pyro": pyro, kind.__name__: kind}
        entry = zoo.from_program(program, {"x": X}, guide=eval(cure, scope), minibatch=10)
        exact = kind is AutoNormal
        fit = guides.fit(entry, "own", seed=0, steps=600 if exact else 10)
        if exact:
            best = float(torch.distributions.Normal(0.0, 2.0**0.5).log_prob(X).sum())
            assert best - 1.0 < fit.elbo.value_nats < best + 4.0 * fit.elbo.se


def test_an_autoguide_without_plates_is_told_so():
    kind = AutoMultivariateNormal
    with pytest.raises(ProgramError, match="AutoMultivariateNormal has no q of some rows: pass"):
        zoo.from_program(by_index, {"x": X}, guide=kind, minibatch=10)
    entry = zoo.from_program(by_index, {"x": X}, guide=kind, batched=["x"])
    with pytest.raises(FitError, match="AutoMultivariateNormal has no q of some rows: pass"):
        guides.fit(entry, "own", seed=0, steps=10, batch_size=10)
    zoo.from_program(by_index, {"x": X}, guide=kind, minibatch=N)  # every step reads all rows


def test_rows_that_a_table_of_the_guide_does_not_have_are_one_sentence():
    table = nn.Embedding(45, 1)

    def program(x, number):
        by_length(x)

    def guide(x, number):
        pyro.module("table", table)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(table(number)[:, 0], 1.0))

    data = {"x": X, "number": torch.arange(N)}
    fit = guides.fit(zoo.from_program(program, data, guide=guide, minibatch=10), "own", steps=5)
    guides.transfer(fit, {"x": X[:5], "number": torch.arange(40, 45)})
    with pytest.raises(ProgramError, match=r"table\(number\).*; a table has no entry"):
        guides.transfer(fit, {"x": X[:5], "number": torch.arange(41, 46)})
