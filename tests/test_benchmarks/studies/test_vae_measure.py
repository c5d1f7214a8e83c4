"""Figures of the study of autoencoders: its settings, its rows, its scores by closed forms."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.studies.vae import measure as study
from zoo.truth.grid import GaussianLikelihood, standard_normal

PLAIN = ("amortized", "amortized_full", "amortized_flow")


class Say:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def work(folder, quick=False):
    return Work(quick=quick, jobs=1, out=folder, progress=Say())


# --- training


def test_a_row_is_trained_once_with_its_own_settings(monkeypatch):
    calls = []
    monkeypatch.setattr(study.zoo, "load", lambda name, **options: (name, options))
    monkeypatch.setattr(study.guides, "fit", lambda *a, **k: calls.append((a, k)) or len(calls))
    study.train.cache_clear()
    assert study.train("plain", 2000) == 1
    assert study.train("plain", 2000) == 1
    assert study.train("KL annealed linearly", 202, 2) == 2
    assert study.train("mixture prior", 800) == 3
    study.train.cache_clear()
    assert calls[0] == (
        (("vae", {}), "amortized"),
        {"seed": 0, "steps": 2000, "patience": 250, "anneal": 1000},
    )
    assert calls[1][1] == {
        "seed": 2,
        "steps": 202,
        "patience": 50,
        "anneal": 101,
        "objective": "elbo_linear[warmup=50]",
    }
    assert calls[2][0] == (("vae", {"prior": "mixture"}), "amortized")
    assert calls[2][1]["patience"] == 100


def test_the_table_has_eight_rows():
    assert len(study.ROWS) == 8
    assert study.ROWS["IWAE-50"] == (
        "iwae",
        "amortized",
        {},
        {"num_particles": 50, "batch_size": 32},
    )
    assert [study.ROWS[k][1] for k in ("full-covariance guide", "flow guide")] == list(PLAIN[1:])
    assert study.QUICK_ROWS == ("plain", "beta 4")


# --- scores


class Guide:
    """q(z) = Normal(loc, sd) of every image."""

    def __init__(self, loc, sd):
        self.loc, self.sd, self.size = loc, sd, len(loc)


def linear_fit(x, test):
    """x = z + e with unit normals: log p(x) is of Normal(0, 2), the posterior Normal(x/2, 1/2)."""
    program = SimpleNamespace(
        likelihood=GaussianLikelihood(lambda z: z, 1.0), latent=2, log_prior=standard_normal
    )
    data = Data(train={"x": x}, test={"x": test}, size=len(x), coords={"image": ["a"]})
    config = SimpleNamespace(objective="elbo")
    return Fit(program=program, data=data, config=config, cost=SimpleNamespace(steps=10))


@dataclasses.dataclass
class Data:
    train: dict
    test: dict | None
    size: int
    coords: dict


@dataclasses.dataclass
class Fit:
    program: object
    data: Data
    config: object
    cost: object


def evidence(x):
    return torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1)


def test_scores_are_means_over_every_second_training_and_all_held_out_images(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(31, 2, generator=generator, dtype=torch.float64)
    x[:, 1] *= 0.1  # posterior means x / 2: their variance is 0.0025, below 0.01
    test = torch.randn(14, 2, generator=generator, dtype=torch.float64)
    fit = linear_fit(x, test)
    moved = []

    def transfer(fit, data):
        moved.append(data)
        return dataclasses.replace(fit, data=data)

    asked = []
    monkeypatch.setattr(study.guides, "transfer", transfer)
    monkeypatch.setattr(
        study, "elbo_per_image", lambda one, x: asked.append(len(x)) or evidence(x) - 0.5
    )
    monkeypatch.setattr(
        study, "objective_of", lambda o: SimpleNamespace(kl_weight=lambda steps: steps / 10)
    )
    found = study.score(fit)
    half = evidence(x[::2])
    assert found["nll_train"] == pytest.approx(-float(half.mean()), abs=1e-4)
    assert found["nll_train_se"] == pytest.approx(float(half.std()) / 4, rel=1e-3)
    assert found["nll_held_out"] == pytest.approx(-float(evidence(test).mean()), abs=1e-4)
    assert found["nll_held_out_se"] == pytest.approx(
        float(evidence(test).std()) / math.sqrt(14), rel=1e-3
    )
    assert found["minus_elbo_train"] == pytest.approx(0.5 - float(half.mean()), abs=1e-6)
    assert found["minus_elbo_held_out"] == pytest.approx(0.5 - float(evidence(test).mean()))
    assert asked == [31, 14]
    assert found["active_units"] == 1
    assert found["grid_ok"] is True
    assert found["final_kl_weight_1"] is True
    assert found["grid_points"] >= 201
    assert 0 <= found["doubling_changes"] < 1e-3
    assert "mutual_information_nats" in found
    (held,) = moved
    assert held.train["x"] is test
    assert (held.test, held.size, held.coords) == (None, 14, {"image": []})


def test_a_grid_is_refined_for_about_twelve_images_of_each_part(monkeypatch):
    fit = linear_fit(torch.arange(72.0).reshape(36, 2), -torch.arange(48.0).reshape(24, 2))
    seen = []
    grid = SimpleNamespace(sufficient=lambda x: seen.append(x) or "fine")
    monkeypatch.setattr(study, "grid_for", lambda program: grid)
    assert study.enough(fit) == "fine"
    assert seen[0][:, 0].tolist() == [*range(0, 72, 6), *range(0, -48, -4)]


def test_a_grid_has_an_odd_number_of_points_around_the_prior():
    program = linear_fit(torch.zeros(1, 2), None).program
    grid = study.grid_for(program)
    assert (grid.number, grid.latent) == (201, 2)
    assert grid.likelihood is program.likelihood
    assert study.grid_for(program, 11).number == 11


def test_the_bound_of_an_image_is_computed_in_blocks(monkeypatch):
    taken = []
    q = SimpleNamespace(take=lambda rows: taken.append(len(rows)) or rows)
    monkeypatch.setattr(study.LocalQ, "of", lambda guide: q)
    monkeypatch.setattr(study, "elbo_nats", lambda target, q, x, nodes: x[:, 0] + 100 * nodes)
    fit = SimpleNamespace(program=SimpleNamespace(likelihood=1, log_prior=2), guide=3)
    found = study.elbo_per_image(fit, torch.arange(450.0)[:, None])
    assert found.tolist() == [1200.0 + i for i in range(450)]
    assert taken == [200, 200, 50]


# --- rows that are missing


def test_missing_rows_are_trained_and_scored_with_their_seconds(monkeypatch):
    fit = SimpleNamespace(
        stop=SimpleNamespace(status="converged"),
        cost=SimpleNamespace(steps=7),
        compiled={"used": 1},
    )
    monkeypatch.setattr(study, "train", lambda row, steps, seed=0: fit)
    monkeypatch.setattr(study, "score", lambda fit: {"nll": 2.0})
    cpu, wall = iter([1.0, 3.0, 4.5]), iter([10.0, 15.0])
    clock = SimpleNamespace(process_time=lambda: next(cpu), perf_counter=lambda: next(wall))
    monkeypatch.setattr(study, "time", clock)
    kept = {}
    study.scores(9, kept.__setitem__, {"beta 4": 1}, ("beta 4", "plain"))
    assert kept == {
        "plain": {
            "fit": "converged",
            "steps": 7,
            "compiled": True,
            "nll": 2.0,
            "train_seconds": 2.0,
            "seconds": 3.5,
            "wall": 5.0,
        }
    }


def test_other_seeds_are_scored_if_missing(monkeypatch):
    monkeypatch.setattr(study, "train", lambda row, steps, seed: (row, steps, seed))
    monkeypatch.setattr(study, "score", lambda fit: fit)
    kept = {}
    study.others(9, kept.__setitem__, {"plain, seed 1": 0}, ("plain", "beta 4"))
    assert kept == {
        "beta 4, seed 1": ("beta 4", 9, 1),
        "plain, seed 2": ("plain", 9, 2),
        "beta 4, seed 2": ("beta 4", 9, 2),
    }


class Report:
    """A gap report of two images whose columns are told apart by their values."""

    faults = ("a fault",)
    data = (
        SimpleNamespace(identity_error_nats=-0.3, label="a", part="train", kl_nats=1.0),
        SimpleNamespace(identity_error_nats=0.2, label="b", part="held out", kl_nats=5.0),
    )

    def mean(self, column, part):
        return [column, part]

    def worst(self):
        return [1, 0]


def test_every_family_has_the_columns_of_its_gap_report(monkeypatch):
    plain = SimpleNamespace(entry="entry")
    fits, reports = [], []
    monkeypatch.setattr(study, "train", lambda row, steps: plain)
    monkeypatch.setattr(study.guides, "fit", lambda *a, **k: fits.append((a, k)) or "fit")
    monkeypatch.setattr(
        study, "gap_report", lambda fit, rows: reports.append((fit, rows)) or Report()
    )
    cpu = iter([1.0, 3.0, 5.0, 8.0])
    monkeypatch.setattr(study, "time", SimpleNamespace(process_time=lambda: next(cpu)))
    kept = {}
    study.bars(800, kept.__setitem__, {"iwae5000": 0, "amortized_full": 0}, rows=3)
    assert list(kept) == ["amortized", "amortized_flow"]
    assert reports == [(plain, 3), ("fit", 3)]
    assert fits == [
        (
            ("entry", "amortized_flow"),
            {"given": plain, "steps": 800, "patience": 100, "anneal": 400},
        )
    ]
    row = kept["amortized"]
    assert (row["seconds"], row["faults"], row["images"]) == (2.0, ["a fault"], 2)
    assert row["pareto_k held out"] == ["pareto_k", "held out"]
    assert row["kl_nats train"] == ["kl_nats", "train"]
    assert row["identity_worst"] == 0.3
    assert row["worst"] == {"label": "b", "part": "held out", "kl_nats": 5.0}
    assert len(row) == 3 + 2 * 10 + 2
    assert kept["amortized_flow"]["seconds"] == 3.0


def test_complete_bars_train_nothing(monkeypatch):
    monkeypatch.setattr(study, "train", lambda *a: pytest.fail("trained"))
    study.bars(9, pytest.fail, dict.fromkeys([*PLAIN, "iwae5000"], 0))


def test_importance_weighting_is_compared_with_the_grid_on_fifty_images(monkeypatch):
    """Errors of -1 and +3 around the exact values: their mean is 1, the largest 3."""
    test = {"x": torch.zeros(60, 2), "label": torch.arange(60)}
    plain = SimpleNamespace(
        data=Data(train={}, test=test, size=9, coords={"image": []}),
        entry=SimpleNamespace(dtype=torch.float64),
        program="program",
    )
    few = []
    moved = SimpleNamespace(guide="guide")
    exact = torch.tensor([5.0, 6.0])
    monkeypatch.setattr(study, "train", lambda row, steps: plain)
    monkeypatch.setattr(study.guides, "transfer", lambda fit, data: few.append(data) or moved)
    monkeypatch.setattr(study, "enough", lambda fit: SimpleNamespace(log_evidence=lambda x: exact))
    monkeypatch.setattr(study, "LogDensity", lambda program, data: (program, data))
    asked = []

    def weights(density, guide, draws, generator, chunk):
        asked.append((density[0], guide, draws, generator.initial_seed(), chunk))
        return torch.tensor([-1.0, 3.0])

    monkeypatch.setattr(study, "unit_log_weights", weights)
    monkeypatch.setattr(study, "_refined_weights", lambda *a: torch.tensor([0.5, 0.5]))
    monkeypatch.setattr(study, "_defensive_weights", lambda *a: torch.tensor([0.0, -0.25]))
    monkeypatch.setattr(study, "iwae_bound_nats", lambda w: exact + w)
    kept = {}
    study.bars(9, kept.__setitem__, dict.fromkeys(PLAIN, 0))
    assert kept == {
        "iwae5000 refined": {"mean_error": 0.5, "largest": 0.5, "images": 2},
        "iwae5000 defensive": {"mean_error": -0.125, "largest": 0.25, "images": 2},
        "iwae5000": {"mean_error": 1.0, "largest": 3.0, "images": 2},
    }
    assert asked == [("program", "guide", 5000, 1, 500)]
    (data,) = few
    assert (len(data.train["x"]), data.size, data.test, data.coords) == (50, 50, None, {})
    assert data.train["label"].tolist() == list(range(50))


class Q:
    """A q that is the posterior itself: Normal(x / 2, 1/2) of x = z + e."""

    def __init__(self, x):
        self.law = torch.distributions.Normal(x / 2, math.sqrt(0.5))

    def draw(self, noise):
        return self.law.loc + self.law.scale * noise

    def log_prob(self, z):
        return self.law.log_prob(z).sum(-1)


@pytest.fixture
def exact_q(monkeypatch):
    x = torch.tensor([[0.5, 1.0], [-1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(study.LocalQ, "of", lambda guide: Q(x))
    return x, linear_fit(x, x), SimpleNamespace(guide="guide")


def test_weights_of_the_exact_posterior_are_the_evidence(exact_q, monkeypatch):
    x, plain, moved = exact_q
    asked = []
    monkeypatch.setattr(study, "refine", lambda target, q, x, steps: asked.append(steps) or Q(x))
    weights = study._refined_weights(plain, moved, x, draws=700)
    assert weights.shape == (700, 3)
    assert asked == [50]
    assert torch.allclose(weights, evidence(x).expand(700, 3), atol=1e-10)


def test_defensive_weights_average_to_the_evidence_and_are_bounded(exact_q):
    """Their mean over draws of (q + prior) / 2 is p(x); they are at most 2 p(x | z)."""
    x, plain, moved = exact_q
    weights = study._defensive_weights(plain, moved, x, draws=4000)
    assert weights.shape == (4000, 3)
    ratio = (weights - evidence(x)).exp()
    error = ratio.std(0) / math.sqrt(4000)
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()
    # q is the posterior: the weight over p(x) is 2 q / (q + prior), at most 2
    assert 1.5 < float(ratio.max()) <= 2.0 + 1e-9
    noise = torch.randn(4000, 3, 2, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    q = Q(x)
    for place, z in ((0, q.draw(noise[0])), (1999, q.draw(noise[1999])), (2000, noise[2000])):
        own, prior = q.log_prob(z), standard_normal(z)
        expected = evidence(x) + own - torch.logaddexp(own, prior) + math.log(2)
        assert weights[place].tolist() == pytest.approx(expected.tolist())


# --- parts


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("part", ["scores", "others", "bars"])
def test_a_part_keeps_every_row_with_the_steps_it_asked_for(monkeypatch, tmp_path, part, quick):
    asked = []

    def run(steps, keep, known, rows):
        asked.append((steps, dict(known), rows))
        keep("one", {"a": 0.123456, "b": "text"})

    monkeypatch.setattr(study, part, run)
    Kept(tmp_path / "rows.json").put("old", 1)
    given = work(tmp_path, quick)
    steps = 200 if quick else 2000
    assert study.measure(part, given) == {
        "old": 1,
        "one": {"steps_asked": steps, "a": 0.123456, "b": "text"},
    }
    few = 4 if quick else 20
    names = ("plain", "beta 4") if quick else tuple(study.ROWS)
    assert asked == [(steps, {"old": 1}, few if part == "bars" else names)]
    assert given.progress.lines == [f"{part} one: {{'a': 0.1235, 'b': 'text'}}"]
    assert json.loads((tmp_path / "rows.json").read_text())["old"] == 1
