"""The adapter entry: density, quantities, orbit of raw sites, tasks, cache, baselines.

Density and quantities are compared with plain formulas.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.models.adapters import _backbone as backbone
from zoo.models.adapters import _baselines as lora_baselines
from zoo.models.adapters import _digit_tasks as digit_tasks
from zoo.models.adapters import _updates as adapters
from zoo.models.adapters import lora_head

FORMS = [("rank", 1), ("rank", 2), ("core", 2), ("subspace", 2), ("last_layer", 1)]


def subject(form="rank", rank=1, **options):
    entry = zoo.load("lora_head", form=form, rank=rank, **options)
    data = entry.load_data()
    return entry, data, LogDensity(entry.program(data), data)


def some_points(density, n=3):
    return torch.randn(
        n, density.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(("form", "rank"), FORMS)
def test_the_density_is_the_adapted_network_by_plain_matrices(form, rank):
    _, data, density = subject(form, rank)
    w = {k: v.numpy() for k, v in backbone.backbone().items()}
    x, label = data.train["x"].numpy(), data.train["label"].numpy()
    for u in some_points(density):
        z = {k: v.numpy() for k, v in density.constrain(u).items()}
        w2, w3, b3, h = w["w2"], w["w3"], w["b3"], x
        left, _, right = np.linalg.svd(w2)
        if form == "rank":
            w2 = w2 + adapters.RANK_SCALE / math.sqrt(rank) * z["B"] @ z["A"]
        elif form == "last_layer":
            w3, b3 = (
                w3 + adapters.LAST_SCALE * z["head"][:, :32],
                b3 + adapters.LAST_SCALE * z["head"][:, 32],
            )
        else:
            middle = z["core"] if form == "core" else np.diag(z["coefficient"])
            sign = np.sign(left[np.abs(left).argmax(0), np.arange(32)])[:rank]
            w2 = w2 + adapters.CORE_SCALE * (left[:, :rank] * sign) @ middle @ (
                right[:rank] * sign[:, None]
            )
        if form != "last_layer":
            h = np.tanh(x @ w2.T + w["b2"])
        logits = h @ w3.T + b3
        likelihood = (logits[np.arange(len(label)), label] - np.log(np.exp(logits).sum(1))).sum()
        prior = -0.5 * (u**2).sum().item() - 0.5 * len(u) * math.log(2 * math.pi)
        assert density(u).item() == pytest.approx(likelihood + prior, abs=1e-8)


def test_quantities_do_not_move_along_the_orbit_of_raw_sites():
    """(A, B) -> (R^-1 A, B R) preserves the update and, for a rotation, the density.

    The sites themselves change.
    """
    entry, data, density = subject("rank", 2)
    u = some_points(density)
    z = density.constrain(u)
    angle = 1.1
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    turned = {"A": turn.T @ z["A"], "B": z["B"] @ turn}
    assert torch.allclose(density.batch(density.unconstrain(turned)), density.batch(u), atol=1e-9)
    assert not torch.allclose(turned["A"], z["A"])
    any_matrix = torch.tensor([[2.0, 0.3], [-0.4, 0.7]], dtype=torch.float64)
    moved = {"A": torch.linalg.inv(any_matrix) @ z["A"], "B": z["B"] @ any_matrix}
    for name, quantity in entry.quantities.items():
        for other in (turned, moved):
            assert torch.allclose(quantity.fn(other, data), quantity.fn(z, data), atol=1e-9), name


@pytest.mark.parametrize(("form", "rank"), FORMS)
def test_quantities_are_what_they_say(form, rank):
    entry, data, density = subject(form, rank)
    draws = density.constrain(some_points(density, 6).reshape(2, 3, -1))
    odds, change = (entry.quantities[n].fn(draws, data) for n in ("log_odds", "update"))
    assert odds.shape == (2, 3, 12)
    assert change.shape == (2, 3, 4)
    one = {k: v[1, 2] for k, v in draws.items()}
    row = data.coords["probe_row"][4]
    p = adapters.adapted(7)(one, data.test["x"][row : row + 1]).softmax(-1)[
        0, data.test["label"][row]
    ]
    assert odds[1, 2, 4].item() == pytest.approx((p / (1 - p)).log().item(), rel=1e-9)
    left, right = adapters.singular("w3" if form == "last_layer" else "w2")
    assert change[1, 2, 0].item() == pytest.approx(
        (left[:, 0] @ adapters.update(one) @ right[:, 0]).item(), abs=1e-12
    )
    if form == "core":
        assert torch.allclose(change[1, 2, :2], adapters.CORE_SCALE * one["core"].diagonal())
        assert change[1, 2, 2:].abs().max() < 1e-12


def test_no_image_is_used_twice_and_labels_nest():
    images, digit = backbone.digits()
    seen = {images[i].tobytes() for i in backbone.training_rows()}
    assert set(digit[backbone.training_rows()]) == set(backbone.CLASSES)
    small, large = (
        digit_tasks.make_task("new_classes", 64, 3),
        digit_tasks.make_task("new_classes", 256, 3),
    )
    assert np.array_equal(small.train, large.train[:64])
    assert np.array_equal(small.test, large.test)
    train, test = ({image.tobytes() for image in part} for part in (large.train, large.test))
    assert not train & test
    assert not (train | test) & seen
    assert not np.array_equal(digit_tasks.make_task("new_classes", 64, 4).train, small.train)


def test_the_tasks_do_what_their_table_says():
    turned, inverted = (
        digit_tasks.make_task("rotation", 64, 0),
        digit_tasks.make_task("inversion", 64, 0),
    )
    assert turned.test.shape == inverted.test.shape == (350, 8, 8)
    assert set(turned.outside) == {"other classes", "other rotation"}
    noise = inverted.train - (1 - _originals(inverted.train))
    assert noise.std() == pytest.approx(0.2, abs=0.09)  # clipped at 0 and 1
    assert inverted.train.mean() > 0.5 > turned.train.mean()
    assert np.array_equal(inverted.train, digit_tasks.make_task("inversion", 64, 0).train)


def _originals(changed):
    """Return the closest clean image of every inverted one."""
    images = backbone.digits()[0].reshape(-1, 64)
    return np.stack(
        [
            images[np.square((1 - image.reshape(-1)) - images).sum(1).argmin()].reshape(8, 8)
            for image in changed
        ]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "lora"}, "'lora'"),
        ({"rank": 9}, "got 9"),
        ({"task": "shear"}, "'shear'"),
        ({"labels": 3}, "got 3"),
    ],
)
def test_bad_options_are_refused_with_what_is_accepted(options, said):
    with pytest.raises(UsageError, match=said) as caught:
        zoo.load("lora_head", **options).load_data()
    assert "accepted" in str(caught.value)


# -- the backbone's cache ----------------------------------------------------------------------


def test_the_backbone_reads_digits():
    images, digit = backbone.digits()
    rows = np.setdiff1d(np.arange(len(digit)), backbone.training_rows())
    rows = rows[np.isin(digit[rows], backbone.CLASSES)]
    logits = adapters.frozen_logits(7, backbone.features(images[rows], backbone.backbone()))
    assert (logits.argmax(-1).numpy() == digit[rows]).mean() > 0.96


def test_a_cached_backbone_is_read_only_where_its_digest_matches(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    weights = backbone.backbone()
    path = backbone._path()
    assert backbone._read(path) is None
    backbone._store(path, weights)
    again = backbone._read(path)
    assert again is not None
    assert all(torch.equal(again[k], weights[k]) for k in weights)
    assert all(
        torch.equal(v * backbone.GRID, (v * backbone.GRID).round()) for v in weights.values()
    )
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert backbone._read(path) is None
    path.with_suffix(".json").write_text(json.dumps({"other": 1}))
    assert backbone._read(path) is None


# -- baselines ---------------------------------------------------------------------------------


def test_the_temperature_minimizes_the_log_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, dtype=torch.float64, generator=generator)
    label = torch.distributions.Categorical(logits=logits / 2.5).sample()
    found = lora_baselines.fit_temperature(logits, label)

    def loss(t):
        return -(logits / t).log_softmax(-1).gather(-1, label[:, None]).mean().item()

    grid = np.geomspace(0.05, 50, 2000)
    assert found == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=0.01)


def test_baselines_are_probabilities_and_temperature_keeps_the_order(monkeypatch):
    monkeypatch.setattr(lora_baselines, "STEPS", 40)
    entry, data, density = subject("core", 2)
    made = entry.baselines(data, 0, **entry.settings)
    assert set(made.probabilities) == {"mle", "map", "temperature scaling", "ensemble"}
    for sets in made.probabilities.values():
        assert set(sets) == {"test", "other classes", "other rotation"}
        for p in sets.values():
            assert torch.allclose(p.sum(-1), torch.ones(len(p), dtype=torch.float64))
    mle, scaled = (
        made.probabilities["mle"]["test"],
        made.probabilities["temperature scaling"]["test"],
    )
    assert torch.equal(mle.argmax(-1), scaled.argmax(-1))
    draws = density.constrain(some_points(density, 5))
    p = made.predict(draws)
    assert p["test"].shape == (5, 350, 7)
    assert torch.allclose(p["test"], adapters.adapted(7)(draws, data.test["x"]).softmax(-1))


def test_map_ends_at_the_mode_of_the_program(monkeypatch):
    _, data, density = subject("core", 1)
    trained, _ = lora_baselines._train(
        adapters.adapted(7), {"core": (1, 1)}, data.train["x"], data.train["label"], 0
    )
    _, gradient = density.gradient(trained["core"][-1].reshape(-1))
    assert gradient.abs().max() < 0.05  # nats per prior standard deviation
    _, elsewhere = density.gradient(trained["core"][0].reshape(-1))
    assert elsewhere.abs().max() > gradient.abs().max()


@pytest.mark.parametrize("rank", [1, 4])
def test_the_prior_sd_of_an_update_does_not_depend_on_the_rank(rank):
    """Entries are sums of `rank` products of standard normals, scaled to sd 0.5."""
    generator = torch.Generator().manual_seed(0)
    draws = {
        name: torch.randn(200, *shape, dtype=torch.float64, generator=generator)
        for name, shape in adapters.shapes("rank", rank, 7).items()
    }
    delta = adapters.update(draws)
    # entries of one update share rows of A and B: one mean square per draw is one observation
    squares = delta.square().mean((1, 2))
    assert abs(float(squares.mean()) - 0.25) < 4 * float(squares.std()) / 200**0.5
    w = {k: v.double() for k, v in backbone.backbone().items()}
    x = torch.randn(3, 64, dtype=torch.float64, generator=generator)
    expected = torch.tanh(x @ (w["w2"] + delta).mT + w["b2"]) @ w["w3"].T + w["b3"]
    torch.testing.assert_close(adapters.adapted(7)(draws, x), expected)


def test_probes_are_test_rows_at_even_ranks_of_the_log_odds(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(27, 3, dtype=torch.float64, generator=generator)
    unit = torch.arange(27) % 3
    p = logits.softmax(-1).numpy()[np.arange(27), unit]
    found = lora_head.log_odds_of(logits, unit)
    np.testing.assert_allclose(found, np.log(p) - np.log1p(-p), rtol=1e-10)
    monkeypatch.setattr(lora_head, "frozen_logits", lambda classes, hidden: hidden)
    rows = lora_head.probe_rows(3, logits, unit)
    assert rows.tolist() == np.argsort(p)[2:26:2].tolist()
