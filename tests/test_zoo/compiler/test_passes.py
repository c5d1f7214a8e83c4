"""Simplified graphs: the same numbers from less work."""

import pytest
import torch

from zoo.compiler import passes, triangular
from zoo.compiler import trace as tracing
from zoo.compiler.trace import trace, vectorize

Y = torch.linspace(-2, 3, 100, dtype=torch.float64)


def mixture(u, wide=2):
    """Log density of a mixture and its gradient, rows by classes."""
    u = u.detach().requires_grad_(True)
    weight, location, scale = u[:wide].log_softmax(-1), u[wide : 2 * wide], u[2 * wide :].exp()
    normal = torch.distributions.Normal(
        location.expand(100, wide), scale.expand(100, wide), validate_args=False
    )
    rows = normal.log_prob(Y[:, None])
    value = (rows + torch.log_softmax(weight.expand(100, wide), -1)).logsumexp(-1).sum()
    return [value, *torch.autograd.grad(value, u)]


def elsewhere(wide):
    return 0.7 * torch.randn(
        3 * wide, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )


def work(traced, name):
    """Number of entries an operation is applied to, over the whole graph."""
    nodes = [
        n
        for n in traced.graph.graph.nodes
        if getattr(getattr(n.target, "overloadpacket", n.target), "__name__", "") == name
    ]
    return sum(n.meta["val"].numel() for n in nodes)


@pytest.mark.parametrize("wide", [2, 3, 4, 5])
def test_the_same_numbers_from_less_work(wide, monkeypatch):
    graph = trace(lambda u: mixture(u, wide), [torch.zeros(3 * wide, dtype=torch.float64)])
    u = elsewhere(wide)
    for got, truth in zip(graph(u), mixture(u, wide), strict=True):
        assert (got - truth).abs().max() < 1e-12 * (1 + truth.abs().max())
    many = vectorize(graph, 3, (0, 1))(u.expand(3, -1).contiguous())
    assert torch.allclose(many[1][2], graph(u)[1], rtol=1e-12)
    monkeypatch.setattr(tracing, "_simplify", lambda graph, examples, captured: (graph, captured))
    plain = trace(lambda u: mixture(u, wide), [torch.zeros(3 * wide, dtype=torch.float64)])
    assert work(plain, "log") >= 100 * wide  # logs of the scale, in every row
    # the scale once, and one per row for the sum over classes
    assert work(graph, "log") <= 100 + 2 * wide
    assert work(plain, "logsumexp") == 100
    # five classes are not a tiny axis
    assert work(graph, "logsumexp") == (100 if wide == 5 else 0)


def test_infinite_terms_stay_what_they_are():
    def function(u):
        rows = torch.stack([u[0] + 0 * Y, torch.where(Y > 1, u[1] + 0 * Y, -torch.inf)], -1)
        rows = torch.where(Y[:, None] < 0, -torch.inf, rows + 0.0)
        return [rows.logsumexp(-1)]

    graph = trace(function, [torch.zeros(2, dtype=torch.float64)])
    u = torch.tensor([0.3, -0.4], dtype=torch.float64)
    (got,), (truth,) = graph(u), function(u)
    assert torch.isneginf(truth).any()
    assert torch.equal(torch.isneginf(got), torch.isneginf(truth))
    assert torch.allclose(got, truth, rtol=1e-14)


def test_fixed_matrices_are_kept_with_their_long_axis_last():
    x = torch.randn(80, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(u):
        u = u.detach().requires_grad_(True)
        value = (
            (x @ u).square().sum()
            + (torch.ones(1, 80, dtype=torch.float64) @ x @ u[:, None]).sum()
            + (u[None] @ x.T).sum()
        )
        return [value, *torch.autograd.grad(value, u)]

    u = torch.ones(10, dtype=torch.float64)
    graph = trace(function, [u])
    assert work(graph, "mm") == work(graph, "mv") == 0
    assert {tuple(c.shape) for c in graph.constants if c.ndim == 2 and 80 in c.shape} == {(10, 80)}
    assert torch.allclose(graph(2 * u)[1], function(2 * u)[1], rtol=1e-12)


def test_products_of_what_varies_are_written_out_where_one_side_is_a_row_or_a_column():
    def function(a, b):
        return [a @ b[:, :1], b[:1] @ a, a[:, :1] @ b[:1], b[:1] @ a.T, a @ b]

    a, b = (
        torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s))
        for s in (0, 1)
    )
    graph = trace(function, [torch.eye(6, dtype=torch.float64)] * 2)
    assert [
        n.target.overloadpacket.__name__
        for n in graph.graph.graph.nodes
        if n.op == "call_function"
    ].count("mm") == 1
    assert all(
        torch.allclose(x, y, rtol=1e-12) for x, y in zip(graph(a, b), function(a, b), strict=True)
    )


