"""Parts of the study of mixtures with stand-ins for fits and chains."""

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.comparison import relabel
from benchmarks.studies.latent_classes import co_clustering, evidence, measure, modality
from zoo.models.mixtures import gaussian_mixture

FULL = {"steps": 1000, "patience": 150, "anneal": 300, "num_particles": 32, "compile": "off"}
FEW = {"steps": 100, "patience": 40, "anneal": 40}


@pytest.fixture
def asked(monkeypatch):
    """Arguments of every measuring function, which return nothing but a row of their name."""
    calls = []

    def stand_in(module, name):
        def run(*args, **named):
            calls.append((name, args, named))
            return [name]

        monkeypatch.setattr(module, name, run)

    for module, name in (
        (evidence, "evidence_rows"),
        (evidence, "class_network_rows"),
        (co_clustering, "labels"),
        (co_clustering, "against_reference"),
        (modality, "mode_rows"),
    ):
        stand_in(module, name)
    return calls


def test_parts_measure_in_full(asked):
    for part in ("evidence", "network", "labels", "modes", "co_clustering"):
        measure.PARTS[part](False)
    assert asked == [
        ("evidence_rows", (2,), FULL),
        ("evidence_rows", (3,), FULL),
        (
            "class_network_rows",
            (2,),
            {"num_particles": 1, "compile": "off", "steps": 400, "patience": 100, "anneal": 150},
        ),
        ("labels", (), {}),
        ("mode_rows", (), {}),
        ("against_reference", (), {"draws": 4000, **FULL}),
    ]


def test_parts_measure_quickly(asked):
    for part in ("evidence", "network", "labels", "modes", "co_clustering"):
        measure.PARTS[part](True)
    assert asked == [
        ("evidence_rows", (2,), {**FULL, **FEW}),
        ("class_network_rows", (2,), {"num_particles": 1, "compile": "off", **FEW}),
        ("labels", (), {}),
        ("mode_rows", ((("gaussian_mixture", {"K": 3}),),), {"chains": 2, "draws": 100}),
        ("against_reference", (), {"draws": 500, **FULL, **FEW}),
    ]


@pytest.mark.parametrize("quick", [False, True])
def test_held_out_scores_are_means_over_seeds_and_rows(monkeypatch, quick):
    calls = []
    score = SimpleNamespace(
        covariance="full",
        family="full_rank",
        ours=np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]),
        theirs=np.array([[0.0, 1.0, 2.0]]),
        failures=4,
    )
    monkeypatch.setattr(measure.heldout, "compare", lambda *a, **k: calls.append((a, k)) or score)
    monkeypatch.setattr(measure.heldout, "interval", lambda s: (2.0, 1.5, 2.5))
    (row,) = measure._heldout(quick, "iris", 3)
    few = {"steps": 100, "patience": 40, "anneal": 40, "num_particles": 2, "compile": "off"}
    full = {"steps": 400, "patience": 100, "anneal": 200, "num_particles": 16, "compile": "off"}
    assert calls == [
        (
            ("iris", 3, "full"),
            {"family": "full_rank", "seeds": 1 if quick else 2, **(few if quick else full)},
        )
    ]
    assert row == {
        "data": "iris",
        "K": 3,
        "covariance": "full",
        "family": "full_rank",
        "seeds": 2,
        "folds": measure.heldout.FOLDS,
        "rows": 3,
        "ours": 3.0,
        "theirs": 1.0,
        "difference": 2.0,
        "low": 1.5,
        "high": 2.5,
        "failures": 4,
    }
    names = {f"heldout_{data}" for data, _ in measure.heldout.CASES}
    assert names <= set(measure.PARTS)


def covered(share):
    held = {"a": np.array([1.0, 0.0, 1.0]), "b": np.array([[1.0, 0.0], [1, 1], [1, 0]])}
    return SimpleNamespace(held=held, share=share, se=0.01, failures=0)


