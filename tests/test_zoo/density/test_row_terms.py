"""The log density of a program row by row."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of

from zoo.density import row_terms as module
from zoo.density.log_density import LogDensity
from zoo.density.row_terms import ProgramTerms, has_grid, row_numbers, width_of
from zoo.types import Data

Y = torch.tensor([0.3, -1.4, 2.2], dtype=torch.float64)
X = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


def density(width=2, size=3):
    def program(x, y, index=None):
        with pyro.plate("unit", size, subsample=index):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(width - 1), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(x * z.sum(-1), scale), obs=y)

    data = Data(train={"x": X, "y": Y}, observed=("y",), batched=("x", "y"), size=3)
    return LogDensity(program, data)


def by_hand(i, u):
    """log N(u) for both coordinates (log scale is normal), and the normal likelihood."""
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum()
    return torch.distributions.Normal(X[i] * u[1:].sum(), u[0].exp()).log_prob(Y[i]), prior


def shared(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.mark.parametrize(("width", "grid"), [(2, True), (3, True), (4, False)])
def test_the_values_of_a_row_and_whether_a_grid_can_hold_them(width, grid):
    found = density(width)
    assert width_of(found) == width
    assert has_grid(found) is grid


def test_a_program_without_rows_has_no_grid():
    found = density_of(shared, y=torch.zeros((), dtype=torch.float64))
    assert width_of(found) == 0
    assert has_grid(found) is False
    assert row_numbers(found).shape == (0, 1)


def test_row_numbers_are_a_column():
    assert row_numbers(density()).tolist() == [[0.0], [1.0], [2.0]]
    assert row_numbers(density()).dtype == torch.float64


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_terms_of_rows_in_any_order(batch):
    rows = torch.tensor([[2.0], [0.0], [2.0]])
    z = 0.5 * torch.randn(*batch, 3, 2, generator=torch.Generator().manual_seed(0))
    terms = ProgramTerms(density())
    likelihood, prior = terms.terms(rows, z)
    assert likelihood.shape == prior.shape == (*batch, 3)
    assert likelihood.dtype == prior.dtype == torch.float32, "that of the points"
    flat = z.reshape(-1, 3, 2).double()
    for n in range(len(flat)):
        for column, i in enumerate((2, 0, 2)):
            like, before = by_hand(i, flat[n, column])
            assert float(likelihood.reshape(-1, 3)[n, column]) == pytest.approx(
                float(like), rel=1e-5
            )
            assert float(prior.reshape(-1, 3)[n, column]) == pytest.approx(float(before), rel=1e-5)
    torch.testing.assert_close(terms.paired(rows, z), likelihood + prior)


def test_log_densities_at_points_of_a_grid_are_evaluated_once(monkeypatch):
    terms = ProgramTerms(density())
    points = torch.tensor([[0.0, 1.0], [0.5, -0.5]], dtype=torch.float64)
    prepared = terms.prepare(points)
    assert prepared.points is points
    asked = []
    paired = terms.paired
    monkeypatch.setattr(
        terms, "paired", lambda x, z: asked.append((x[:, 0].tolist(), len(z))) or paired(x, z)
    )
    found = terms.log_prob(torch.tensor([[2.0], [0.0]]), prepared)
    for r, i in enumerate((2, 0)):
        for p in range(2):
            assert float(found[r, p]) == pytest.approx(float(sum(by_hand(i, points[p]))))
    assert asked == [([2.0, 0.0], 2)]
    again = terms.log_prob(torch.tensor([[0.0], [1.0], [2.0], [0.0]]), prepared)
    assert asked[1:] == [([1.0], 2)]
    assert torch.equal(again[0], found[1])
    assert torch.equal(again[3], found[1])
    assert torch.equal(again[2], found[0])
    terms.log_prob(torch.tensor([[1.0]]), prepared)
    assert len(asked) == 2


def test_points_are_evaluated_in_parts(monkeypatch):
    """So many rows times points at once, of 64 numbers each."""
    monkeypatch.setattr(module, "NUMBERS", 64 * 2 * 3)
    terms = ProgramTerms(density())
    prepared = terms.prepare(torch.zeros(7, 2, dtype=torch.float64))
    sizes = []
    paired = terms.paired
    monkeypatch.setattr(terms, "paired", lambda x, z: sizes.append(z.shape) or paired(x, z))
    terms.log_prob(torch.tensor([[0.0], [1.0]]), prepared)
    assert sizes == [(3, 2, 2), (3, 2, 2), (1, 2, 2)]
    monkeypatch.setattr(module, "NUMBERS", 1)
    sizes.clear()
    terms.log_prob(torch.tensor([[2.0]]), prepared)
    assert sizes == [(1, 1, 2)] * 7


def test_no_more_than_so_many_log_densities_are_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 8)
    terms = ProgramTerms(density())
    prepared = terms.prepare(torch.zeros(4, 2, dtype=torch.float64))
    terms.log_prob(torch.tensor([[0.0], [1.0]]), prepared)
    assert sorted(prepared.rows) == [0.0, 1.0]
    terms.log_prob(torch.tensor([[2.0]]), prepared)
    assert sorted(prepared.rows) == [2.0]


def test_the_limits():
    assert (module.WIDEST, module.NUMBERS, module.KEPT) == (3, 1_000_000, 30_000_000)