@pytest.mark.parametrize(
    ("n", "k", "m", "left_over"),
    [(2, 1, 3, 0), (2, 3, 1, 0), (1, 3, 2, 0), (1, 1, 2, 0), (1, 70, 1, 0), (2, 3, 2, 400)],
)
def test_batched_products_with_a_row_or_a_column_are_written_out(n, k, m, left_over):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(100, n, k, dtype=torch.float64, generator=generator),
        torch.randn(100, k, m, dtype=torch.float64, generator=generator),
    )
    graph = trace(
        lambda x, y: [torch.bmm(x.exp(), y.exp())], [torch.ones_like(a), torch.ones_like(b)]
    )
    assert work(graph, "bmm") == left_over
    assert torch.allclose(graph(a, b)[0], torch.bmm(a.exp(), b.exp()), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "axis", "left_over"),
    [((1,), -1, 0), ((3, 5), 0, 0), ((3, 5), 1, 0), ((2, 17), -1, 68)],
)
def test_short_running_sums_and_products_are_written_out(shape, axis, left_over):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(u):
        u = u.detach().requires_grad_(True)
        values = [u.cumsum(axis), u.exp().cumprod(axis)]
        return [*values, *torch.autograd.grad((values[0] * values[1]).sum(), u)]

    graph = trace(function, [torch.ones(shape, dtype=torch.float64)])
    assert work(graph, "cumprod") == left_over
    assert all(
        torch.allclose(a, b, rtol=1e-12) for a, b in zip(graph(x), function(x), strict=True)
    )


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unitriangular", [False, True])
def test_small_triangular_systems_are_written_out(upper, left, unitriangular):
    """Equal to the library's result, whatever the unread half holds.

    Larger systems are left to the library.
    """
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(2, 7, 7, dtype=torch.float64, generator=generator) + 4 * torch.eye(
        7, dtype=torch.float64
    )
    right = torch.randn(
        *((2, 7, 3) if left else (2, 3, 7)), dtype=torch.float64, generator=generator
    )

    def function(m, r):
        return [
            torch.linalg.solve_triangular(
                m, r, upper=upper, left=left, unitriangular=unitriangular
            )
        ]

    graph = trace(function, [torch.ones_like(matrix), torch.ones_like(right)])
    assert work(graph, "linalg_solve_triangular") == 0
    assert torch.allclose(graph(matrix, right)[0], function(matrix, right)[0], rtol=1e-10)
    wide = triangular.WIDEST + 1
    big = trace(
        lambda m: [torch.linalg.solve_triangular(m, m, upper=upper)],
        [torch.eye(wide, dtype=torch.float64)],
    )
    assert work(big, "linalg_solve_triangular") > 0


def test_large_constants_lie_in_large_pages_and_only_once():
    x = torch.randn(6000, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace(lambda u: [x @ u, x.T @ (x @ u)], [torch.ones(100, dtype=torch.float64)])
    large = [c for c in graph.constants if c.numel() == x.numel()]
    assert {c.data_ptr() for c in large} == {large[0].data_ptr()}
    assert large[0].data_ptr() != x.data_ptr()
    u = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(graph(u)[1], x.T @ (x @ u), rtol=1e-10)


def test_what_cannot_be_simplified_stays_as_it_was(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(passes, "_pointwise", broken)
    graph = trace(mixture, [torch.zeros(6, dtype=torch.float64)])
    assert work(graph, "logsumexp") == 100
    assert torch.allclose(graph(elsewhere(2))[1], mixture(elsewhere(2))[1], rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_small_cholesky_factors_are_written_out(n):
    """Value and gradient of a function of the factor; NaN, not an error, if there is none."""
    generator = torch.Generator().manual_seed(n)
    root = torch.randn(n, n, dtype=torch.float64, generator=generator)
    weight = torch.randn(n, n, dtype=torch.float64, generator=generator)

    def function(r):
        r = r.detach().requires_grad_(True)
        value = (weight * torch.linalg.cholesky(r @ r.T + torch.eye(n, dtype=r.dtype)).sin()).sum()
        return [value, *torch.autograd.grad(value, r)]

    graph = trace(function, [torch.eye(n, dtype=torch.float64)])
    for got, truth in zip(graph(root), function(root), strict=True):
        assert (got - truth).abs().max() < 1e-12 * (1 + truth.abs().max())
    names = {str(node.target) for node in graph.graph.graph.nodes}
    assert not any("cholesky" in name or "check_errors" in name for name in names)
    plain = trace(lambda m: [torch.linalg.cholesky(m)], [torch.eye(n, dtype=torch.float64)])
    assert plain(-torch.eye(n, dtype=torch.float64))[0].isnan().any()


def test_large_cholesky_factors_are_the_librarys():
    wide = triangular.FACTORED + 1
    graph = trace(lambda m: [torch.linalg.cholesky(m)], [torch.eye(wide, dtype=torch.float64)])
    assert any("cholesky" in str(node.target) for node in graph.graph.graph.nodes)
