"""The reader of posteriordb on a small copy, and parts of its programs by brute force."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

import zoo
from benchmarks.reference import find as references
from zoo.distributions.univariate import HalfStudentT, PositiveNormal
from zoo.errors import DataError, UnknownNameError, UsageError
from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb import arma, hmm, lotka_volterra, one_comp
from zoo.models.posteriordb._ode import refined, rk4, split
from zoo.types import Data

NAME = "kidiq-kidscore_momiq"
RAW = {
    "N": 3,
    "kid_score": [65.0, 98, 85],
    "mom_iq": [121.1, 89.3, 115.4],
    "table": [[1, 2], [3, 4], [5, 6]],
}


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy with one posterior, `data` in a zip, draws in plain JSON."""
    root = tmp_path / "posterior_database"
    draws = root / "reference_posteriors" / "draws"
    for folder in (
        root / "posteriors",
        root / "data" / "data",
        root / "data" / "info",
        draws / "draws",
        draws / "info",
    ):
        folder.mkdir(parents=True)
    card = {
        "name": NAME,
        "model_name": "m",
        "data_name": "kidiq",
        "reference_posterior_name": "ref",
        "dimensions": {"beta": 2},
    }
    (root / "posteriors" / f"{NAME}.json").write_text(json.dumps(card))
    (root / "data" / "info" / "kidiq.info.json").write_text(
        json.dumps({"title": "Scores of\nchildren"})
    )
    with zipfile.ZipFile(root / "data" / "data" / "kidiq.json.zip", "w") as archive:
        archive.writestr("kidiq.json", json.dumps(RAW))
    chain = {"sigma": [1.0, 2.0], **{f"beta[{j}]": [10.0 * j, 10.0 * j + 1] for j in (2, 1)}}
    chain |= {f"L[{i},{j}]": [float(i), float(j)] for i in (1, 2, 3) for j in (1, 2)}
    (draws / "draws" / "ref.json").write_text(json.dumps([chain, chain, chain]))
    record = {
        "diagnostics": {
            "r_hat": [1.001, 1.004],
            "effective_sample_size_bulk": [9000, 9500],
            "effective_sample_size_tail": [8999.5, 9100],
            "divergent_transitions": [0, 0, 0],
            "expected_fraction_of_missing_information": [0.9, 0.8, 1.0],
        },
        "checks_made": {"r_hat_below_1_01": True},
        "inference": {"method_arguments": {"thin": 10}},
    }
    (draws / "info" / "ref.info.json").write_text(json.dumps(record))
    monkeypatch.setenv(posteriordb.ENVIRONMENT, str(tmp_path))
    return root


# -- reader ------------------------------------------------------------------------------------


def test_reads_cards_data_draws_and_their_record(copy: Path) -> None:
    assert posteriordb.names() == posteriordb.names(copy) == [NAME]
    assert posteriordb.info(NAME) == posteriordb.PosteriorInfo(
        name=NAME, model="m", data="kidiq", reference="ref", dimensions={"beta": 2}
    )
    data = posteriordb.data(NAME)
    assert data["N"] == 3
    assert torch.equal(data["table"], f64(1, 2, 3, 4, 5, 6).reshape(3, 2))
    assert posteriordb.titles(NAME) == (
        "Scores of children",
        "BSD-3-Clause (posteriordb's default)",
    )
    draws = posteriordb.draws(NAME)
    assert {k: tuple(v.shape) for k, v in draws.items()} == {
        "sigma": (3, 2),
        "beta": (3, 2, 2),
        "L": (3, 2, 3, 2),
    }
    assert torch.equal(draws["beta"][0], f64(10, 20, 11, 21).reshape(2, 2))  # [draw, coefficient]
    assert torch.equal(draws["L"][1, 0], f64(1, 1, 2, 2, 3, 3).reshape(3, 2))
    record = posteriordb.reference_info(NAME)
    assert (record.rhat_max, record.ess_min, record.divergences, record.ebfmi_min) == (
        1.004,
        8999.5,
        0,
        0.8,
    )
    assert record.gates == {"r_hat_below_1_01": True}
    assert record.arguments == {"thin": 10}


