"""laplace-torch against the `laplace` family; only the errors are tested without it."""

import importlib.util

import pytest
import torch

import guides
import zoo
from benchmarks.studies.lora_head.peer import Approximation
from zoo.errors import UsageError

INSTALLED = importlib.util.find_spec("laplace") is not None
needs_it = pytest.mark.skipif(
    not INSTALLED, reason="needs laplace-torch; pip install -e '.[peers]' brings it"
)


@pytest.fixture(scope="module")
def data():
    return zoo.load("lora_head", form="last_layer").load_data()


def test_what_is_wrong_is_named(data, monkeypatch):
    with pytest.raises(UsageError, match="structure is 'diag'; accepted: kron, full"):
        Approximation(data, torch.zeros(7, 33), "diag")
    monkeypatch.setitem(__import__("sys").modules, "laplace", None)
    with pytest.raises(UsageError, match="laplace-torch is not installed"):
        Approximation(data, torch.zeros(7, 33), "kron")


@needs_it
@pytest.mark.filterwarnings("ignore")
def test_our_laplace_has_its_mean_and_covariance(data):
    """For a linear last layer the Gauss-Newton matrix is the Hessian.

    The library computes parts of it in single precision.
    """
    fit = guides.fit(zoo.load("lora_head", form="last_layer"), "laplace", seed=0, data=data)
    ours = fit.guide.get_posterior()
    mode = ours.loc.detach().reshape(-1, 33)
    mean, covariance = Approximation(data, mode, "full").moments()
    assert (mean - ours.loc).abs().max() < 1e-9
    assert (
        covariance - ours.covariance_matrix
    ).abs().max() < 1e-5 * ours.covariance_matrix.abs().max()
    other, _ = Approximation(data, mode + 0.1, "full").moments()
    assert (other - ours.loc).abs().max() > 0.05  # large enough to reveal it
    head = Approximation(data, mode, "full").draws(4000).reshape(4000, -1)
    z = (head.mean(0) - ours.loc) / (ours.covariance_matrix.diagonal() / 4000).sqrt()
    assert z.abs().max() < 5  # 231 comparisons
    assert ((head.std(0) / ours.stddev).log().abs() < 5 / (2 * 4000) ** 0.5).all()
    assert Approximation(data, mode, "kron").draws(3).shape == (3, 7, 33)
