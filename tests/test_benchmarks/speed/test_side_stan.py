"""Stan's side with a stand-in for PyStan: the data it is given, and what is read from a fit."""

import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from benchmarks.speed import side_stan
from benchmarks.speed.side_stan import FORMS, Stan, build
from benchmarks.speed.sides import Settings
from zoo.errors import UsageError

SETTINGS = Settings(draws=3)


class Fit(dict):
    """Draws `[*site, draw]` with 4 of warm-up before 3: a scalar, a vector and one of length 1."""

    param_names = ("mu", "theta.1", "theta.2", "one.1")

    def __init__(self):
        steps = np.arange(7.0)
        super().__init__(
            {
                "mu": steps[None, :],
                "theta": np.stack([10 + steps, 20 + steps]),
                "one": 30 + steps[None, :],
                "n_leapfrog__": np.arange(1, 8)[None, :],
                "divergent__": np.array([[1, 1, 1, 1, 0, 1, 0]]),
            }
        )


class Model:
    def __init__(self):
        self.calls = []

    def unconstrain_pars(self, values):
        return [values["tau"], *values["theta"]]

    def log_prob(self, u, adjust_transform):
        assert adjust_transform is False
        return sum(u)

    def sample(self, **options):
        self.calls.append(options)
        return Fit()


class Without:
    """An importer of an environment without pkg_resources."""

    def find_spec(self, name, path=None, target=None):
        if name == "pkg_resources":
            raise ImportError(name)


@pytest.fixture
def stan(monkeypatch):
    """PyStan, which keeps the arguments of every build."""
    module, model = ModuleType("stan"), Model()
    module.built, module.model = [], model

    def built(code, *, data, random_seed):
        module.built.append((code, data, random_seed))
        return model

    module.build = built
    monkeypatch.setitem(sys.modules, "stan", module)
    monkeypatch.setitem(sys.modules, "pkg_resources", ModuleType("pkg_resources"))
    return module


def test_data_are_lists_with_their_sizes(stan):
    side = build("linear", {"x": np.ones((3, 2)), "y": np.arange(3.0)}, SETTINGS)
    assert side.data == {"N": 3, "K": 2, "x": [[1.0, 1.0]] * 3, "y": [0.0, 1.0, 2.0]}
    assert side.code == FORMS["linear"]
    assert side.measures == ("nuts",)
    schools = Stan("eight_schools", {"se": np.ones(5), "y": np.zeros(4)}, SETTINGS)
    assert schools.data["N"] == 4
    assert "K" not in schools.data


def test_counties_count_from_one_and_classes_are_integers(stan):
    radon = Stan("radon", {"county": np.array([0, 1]), "y": np.array([0.5, 1.5])}, SETTINGS)
    assert radon.data["county"] == [1, 2]
    assert radon.data["y"] == [0.5, 1.5]
    given = {"x": np.ones((2, 1)), "malignant": np.array([0.0, 1.0])}
    classes = Stan("logistic", given, SETTINGS).data["malignant"]
    assert classes == [0, 1]
    assert {type(c) for c in classes} == {int}


def test_the_density_is_asked_for_each_point_without_the_jacobian(stan):
    side = Stan("eight_schools", {"y": np.zeros(2)}, SETTINGS)
    points = {"tau": np.array([1.0, 2.0]), "theta": np.array([[10.0, 20.0], [30.0, 40.0]])}
    assert side.log_joint(points).tolist() == [31.0, 72.0]
    assert stan.built == [(FORMS["eight_schools"], side.data, 1)]


def test_a_chain_keeps_the_draws_after_the_warm_up_and_counts_all_gradients(stan, monkeypatch):
    """1 + ... + 7 = 28 leapfrog steps; one of the last three draws diverged."""
    monkeypatch.setattr(os, "getpid", lambda: 1000)
    used = iter([(1.0, 2.0, 4.0, 8.0, 0.0), (2.0, 3.0, 4.5, 8.25, 9.0)])
    monkeypatch.setattr(
        os,
        "times",
        lambda: SimpleNamespace(
            **dict(
                zip(
                    ("user", "system", "children_user", "children_system", "elapsed"),
                    next(used),
                    strict=True,
                )
            )
        ),
    )
    clock = iter([5.0, 7.5])
    monkeypatch.setattr(side_stan.time, "perf_counter", lambda: next(clock))
    run = Stan("eight_schools", {"y": np.zeros(2)}, SETTINGS).nuts(4)
    assert stan.built[0][2] == 4 + 17_000
    assert stan.model.calls == [
        {"num_chains": 1, "num_warmup": 1000, "num_samples": 3, "save_warmup": True}
    ]
    assert {k: v.tolist() for k, v in run.draws.items()} == {
        "mu": [4.0, 5.0, 6.0],
        "theta": [[14.0, 24.0], [15.0, 25.0], [16.0, 26.0]],
        "one": [[34.0], [35.0], [36.0]],
    }
    assert (run.wall, run.cpu, run.warmup) == (2.5, 1 + 1 + 0.5 + 0.25, 1000)
    assert (run.gradients, run.divergences) == (28, 1)


def test_seeds_of_two_processes_differ(stan, monkeypatch):
    side = Stan("eight_schools", {"y": np.zeros(2)}, SETTINGS)
    for process in (58_824, 58_825):  # 17 times these are 1,000,008 and 1,000,025
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        side.nuts(1)
    assert [b[2] for b in stan.built] == [9, 26]


def test_preparing_runs_once_and_only_nuts_is_timed(stan):
    side = Stan("eight_schools", {"y": np.zeros(2)}, SETTINGS)
    assert side.prepare("nuts") == {"used": True, "reason": "C++"}
    assert stan.built[0][2] == 10_007 + 17 * os.getpid() % 1_000_000
    assert len(stan.model.calls) == 1
    with pytest.raises(UsageError) as caught:
        side.time("gradient")
    assert str(caught.value) == (
        "Only nuts is timed on this side, not 'gradient'; ask for it with nuts(seed)."
    )


def test_pystan_gets_a_stand_in_for_what_setuptools_removed(stan, monkeypatch):
    monkeypatch.delitem(sys.modules, "pkg_resources")
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    assert side_stan._module() is stan
    made = sys.modules["pkg_resources"]
    assert made.EntryPoint is side_stan.importlib.metadata.EntryPoint
    monkeypatch.setattr(
        side_stan.importlib.metadata, "entry_points", lambda *, group: [f"one of {group}"]
    )
    assert next(made.iter_entry_points("plug")) == "one of plug"
    before = made
    assert side_stan._module() is stan
    assert sys.modules["pkg_resources"] is before


def test_every_form_declares_the_sites_of_the_entry():
    assert set(FORMS) == {
        *("mixture", "eight_schools", "linear", "logistic", "radon", "hierarchy", "enumerated")
    }
    for text in FORMS.values():
        assert text.count("data {") == text.count("parameters {") == text.count("model {") == 1