@pytest.mark.parametrize("quick", [False, True])
def test_coverage_of_the_exact_posterior_and_of_guides(monkeypatch, quick):
    calls = []
    monkeypatch.setattr(
        measure.coverage, "exact_intervals", lambda n: calls.append(n) or covered(0.9)
    )
    (row,) = measure.PARTS["coverage"](quick)
    assert calls == [20 if quick else 400]
    assert row == {
        "entry": "gaussian_mixture_exact",
        "method": "exact posterior",
        "rows": 12,
        "simulations": 3,
        "share": 0.9,
        "se": 0.01,
        "failures": 0,
        "parts": {"a": [0.667], "b": [1.0, 0.333]},
    }
    entry, guides = SimpleNamespace(name="mine"), []
    monkeypatch.setattr(measure.zoo, "load", lambda name: entry)

    def cover(given, family, *, simulations, quantities, **settings):
        assert given is entry
        assert quantities == ("location", "weight", "log_scale", "mixture_mean")
        guides.append((family, simulations, settings))
        return covered(0.5)

    monkeypatch.setattr(measure.coverage, "cover", cover)
    rows = measure.PARTS["coverage_guide"](quick)
    graph = {"compile": "on", "num_particles": 32}
    every = [
        ("laplace", 200, {"compile": "off"}),
        ("mean_field", 200, graph),
        ("full_rank", 200, graph),
        ("flow", 200, {**graph, "lr": 0.005}),
    ]
    assert guides == ([("laplace", 5, {"compile": "off"})] if quick else every)
    assert [r["method"] for r in rows] == [g[0] for g in guides]
    assert {(r["entry"], r["rows"]) for r in rows} == {("mine", 12)}


# --- modes