def test_without_a_copy_the_error_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(posteriordb.ENVIRONMENT, raising=False)
    entry = zoo.load(f"posteriordb/{NAME}")  # the card needs no copy
    for call in (posteriordb.names, entry.load_data):
        with pytest.raises(
            UsageError,
            match=(
                r"POSTERIORDB is not set; clone https://github.com/stan-dev/posteriordb and set"
                r" POSTERIORDB"
            ),
        ):
            call(*([] if call is posteriordb.names else [0]))
    with pytest.raises(UsageError, match="There is no posteriordb at"):
        posteriordb.folder(tmp_path)


@pytest.mark.parametrize("name", ["kidiq-kidscore_momiqq", "../posteriors/x", ""])
def test_unknown_posteriors_are_refused(copy: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match="kidiq-kidscore_momiq"):
        posteriordb.info(name)


def _ragged(path: Path) -> None:
    path.write_text(json.dumps([{"sigma": [1.0, 2.0]}, {"sigma": [1.0]}]))


DATA, DRAWS = "data/data/kidiq.json.zip", "reference_posteriors/draws/draws/ref.json"
DAMAGES = {
    "cut zip": (DATA, lambda p: p.write_bytes(p.read_bytes()[:40]), posteriordb.data),
    "flipped byte": (
        DATA,
        lambda p: p.write_bytes(p.read_bytes().replace(b"kid_score", b"kid_scorf", 1)),
        posteriordb.data,
    ),
    "empty zip": (DATA, lambda p: zipfile.ZipFile(p, "w").close(), posteriordb.data),
    "not json": (DRAWS, lambda p: p.write_text("[{"), posteriordb.draws),
    "ragged chains": (DRAWS, _ragged, posteriordb.draws),
    "other parameters": (
        DRAWS,
        lambda p: p.write_text('[{"a": [1]}, {"b": [1]}]'),
        posteriordb.draws,
    ),
    "missing element": (
        DRAWS,
        lambda p: p.write_text('[{"a[1]": [1], "a[3]": [1]}]'),
        posteriordb.draws,
    ),
    "infinite": (DRAWS, lambda p: p.write_text('[{"a": [Infinity]}]'), posteriordb.draws),
    "odd column": (DRAWS, lambda p: p.write_text('[{"a[x]": [1]}]'), posteriordb.draws),
    "no draws": (DRAWS, Path.unlink, posteriordb.draws),
    "list for a card": (f"posteriors/{NAME}.json", lambda p: p.write_text("[]"), posteriordb.info),
    "card without data": (
        f"posteriors/{NAME}.json",
        lambda p: p.write_text('{"model_name": "m"}'),
        posteriordb.info,
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_give_one_sentence(copy: Path, damage: str) -> None:
    place, harm, read = DAMAGES[damage]
    read(NAME)
    harm(copy / place)
    with pytest.raises(DataError) as caught:
        read(NAME)
    text = str(caught.value)
    assert "\n" not in text
    assert Path(place).name in text or "lacks" in text
    assert "clone https://github.com/stan-dev/posteriordb" in text


def test_published_draws_become_a_stored_reference_for_their_data_only(copy: Path) -> None:
    entry = zoo.load(f"posteriordb/{NAME}")
    data = entry.load_data()
    found = references.find(entry, data)
    assert (found.kind, found.usable, found.rhat_max, found.ess_min) == (
        "stored",
        True,
        1.004,
        8999.5,
    )
    assert found.gates == {"r_hat_below_1_01": True, "no_divergences": True, "data": True}
    assert found.posterior is not None
    assert {k: tuple(v.shape) for k, v in found.posterior.draws.items()} == {
        "beta": (3, 2, 2),
        "sigma": (3, 2),
    }
    other = Data(train={**data.train, "y": data.train["y"] + 1.0}, observed=("y",))
    assert references.find(entry, other).kind == "none"
    record = copy / "reference_posteriors" / "draws" / "info" / "ref.info.json"
    record.write_text(record.read_text().replace("[0, 0, 0]", "[0, 3, 0]"))
    found = references.find(entry, data)
    assert not found.usable
    assert "no_divergences" in found.reason
    with pytest.raises(UsageError, match="published"):
        references.write(entry)


def test_the_command_line_takes_the_place_of_a_copy(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.cli import process as cli

    monkeypatch.setenv(posteriordb.ENVIRONMENT, "/nowhere")
    show = ["show", f"posteriordb/{NAME}"]
    assert cli.run(["--posteriordb", str(copy.parent), *show]) == 0
    assert "observations: 3" in capsys.readouterr().out
    assert cli.run(["--posteriordb", str(copy / "data"), *show]) == 2
    assert "There is no posteriordb at" in capsys.readouterr().err


# -- parts of the programs ---------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_forward_algorithm_equals_the_sum_over_all_paths(steps: int, kind: str) -> None:
    theta = f64(0.8, 0.2, 0.35, 0.65).reshape(2, 2)
    generator = torch.Generator().manual_seed(steps)
    if kind == "normal":
        y, emission = (
            5 * torch.rand(steps, generator=generator, dtype=torch.float64),
            dist.Normal(f64(1.0, 4.0), 1.0),
        )
    else:
        y = torch.rand(steps, 2, generator=generator, dtype=torch.float64)
        emission = dist.Exponential(f64(0.5, 1.0, 2.0, 3.0).reshape(2, 2)).to_event(1)
    found = hmm.hidden_markov(theta[0], theta[1], emission, steps).log_prob(y)
    emitted = torch.stack([emission.log_prob(row) for row in y])  # [step, state]
    paths = []
    for path in itertools.product((0, 1), repeat=steps):
        moves = sum(theta[a, b].log() for a, b in itertools.pairwise(path))
        paths.append(math.log(0.5) + moves + sum(emitted[t, k] for t, k in enumerate(path)))
    assert abs(found - torch.stack(paths).logsumexp(0)) < 1e-8
    pyros = super(
        hmm.HiddenMarkov, hmm.hidden_markov(theta[0], theta[1], emission, steps)
    ).log_prob(y)
    assert abs(found - pyros) < 1e-10


def test_hidden_markov_model_simulates_from_its_transitions() -> None:
    torch.manual_seed(3)
    theta = f64(0.9, 0.1, 0.3, 0.7).reshape(2, 2)
    y = hmm.hidden_markov(theta[0], theta[1], dist.Normal(f64(0.0, 100.0), 1.0), 4000).sample()
    share = (y > 50).double().mean().item()
    # the stationary share of state 2 is 0.25; the chain's autocorrelation 0.6 makes its variance
    # (1 + 0.6) / (1 - 0.6) larger
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 * 4 / 4000)


@pytest.mark.parametrize("theta", [-1.3, -0.4, 0.0, 0.7])
def test_arma_predictions_equal_the_recursion(theta: float) -> None:
    past = torch.randn(37, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mu, phi = f64(0.3)[0], f64(0.9)[0]
    error, before, expected = torch.zeros(()), mu, []
    for y in past:
        expected.append(mu + phi * before + theta * error)
        error, before = y - expected[-1], y
    found = arma.predictions(past, mu, phi, f64(theta)[0])
    assert torch.allclose(found, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_runge_kutta_is_of_fourth_order() -> None:
    def error(steps: int) -> float:
        grid, keep = refined((0.0, 0.5, 2.0), steps)
        found = rk4(lambda i, z: -z * z, f64(1.0), grid, keep)[:, 0]  # z = 1 / (1 + t)
        assert torch.equal(found[:1], f64(1.0))
        return (found - f64(1.0, 1 / 1.5, 1 / 3)).abs().max().item()

    assert error(10) < 1e-5
    assert 12 < error(10) / error(20) < 20  # 2^4 and the next order


def test_the_splitting_is_of_sixth_order_and_reversible() -> None:
    def pendulum(grid: list[float], keep: list[int], x: Tensor, y: Tensor) -> Tensor:
        # [node, 2]
        return split(
            lambda w, x, y: x + w * y, lambda w, y, x: y - w * x.sin(), (x, y), grid, keep
        )

    truth = integrate.solve_ivp(
        lambda t, z: (z[1], -math.sin(z[0])),
        (0.0, 3.0),
        (1.0, 0.5),
        rtol=1e-13,
        atol=1e-13,
        t_eval=(1.0, 3.0),
    ).y.T

    def error(steps: int) -> float:
        found = pendulum(*refined((0.0, 1.0, 3.0), steps), *f64(1.0, 0.5))
        assert torch.equal(found[0], f64(1.0, 0.5))
        return (found[1:] - torch.tensor(truth)).abs().max().item()

    assert error(4) < 2e-7
    assert 50 < error(6) / error(12) < 80  # 2^6 and the next orders
    grid, keep = refined((0.0, 1.0, 3.0), 3)
    end = pendulum(grid, keep, *f64(1.0, 0.5))[-1]
    assert torch.allclose(
        pendulum([-t for t in reversed(grid)], [len(grid) - 1], end[0], -end[1])[-1],
        f64(1.0, -0.5),
        atol=1e-12,
    )


def test_half_steps_are_numbered_in_order() -> None:
    grid, keep = refined((0.0, 1.0, 3.0), 2, first=4, power=2.0)
    assert grid == [0.0, 0.0625, 0.25, 0.5625, 1.0, 2.0, 3.0]
    assert keep == [0, 4, 6]
    halves = [0.0, *(t for a, b in itertools.pairwise(grid) for t in ((a + b) / 2, b))]
    # z = t^3, exact for order 4
    found = rk4(lambda i, z: f64(3 * halves[i] ** 2), f64(0.0), grid, keep)[:, 0]
    assert torch.allclose(found, f64(0.0, 1.0, 27.0), rtol=1e-12, atol=1e-12)


def test_populations_stay_finite_and_keep_the_first_integral() -> None:
    theta, start = f64(1.1, 0.05, 0.9, 0.03), f64(30.0, 4.0)
    # [year, species]
    z = lotka_volterra.log_populations(theta, start, tuple(float(t) for t in range(21))).exp()
    a, b, c, d = theta
    integral = d * z[:, 0] - c * z[:, 0].log() + b * z[:, 1] - a * z[:, 1].log()
    assert (integral - integral[0]).abs().max() < 2e-5
    years = tuple(float(t) for t in range(21))
    for rates, populations in (
        (f64(7.0, 7.0, 7.0, 7.0), f64(7.0, 0.1)),
        (f64(4.0, 0.2, 4.0, 0.2), f64(0.2, 7.0)),
        (f64(4.0, 4.0, 4.0, 4.0), f64(7.0, 0.2)),
    ):
        # the last two overflow without a ceiling
        assert torch.isfinite(lotka_volterra.log_populations(rates, populations, years)).all()


def test_concentrations_without_elimination_are_what_was_absorbed() -> None:
    times = (0.0, 0.5, 1.0, 1.5, 2.0)
    found = one_comp.concentrations(f64(0.8)[0], f64(1.0)[0], f64(0.0)[0], 30.0, 2.0, times)
    assert torch.allclose(found, 15.0 * (1 - torch.exp(-0.8 * f64(*times[1:]))), rtol=1e-5)
    for stiff in (1e-4, 1e-2, 1.0, 50.0):
        coarse, fine = (
            one_comp.concentrations(f64(0.8)[0], f64(stiff)[0], f64(1.2)[0], 30.0, 2.0, times, n)
            for n in (1, 4)
        )
        assert torch.allclose(coarse, fine, rtol=1e-4)


@pytest.mark.parametrize(
    ("ours", "scipys"),
    [
        (PositiveNormal(f64(1.0)[0], f64(0.5)[0]), stats.truncnorm(-2.0, math.inf, 1.0, 0.5)),
        (PositiveNormal(f64(-3.0)[0], f64(1.0)[0]), stats.truncnorm(3.0, math.inf, -3.0, 1.0)),
        (HalfStudentT(f64(3.0)[0], f64(10.0)[0]), None),
    ],
)
def test_positive_priors_are_normalized_and_sampled(
    ours: dist.TorchDistribution, scipys: object
) -> None:
    grid = torch.linspace(-30.0, 30.0, 60_001, dtype=torch.float64)  # log x
    mass = torch.trapezoid((ours.log_prob(grid.exp()) + grid).exp(), grid)
    assert abs(mass - 1.0) < 1e-6
    torch.manual_seed(0)
    x = ours.sample((4000,))
    assert (x > 0).all()
    reference = scipys.cdf if scipys is not None else lambda v: 2 * stats.t(3, 0, 10).cdf(v) - 1  # type: ignore[attr-defined]
    assert stats.kstest(x.numpy(), reference).pvalue > 1e-4
    assert ours.expand([3]).log_prob(x[:3]).shape == (3,)
