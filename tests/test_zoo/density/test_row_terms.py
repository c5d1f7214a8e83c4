"""The log density of a program row by row."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of

from zoo.density import row_terms as module
from zoo.density.log_density import LogDensity
from zoo.density.row_terms import ProgramTerms, has_grid, row_numbers, width_of
from zoo.density.unit_terms import many_unit_terms
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


@pytest.mark.parametrize("layer", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
def test_layers_that_torch_cannot_map_run_on_repeated_rows(layer):
    """A recurrent decoder: the terms of all rows sum to the density, in any order of rows."""
    torch.manual_seed(0)
    network, last = layer(1, 3, batch_first=True).double(), torch.nn.Linear(3, 1).double()
    for parameter in [*network.parameters(), *last.parameters()]:
        parameter.requires_grad_(False)
    y = torch.randn(3, 4, dtype=torch.float64)

    def program(y, index=None):
        with pyro.plate("unit", 3, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            mean = last(network(z[:, None, None].expand(-1, 4, 1))[0])[..., 0]
            pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    data = Data(train={"y": y}, observed=("y",), batched=("y",), size=3)
    whole = LogDensity(program, data)
    terms = ProgramTerms(whole)
    z = torch.randn(5, 3, 1, dtype=torch.float64)
    found = terms.paired(torch.arange(3.0)[:, None], z)
    expected = torch.stack([whole.evaluate(row[:, 0]) for row in z])
    torch.testing.assert_close(found.sum(-1), expected)
    turned = terms.paired(torch.tensor([[2.0], [0.0], [1.0]]), z[:, [2, 0, 1]])
    torch.testing.assert_close(turned, found[:, [2, 0, 1]])
    one = terms.paired(torch.tensor([[1.0], [1.0]]), z[:, [1, 1]])
    torch.testing.assert_close(one, found[:, [1, 1]])


@pytest.mark.parametrize("law", ["Multinomial", "OrderedLogistic"])
def test_laws_that_read_values_out_of_torch_are_evaluated_on_repeated_rows(law, caplog):
    """Their constructors look at values, which torch cannot map; the log says so, once."""
    counts = torch.tensor([[3.0, 0.0, 1.0], [0.0, 0.0, 4.0], [1.0, 2.0, 1.0]]).double()
    slopes = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    cuts = torch.tensor([-1.0, 0.5], dtype=torch.float64)

    def of(z):
        if law == "Multinomial":
            return dist.Multinomial(4, logits=z[..., None] * slopes)
        return dist.OrderedLogistic(z[..., None] * slopes, cuts).to_event(1)

    def program(y, index=None):
        with pyro.plate("unit", 3, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", of(z), obs=y)

    y = counts if law == "Multinomial" else counts.clamp(max=2)
    data = Data(train={"y": y}, observed=("y",), batched=("y",), size=3)
    terms = ProgramTerms(LogDensity(program, data))
    z = torch.randn(5, 2, 1, dtype=torch.float64)
    rows = torch.tensor([2, 0])
    with caplog.at_level("INFO", logger="zoo"):
        likelihood, prior = terms.terms(rows[:, None].double(), z)
        terms.terms(rows[:, None].double(), z)
    expected = torch.stack([of(z[:, k, 0]).log_prob(y[r]) for k, r in enumerate((2, 0))], -1)
    torch.testing.assert_close(likelihood, expected)
    torch.testing.assert_close(prior, torch.distributions.Normal(0.0, 1.0).log_prob(z[..., 0]))
    said = [r for r in caplog.records if "not evaluated at all points at once" in r.message]
    assert len(said) == 1
    u = torch.randn(4, 3, dtype=torch.float64)
    fresh = many_unit_terms(LogDensity(program, data), u)
    torch.testing.assert_close(fresh.likelihood, of(u).log_prob(y))


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


def test_rows_of_which_some_are_known_are_given_though_few_are_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 8)
    terms = ProgramTerms(density())
    prepared = terms.prepare(torch.zeros(4, 2, dtype=torch.float64))
    first = terms.log_prob(torch.tensor([[0.0], [1.0]]), prepared)
    again = terms.log_prob(torch.tensor([[0.0], [1.0], [2.0]]), prepared)
    assert torch.equal(again[:2], first)


def product(n, width=2, half=6.0):
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * width).reshape(-1, width)


def test_a_finer_grid_is_evaluated_where_the_coarse_one_shows_mass(monkeypatch):
    """Its values there are those of the program, its evidence that of the whole grid."""

    def program(y, index=None):
        with pyro.plate("unit", 3, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z.sum(-1), 0.4), obs=y)

    data = Data(train={"y": Y}, observed=("y",), batched=("y",), size=3)
    terms = ProgramTerms(LogDensity(program, data))
    rows = torch.tensor([[0.0], [1.0], [2.0]])
    coarse = terms.prepare(product(41))
    fine = terms.refine(coarse, product(81))
    whole = terms.log_prob(rows, terms.prepare(product(81)))
    asked = []
    paired = terms.paired
    monkeypatch.setattr(
        terms, "paired", lambda x, z: asked.append(z[..., 0].numel()) or paired(x, z)
    )
    found = terms.log_prob(rows, fine)
    counted = sum(asked) - 3 * 41**2
    assert 0 < counted < 0.7 * 3 * (81**2 - 41**2), "every new point is evaluated"
    same = (found - whole).abs() < 1e-9
    near = whole > whole.amax(1, keepdim=True) - module.NEGLIGIBLE
    assert bool(same[near].all())
    assert bool(same.reshape(3, 81, 81)[:, ::2, ::2].all()), "the coarse points are known"
    assert not bool(same.all())
    torch.testing.assert_close(found.logsumexp(1), whole.logsumexp(1), rtol=1e-12, atol=1e-12)


def test_where_there_may_be_mass_on_a_line():
    """Within 40 nats with half the range of the neighbourhood; unknown values count."""
    values = torch.tensor([[0.0, -30.0, -60.0, -60.0, -60.0, -100.0, -130.0]])
    # largest of three plus half the range: 15, 30, -15, -60, -40, -25, -85
    assert module.has_mass(values).tolist() == [[True, True, True, False, True, True, False]]
    assert module.has_mass(values - 500.0).equal(module.has_mass(values)), "from the row's top"
    lower = torch.tensor([[0.0, -30.0, -60.0, -60.0, -60.0, -100.0 - 1.0, -130.0]])
    assert module.has_mass(lower - 0.5 * (lower == -60.0)).tolist()[0][3:5] == [False, False]
    unknown = torch.tensor([[0.0, -99.0, -99.0, -99.0, -99.0, float("nan")]])
    assert module.has_mass(unknown).all(), "where the top is unknown, everywhere"


def test_the_neighbourhood_has_the_diagonals():
    values = torch.full((1, 5, 5), -100.0)
    values[0, 1, 1] = 0.0
    expected = torch.zeros(1, 5, 5, dtype=torch.bool)
    expected[0, :3, :3] = True
    assert module.has_mass(values).equal(expected)


def test_between_are_the_largest_corners():
    line = torch.tensor([[1.0, 3.0, 2.0]])
    assert module.between(line).tolist() == [[1.0, 3.0, 3.0, 3.0, 2.0]]
    square = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    assert module.between(square).tolist() == [[[1, 2, 2], [3, 3, 2], [3, 3, 0]]]
    assert module.between(square > 2.5).sum() == 4
    assert module.between(torch.zeros(2, 4, 4, 4)).shape == (2, 7, 7, 7)


def test_the_limits():
    assert (module.WIDEST, module.NUMBERS, module.KEPT) == (3, 1_000_000, 30_000_000)
    assert module.NEGLIGIBLE == 40.0
