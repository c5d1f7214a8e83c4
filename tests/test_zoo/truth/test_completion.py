"""References whose local latents are completed from those of a marginal program."""

import inspect
from types import SimpleNamespace

import pytest
import torch

from zoo.truth import completion as module
from zoo.truth.completion import completed
from zoo.types import Analytic, Data


@pytest.fixture
def marginal(monkeypatch):
    """An entry of another name, with or without a closed form; what was asked of it."""
    asked = SimpleNamespace(exact=None, names=[], draws=[])

    def load(name):
        asked.names.append(name)
        return SimpleNamespace(load_data=lambda: "its data", exact=lambda data: asked.exact)

    monkeypatch.setattr(module, "load", load)
    return asked


def complete(draws, data):
    return {**draws, "local": draws["m"] + data.train["shift"]}


DATA = Data(train={"shift": torch.tensor(10.0)})


def test_exact_draws_are_grouped_like_four_chains(marginal):
    def sample(n, seed):
        marginal.draws.append((n, seed))
        return {"m": torch.arange(float(n)), "v": torch.zeros(n, 2)}

    marginal.exact = Analytic(sample=sample)
    found = completed("base", complete, draws=11)(DATA)
    assert marginal.names == ["base"]
    assert marginal.draws == [(8, 1)]
    assert found.draws["m"].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert found.draws["v"].shape == (4, 2, 2)
    assert torch.equal(found.draws["local"], found.draws["m"] + 10)
    assert found.provenance == {
        "of": "exact draws of base, completed by exact draws of the local latents"
    }
    assert (found.rhat_max, found.ess_min, dict(found.gates)) == (None, None, {})
    completed("base", complete)(DATA)
    assert marginal.draws[-1] == (1000, 1)
    assert inspect.signature(completed).parameters["draws"].default == 1000


@pytest.mark.parametrize(("draws", "each"), [(6, 2), (7, 2), (300, 5)])
def test_stored_draws_keep_their_chains_and_gates(monkeypatch, marginal, draws, each):
    values = torch.arange(15.0).reshape(3, 5)
    stored = SimpleNamespace(
        posterior=SimpleNamespace(sample_shape=(3, 5), draws={"m": values}),
        gates={"rhat": True},
        rhat_max=1.001,
        ess_min=900.0,
        provenance={"seed": 3, "of": "base"},
    )
    seen = []
    monkeypatch.setattr(module.stored, "load", lambda entry, data: seen.append(data) or stored)
    found = completed("base", complete, draws=draws)(DATA)
    assert seen == ["its data"]
    assert torch.equal(found.draws["m"], values[:, :each])
    assert torch.equal(found.draws["local"], values[:, :each] + 10)
    assert (found.gates, found.rhat_max, found.ess_min) == ({"rhat": True}, 1.001, 900.0)
    assert found.provenance == {
        "seed": 3,
        "of": "draws of base, completed by exact draws of the local latents",
    }
