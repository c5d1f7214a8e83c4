"""The bridge to ArviZ: known answers, pitfalls of its API, containers and files."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm, t

import zoo
from benchmarks import arviz_bridge as bridge
from zoo.errors import InfrastructureError, UsageError
from zoo.types import Cost, Posterior

ROOT = Path(__file__).parents[2]


def generator(seed=0):
    return np.random.default_rng(seed)


def test_ess_of_an_autoregression_is_n_times_one_minus_phi_over_one_plus_phi():
    rng, phi = generator(), 0.6
    x = np.empty((4, 5000, 2))
    x[:, 0] = rng.standard_normal((4, 2))
    for i in range(1, 5000):
        x[:, i] = phi * x[:, i - 1] + (1 - phi**2) ** 0.5 * rng.standard_normal((4, 2))
    assert bridge.ess_bulk(x) == pytest.approx(20000 * (1 - phi) / (1 + phi), rel=0.15)
    assert bridge.mcse_mean(x) == pytest.approx(((1 + phi) / (1 - phi) / 20000) ** 0.5, rel=0.1)
    assert bridge.rhat(x).shape == (2,)


def test_errors_of_independent_draws_are_the_textbook_ones():
    x = generator().standard_normal((4, 2500, 3))
    assert bridge.mcse_mean(x) == pytest.approx(np.full(3, 0.01), rel=0.1)
    assert bridge.mcse_sd(x) == pytest.approx(np.full(3, 0.01 / 2**0.5), rel=0.15)
    assert ((bridge.ess_tail(x) > 8000) & (bridge.ess_tail(x) < 12000)).all()


def test_rhat_sees_chains_that_disagree_and_shapes_are_kept():
    x = generator().standard_normal((4, 500, 2, 3))
    x[:, :, 1, 2] += np.arange(4)[:, None]
    found = bridge.rhat(x)
    assert found.shape == (2, 3)
    assert found[1, 2] > 1.3
    assert np.delete(found.ravel(), 5).max() < 1.02


def test_draws_that_are_not_finite_give_nan_not_health():
    x = generator().standard_normal((4, 1000, 2))
    x[0, 3, 0] = np.inf
    for function in (
        bridge.rhat,
        bridge.ess_bulk,
        bridge.ess_tail,
        bridge.mcse_mean,
        bridge.mcse_sd,
    ):
        assert np.isnan(function(x)[0])
        assert np.isfinite(function(x)[1])


def test_the_way_through_numba_is_closed(tmp_path):
    """ArviZ uses numba if it is installed; the stand-in here would fail at the first number."""
    (tmp_path / "numba.py").write_text(
        "def vectorize(function=None, **options):\n    return function or vectorize\n"
    )
    code = (
        "import arviz, numpy; assert arviz.utils.Numba.numba_flag; from benchmarks import"
        " arviz_bridge; x = numpy.random.default_rng(0).normal(size=(4, 100));"
        " assert arviz_bridge.mcse_sd(x) > 0; assert not arviz.utils.Numba.numba_flag; assert True"
        " and arviz_bridge.rhat(x) > 0.9 and arviz_bridge.ess_tail(x) > 100"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_arrays_without_chains_are_refused():
    with pytest.raises(UsageError, match=r"\[chain, draw"):
        bridge.rhat(np.zeros(10))


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_of_known_weights(k):
    """Weights u^-k of uniform u are exactly Pareto with shape k."""
    rng = generator(int(10 * k))
    found = [bridge.pareto_k(-k * np.log(rng.uniform(size=4000)))[0] for _ in range(40)]
    # its prior pulls k towards 0.5 by < 0.05
    assert np.mean(found) == pytest.approx(k, abs=5 * np.std(found) / 40**0.5 + 0.05)


def test_pareto_k_has_the_sign_of_log_p_minus_log_q():
    """Weights of a normal guide of a Student-t posterior are unbounded; conversely bounded."""
    z, s = generator(3).standard_normal(4000), t(3).rvs(4000, random_state=4)
    bad, _ = bridge.pareto_k(t(3).logpdf(z) - norm.logpdf(z))
    good, smoothed = bridge.pareto_k(norm.logpdf(s) - t(3).logpdf(s))
    assert bad > 0.5 > 0.2 > good
    assert np.exp(smoothed).sum() == pytest.approx(1.0)


def test_pareto_k_of_degenerate_weights():
    k, smoothed = bridge.pareto_k(np.full(100, 3.0) + 1e-12 * generator().standard_normal(100))
    assert k == 0.0
    assert np.exp(smoothed) == pytest.approx(np.full(100, 0.01))
    hair = 0.01 * generator().standard_cauchy(1000).clip(-2, 2)
    k, smoothed = bridge.pareto_k(hair)
    assert k == 0.0
    assert np.exp(smoothed).sum() == pytest.approx(1.0)
    assert smoothed - smoothed[0] == pytest.approx(hair - hair[0])
    assert np.isnan(bridge.pareto_k(np.r_[np.nan, np.zeros(99)])[0])
    assert np.isnan(bridge.pareto_k(np.r_[np.inf, np.zeros(99)])[0])
    assert np.isfinite(
        bridge.pareto_k(torch.tensor([-np.inf, *generator().standard_normal(200)]))[0]
    )


def test_ebfmi_of_independent_energies_is_two():
    assert bridge.ebfmi(generator().standard_normal((4, 4000))) == pytest.approx(
        np.full(4, 2.0), abs=0.2
    )


# -- containers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normal_entry():
    def program(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("row", y.shape[-1]):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = torch.tensor(generator(7).standard_normal(30))
    return zoo.from_program(
        program,
        {"y": y},
        dims={"y": ("row",)},
        coords={"row": [f"r{i}" for i in range(30)]},
        name="normal",
    )


@pytest.fixture(scope="module")
def normal_posterior(normal_entry):
    data = normal_entry.load_data()
    precision = 30 + 0.01
    mu = torch.tensor(
        generator(8).normal(float(data.train["y"].sum()) / precision, precision**-0.5, (4, 500))
    )
    stats = {
        "diverging": torch.zeros(4, 500, dtype=torch.bool),
        "n_steps": torch.full((4, 500), 3),
        "energy": torch.rand(4, 500),
    }
    return Posterior(
        entry=normal_entry,
        data=data,
        method="nuts",
        draws={"mu": mu},
        sample_dims=("chain", "draw"),
        unconstrained=mu[..., None],
        stats=stats,
        cost=Cost(
            seconds=1.5, compile_seconds=0.25, steps=7, gradient_evaluations=9, sequential_depth=4
        ),
        seed=11,
        engine="nutpie",
        notes=("first", "second"),
    )


def test_to_arviz_has_the_groups_names_and_coords(normal_posterior):
    idata = bridge.to_arviz(normal_posterior, log_likelihood=True)
    assert {
        "posterior",
        "sample_stats",
        "observed_data",
        "log_likelihood",
        "unconstrained_posterior",
    } <= set(idata.groups())
    assert idata.posterior["mu"].dims == ("chain", "draw")
    assert idata.observed_data["y"].dims == ("row",)
    assert list(idata.log_likelihood["y"].coords["row"].values)[:2] == ["r0", "r1"]
    assert idata.log_likelihood["y"].shape == (4, 500, 30)
    y = normal_posterior.data.train["y"]
    expected = dist.Normal(normal_posterior.draws["mu"][2, 5], 1.0).log_prob(y)
    assert idata.log_likelihood["y"].values[2, 5] == pytest.approx(expected.numpy())
    assert idata.sample_stats["diverging"].dtype == bool


def test_a_guide_is_one_chain_and_says_so(normal_posterior):
    mu = normal_posterior.draws["mu"][0]
    weights = torch.linspace(-1, 1, 500)
    guide = dataclasses.replace(
        normal_posterior,
        method="mean_field",
        draws={"mu": mu},
        sample_dims=("sample",),
        unconstrained=None,
        stats={},
        log_weights=weights,
    )
    idata = bridge.to_arviz(guide)
    assert idata.posterior["mu"].shape == (1, 500)
    assert idata.attrs["kind"] == "vi"
    assert idata.sample_stats["log_weight"].values[0] == pytest.approx(weights.numpy())


def test_loo_of_a_normal_mean_is_near_its_closed_form(normal_posterior):
    """Leave-one-out predictive densities of a normal mean with known variance are normal."""
    y = normal_posterior.data.train["y"].numpy()
    precision = 29 + 0.01
    means = (y.sum() - y) / precision
    exact = norm.logpdf(y, means, (1 + 1 / precision) ** 0.5)
    found = bridge.loo(normal_posterior)
    assert found.elpd == pytest.approx(exact.sum(), abs=0.1)
    assert found.se == pytest.approx(30**0.5 * exact.std(), rel=0.1)
    assert found.pareto_k.max() < 0.5


def test_loo_refuses_observations_with_a_weight():
    """Without one of them the posterior lacks a power of its likelihood."""

    def model(y, w):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)), pyro.poutine.scale(scale=w):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    entry = zoo.from_program(model, {"y": torch.zeros(3), "w": torch.tensor([1.0, 2.0, 1.0])})
    posterior = Posterior(
        entry=entry,
        data=entry.load_data(),
        method="by hand",
        draws={"mean": torch.zeros(100, dtype=torch.float64)},
        sample_dims=("sample",),
    )
    with pytest.raises(UsageError, match=r"'y' have a weight \(poutine.scale\)"):
        bridge.loo(posterior)


def test_files_come_back_bit_for_bit(normal_posterior, tmp_path):
    path = tmp_path / "posterior.nc"
    bridge.save_netcdf(normal_posterior, path)
    back = bridge.load_netcdf(path, normal_posterior.entry, normal_posterior.data)
    assert torch.equal(back.draws["mu"], normal_posterior.draws["mu"])
    assert torch.equal(back.unconstrained, normal_posterior.unconstrained)
    for name, value in normal_posterior.stats.items():
        assert torch.equal(back.stats[name], value), name
        assert back.stats[name].dtype == value.dtype, name
    assert (back.cost, back.seed, back.engine, back.notes) == (
        normal_posterior.cost,
        11,
        "nutpie",
        ("first", "second"),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]


def test_files_of_a_guide_come_back(normal_posterior, tmp_path):
    mu = normal_posterior.draws["mu"][0]
    guide = dataclasses.replace(
        normal_posterior,
        method="full_rank",
        draws={"mu": mu},
        sample_dims=("sample",),
        unconstrained=mu[:, None],
        stats={},
        log_weights=torch.rand(500, dtype=torch.float64),
        engine=None,
    )
    bridge.save_netcdf(guide, tmp_path / "g.nc")
    back = bridge.load_netcdf(tmp_path / "g.nc", guide.entry, guide.data)
    assert (back.sample_dims, back.engine, back.stats) == (("sample",), None, {})
    assert torch.equal(back.log_weights, guide.log_weights)
    assert torch.equal(back.draws["mu"], mu)


def test_a_flipped_byte_and_a_cut_file_are_noticed(normal_posterior, tmp_path):
    path = tmp_path / "posterior.nc"
    bridge.save_netcdf(normal_posterior, path)
    content = path.read_bytes()
    # compressed draws look random
    block = max(range(0, len(content) - 64, 64), key=lambda i: len(set(content[i : i + 64])))
    for damaged in (
        content[:block]
        + bytes(255 - b for b in content[block : block + 64])
        + content[block + 64 :],
        content[: len(content) // 2],
    ):
        path.write_bytes(damaged)
        with pytest.raises(InfrastructureError, match=r"posterior\.nc"):
            bridge.load_netcdf(path, normal_posterior.entry, normal_posterior.data)


def test_an_unwritable_folder_is_one_sentence(normal_posterior, tmp_path):
    with pytest.raises(InfrastructureError, match="Cannot write"):
        bridge.save_netcdf(normal_posterior, tmp_path / "absent" / "posterior.nc")


def test_releases_of_arviz_that_return_arrays_of_one_are_read_as_numbers(monkeypatch):
    """Newer numpy does not convert them to numbers."""
    x = np.random.default_rng(0).standard_normal((4, 500, 2))
    mean, k = bridge.mcse_mean(x), bridge.pareto_k(x[0, :, 0])[0]
    arviz = bridge.load_arviz()
    mcse, psis = arviz.mcse, arviz.psislw
    monkeypatch.setattr(arviz, "mcse", lambda *a, **b: np.atleast_1d(mcse(*a, **b)))
    monkeypatch.setattr(arviz, "psislw", lambda w: (psis(w)[0], np.atleast_1d(psis(w)[1])))
    assert np.array_equal(bridge.mcse_mean(x), mean)
    assert bridge.pareto_k(x[0, :, 0])[0] == k


@pytest.mark.parametrize("how", ["external storage", "external link", "virtual dataset"])
def test_draws_in_other_files_are_refused(normal_posterior, tmp_path, how):
    """A received file could otherwise return the bytes of any file of this machine as draws."""
    path, other = tmp_path / "posterior.nc", tmp_path / "other.h5"
    bridge.save_netcdf(normal_posterior, path)
    name = next(iter(normal_posterior.draws))
    with h5py.File(path, "a") as file, h5py.File(other, "w") as elsewhere:
        shape, group = file["posterior"][name].shape, file["posterior"]
        elsewhere["x"] = np.zeros(shape)
        del group[name]
        if how == "external storage":
            raw = [(str(tmp_path / "raw.bin"), 0, 8 * math.prod(shape))]
            group.create_dataset(name, shape=shape, dtype="f8", external=raw)
        elif how == "external link":
            group[name] = h5py.ExternalLink(str(other), "x")
        else:
            layout = h5py.VirtualLayout(shape=shape, dtype="f8")
            layout[...] = h5py.VirtualSource(str(other), "x", shape=shape)
            group.create_virtual_dataset(name, layout)
    (tmp_path / "raw.bin").write_bytes(bytes(8 * math.prod(shape)))
    with pytest.raises(InfrastructureError, match=r"lies in another file, which is never read"):
        bridge.load_netcdf(path, normal_posterior.entry, normal_posterior.data)


def test_tail_ess_is_that_of_the_outer_quantiles():
    """Widths of 1 and 4 in blocks of fifty draws: the 5 % quantile mixes far worse than 25 %."""
    import arviz

    rng = generator(0)
    width = np.where(np.repeat(rng.random((4, 20)) < 0.15, 50, axis=1), 4.0, 1.0)
    x = rng.standard_normal((4, 1000)) * width
    found = float(bridge.ess_tail(x[..., None])[0])
    outer, inner = (
        float(arviz.ess(x, method="tail", prob=prob)) for prob in ((0.05, 0.95), (0.25, 0.75))
    )
    assert found == pytest.approx(outer, rel=1e-9)
    assert inner > 2 * outer
