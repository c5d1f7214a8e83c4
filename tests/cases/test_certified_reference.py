"""The certified references can be reached from Python by a word."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.reference.find import find
from zoo.errors import ReferenceError, UnknownNameError
from zoo.types import Posterior


def exact(name, n=4000, seed=1):
    entry = zoo.load(name)
    data = entry.load_data()
    draws = entry.exact(data).sample(n, seed)
    return Posterior(
        entry=entry, data=data, method="own", draws=draws, sample_dims=("sample",), seed=0
    )


def test_the_stored_reference_is_that_of_the_entry():
    entry = zoo.load("eight_schools")
    fit = guides.fit(entry, "mean_field", seed=0, steps=150, patience=30, anneal=60)
    posterior = guides.draw(fit, 2000)
    found = benchmarks.compare(posterior, "stored", fit=fit, distances="none")
    same = benchmarks.compare(posterior, find(entry), fit=fit, distances="none")
    assert found.reference.kind == "stored"
    assert found.scores == same.scores
    assert found.verdict == "too_narrow"  # log tau, as every guide here
    assert benchmarks.compare(posterior, "certified", distances="none").scores == same.scores


def test_exact_draws_agree_with_the_closed_form_and_shifted_ones_do_not():
    posterior = exact("coin")
    found = benchmarks.compare(posterior, "analytic")
    assert (found.verdict, found.reference.kind) == ("agrees", "analytic")
    moved = {k: (v - 0.2 * v.std()).clamp(0.001, 0.999) for k, v in posterior.draws.items()}
    shifted = Posterior(
        **{**{f: getattr(posterior, f) for f in ("entry", "data", "method")}, "draws": moved},
        sample_dims=("sample",),
    )
    assert benchmarks.compare(shifted, "analytic").verdict == "shifted"


def test_what_is_not_there_is_said():
    posterior = exact("coin")
    with pytest.raises(ReferenceError, match="The reference of coin is analytic, not stored"):
        benchmarks.compare(posterior, "stored")
    with pytest.raises(UnknownNameError, match=r"did you mean 'stored'.*benchmarks\.run_nuts"):
        benchmarks.compare(posterior, "store")
    mine = zoo.from_program(_mine, {"y": torch.linspace(-1, 1, 5).double()})
    fit = guides.fit(mine, "laplace", seed=0)
    with pytest.raises(ReferenceError, match="No reference is known for my_model"):
        benchmarks.compare(guides.draw(fit, 100), "certified")


def _mine(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    with pyro.plate("row", 5):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