@pytest.fixture
def chains(monkeypatch):
    """Four chains of two draws: three group four rows 3 + 1, one 2 + 2."""
    groups = [[0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
    z = torch.tensor(groups)[:, None].expand(4, 2, 4)
    posterior = SimpleNamespace(
        draws={"z": z},
        stats={"lp": torch.tensor([[1.0, 3.0], [2.0, 4.0], [9.0, 9.0], [4.0, 6.0]])},
    )
    posterior.entry = SimpleNamespace(
        key="mine",
        build=SimpleNamespace(__module__="classes_of_the_test"),
        load_data=lambda: "data",
    )
    module = ModuleType("classes_of_the_test")
    module.responsibilities = lambda draws, data: torch.nn.functional.one_hot(
        draws["z"], 2
    ).double()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    posterior.calls = []
    monkeypatch.setattr(modality.zoo, "load", lambda name, **options: posterior.entry)
    monkeypatch.setattr(
        modality.benchmarks,
        "run_nuts",
        lambda entry, **options: posterior.calls.append(options) or posterior,
    )
    monkeypatch.setattr(modality, "diagnose", lambda p: SimpleNamespace(rhat_max=1.75))
    return posterior


def test_a_mode_has_its_chains_its_height_and_its_class_sizes(chains):
    """Of 16 pairs of rows (with order) 6 change: the modes are sqrt(6 / 16) apart."""
    first, second = modality.mode_rows((("a", {"K": 2}),), chains=4, draws=2, seed=7)
    assert chains.calls == [
        {"seed": 7, "data": "data", "chains": 4, "tune": 400, "draws": 2, "min_ess": 0, "jobs": 1}
    ]
    apart = pytest.approx(math.sqrt(6 / 16))
    assert {k: v for k, v in first.items() if k != "sentence"} == {
        "entry": "mine",
        "mode": 1,
        "chains": [1, 2, 4],
        "of": 4,
        "log_density": pytest.approx((2 + 3 + 5) / 3),
        "sizes": [3.0, 1.0],
        "rhat_all": 1.75,
        "within": 0.0,
        "apart": apart,
    }
    assert (second["mode"], second["chains"], second["log_density"]) == (2, [3], 9.0)
    assert (second["sizes"], second["apart"]) == ([2.0, 2.0], apart)
    assert first["sentence"].startswith("mine: the chains are in 2 modes")


def test_one_mode_is_apart_from_nothing(chains):
    chains.draws["z"] = chains.draws["z"][[0, 1, 3, 0]]
    rows = modality.mode_rows((("a", {}), ("b", {})), chains=4)
    assert [(r["mode"], r["apart"], r["chains"]) for r in rows] == [(1, None, [1, 2, 3, 4])] * 2
    assert chains.calls[0]["draws"] == 400
    assert modality.CHAINS == 8


# --- co-clustering


def test_class_probabilities_are_of_distinct_values(monkeypatch):
    seen = []

    def log_joint(draws, values):
        seen.append(values.tolist())
        return torch.tensor([[0.0, math.log(3.0)]]).double().expand(len(values), 2)

    monkeypatch.setattr(gaussian_mixture, "log_joint", log_joint)
    data = SimpleNamespace(train={"petal": torch.tensor([2.0, 1.0, 2.0])})
    found = co_clustering.responsibilities(SimpleNamespace(draws={}), data)
    assert seen == [[1.0, 2.0]]
    assert found.tolist() == [pytest.approx([0.25, 0.75])] * 2


def test_errors_of_families_are_against_long_chains(monkeypatch):
    """Three values: 1 and 2 share a class in half of the draws, 3 is alone.

    The first family says 0.75 for the first pair, the second 0.5 but 0.125 for the others.
    """
    rng = np.random.default_rng(0)
    together = torch.as_tensor(rng.permutation(np.repeat([0, 1], 200)).reshape(4, 100))
    z = torch.stack([torch.zeros(4, 100).long(), together, 2 + torch.zeros(4, 100).long()], -1)
    truth = torch.nn.functional.one_hot(z, 3).double()
    fits = []

    def fit(entry, family, **options):
        fits.append((family, {k: v for k, v in options.items() if k != "data"}))
        return family

    first = torch.tensor([[[0.75, 0.25, 0], [1.0, 0, 0], [0, 0, 1.0]]]).double()
    second = torch.tensor([[[0.5, 0.5, 0], [1.0, 0, 0], [0, 0.25, 0.75]]]).double()
    known = {"chains": truth, "laplace": first, "flow": second}
    runs = []
    monkeypatch.setattr(
        co_clustering.benchmarks, "run_nuts", lambda entry, **o: runs.append(o) or "chains"
    )
    monkeypatch.setattr(co_clustering.guides, "fit", fit)
    monkeypatch.setattr(co_clustering.guides, "draw", lambda fit, n: fit if n == 4000 else None)
    monkeypatch.setattr(co_clustering, "responsibilities", lambda p, data: known[p])
    health = SimpleNamespace(rhat_max=1.002, ess_bulk_min=777.0)
    monkeypatch.setattr(
        co_clustering, "diagnose", lambda p, reference: health if reference else None
    )
    rows = co_clustering.against_reference(("laplace", "flow"), draws=25, steps=3)
    assert fits == [("laplace", {"compile": "off"}), ("flow", {"steps": 3})]
    assert (runs[0]["draws"], runs[0]["min_ess"], runs[0]["jobs"]) == (25, 0, 1)
    for row in rows:
        assert (row["rhat_record"], row["ess_record"], row["draws"]) == (1.002, 777.0, 100)
        assert (row["pairs"], row["doubt"]) == (3, 1)
        # an independent chance of one half
        assert row["mcse_largest"] == pytest.approx(0.5 / math.sqrt(400), rel=0.25)
        assert row["ess_smallest"] == pytest.approx(400, rel=0.5)
    # the diagonal counts too: a row shares its own class with chance sum of squares
    assert rows[0]["largest"] == pytest.approx(1 - (0.75**2 + 0.25**2))
    assert rows[1]["largest"] == pytest.approx(0.5)


def test_labels_are_judged_before_and_after_each_way_of_relabeling(monkeypatch):
    """Every fourth draw of both chains has its two classes exchanged."""
    rng = np.random.default_rng(2)
    r = np.broadcast_to([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]], (2, 100, 3, 2)).copy()
    location = np.stack([rng.standard_normal((2, 100)), 20 + rng.standard_normal((2, 100))], -1)
    r[:, ::4] = r[:, ::4, :, ::-1]
    location[1, ::4] = location[1, ::4, ::-1]
    posterior = SimpleNamespace(
        draws={"location": torch.as_tensor(location)}, stats={}, entry=SimpleNamespace(key="mine")
    )
    monkeypatch.setattr(
        co_clustering, "_reference", lambda: (posterior.entry, "data", posterior, {})
    )
    monkeypatch.setattr(co_clustering, "responsibilities", lambda p, data: torch.as_tensor(r))
    rows = co_clustering.labels()
    assert [row["method"] for row in rows] == [relabel.stephens(r).method, relabel.pivot(r).method]
    for row, way in zip(rows, (relabel.stephens, relabel.pivot), strict=True):
        result = way(r)
        before, after = relabel.rhat_before_after(location, result)
        assert (row["rhat_before"], row["rhat_after"]) == (before, after)
        assert (row["kl_before"], row["kl_after"]) == (result.before, result.quality)
        assert (row["certainty"], row["agreement"]) == (result.certainty, result.agreement)
        assert row["share_moved"] == pytest.approx(0.25)
        assert (row["entry"], row["modes"]) == ("mine", 1)
        assert row["sentence"].startswith("mine: all 2 chains group the rows alike")
