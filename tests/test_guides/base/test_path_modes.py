"""Paths, the modes in which they end, and masses by the pooled draws of all normals."""

import math
from types import SimpleNamespace

import pytest
import torch

from guides.base import path_search
from guides.base.path_modes import Pool, groups, masses, pool
from guides.base.path_normals import PathNormal
from guides.base.path_search import Path, Units, best_normal, elbos, follow, normals_along, starts
from zoo.density.log_density import LogDensity


def round_normal(loc, sd=1.0):
    loc = torch.tensor(loc, dtype=torch.float64)
    return PathNormal(
        loc=loc,
        scale=torch.full_like(loc, sd),
        directions=loc.new_zeros(len(loc), 1),
        stretch=loc.new_ones(1),
    )


def target(weights, normals):
    """A mixture of normals in place of a log density."""

    def batch(u):
        parts = torch.stack([n.log_prob(u) for n in normals], -1)
        return torch.logsumexp(parts + torch.tensor(weights, dtype=torch.float64).log(), -1)

    return SimpleNamespace(batch=batch, dim=2, dtype=torch.float64)


def ended(density, point):
    end = torch.tensor(point, dtype=torch.float64)
    return Path(scale=end, points=[end], heights=[float(density.batch(end[None]))])


GENERATOR = torch.Generator
PARTS = [round_normal([0.0, 0.0]), round_normal([7.0, 0.0], 0.5)]
TARGET = target((0.3, 0.7), PARTS)


def test_ends_without_a_valley_between_them_are_one_mode():
    ends = [[0.0, 0.1], [7.0, 0.0], [0.5, -0.5], [6.8, 0.2], [2.0, 0.0]]
    found = groups(TARGET, [ended(TARGET, e) for e in ends])
    assert sorted(map(sorted, found)) == [[0, 2, 4], [1, 3]]
    assert found[0][0] == 1  # the highest end comes first


def test_masses_do_not_count_paths():
    """Five paths to the lighter mode and two to the other, some with a wrong width."""
    normals = [
        *(round_normal([0.1 * k, 0.0], 1.2) for k in range(5)),
        PARTS[1],
        round_normal([6.8, 0.0], 0.6),
    ]
    generator = GENERATOR().manual_seed(0)
    pooled = pool(TARGET, normals, 400, generator)
    mass, error = masses(pooled, [0, 5])
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-9)
    assert 0.0005 < float(error[0]) < 0.02
    assert abs(float(mass[0]) - 0.3) < 3 * float(error[0])
    assert pooled.ess > 1000
    values = pooled.elbos
    assert int(values[5:].argmax()) == 0
    assert float(values[5]) == pytest.approx(math.log(0.7), abs=1e-6)


def test_masses_of_modes_that_overlap_are_the_weights_of_their_normals():
    close = [round_normal([0.0, 0.0]), round_normal([2.5, 0.0])]
    pooled = pool(target((0.3, 0.7), close), close, 2000, GENERATOR().manual_seed(3))
    mass, error = masses(pooled, [0, 1])
    assert abs(float(mass[0]) - 0.3) < 3 * float(error[0])
    assert 0.003 < float(error[0]) < 0.02


def test_the_error_of_a_mass_is_its_spread_over_seeds():
    wide = [round_normal([0.3, 0.0], 1.3), round_normal([6.9, 0.1], 0.6)]
    found = [
        [x[0] for x in masses(pool(TARGET, wide, 200, GENERATOR().manual_seed(s)), [0, 1])]
        for s in range(40)
    ]
    mass, error = torch.tensor(found).T
    assert float(error.mean()) == pytest.approx(float(mass.std()), rel=0.35)
    assert float(mass.mean()) == pytest.approx(0.3, abs=0.01)


def test_weights_are_those_of_the_mixture_and_truncated():
    """Two draws in the tail of their own normal, in the midst of the other."""
    log_q = torch.tensor([[[-9.0, -1.0], [-1.0, -9.0]], [[-1.0, -9.0], [-9.0, -1.0]]]).double()
    flat = Pool(log_p=torch.full((2, 2), -2.0, dtype=torch.float64), log_q=log_q)
    assert flat.ess == pytest.approx(4.0)
    torch.testing.assert_close(flat.elbos, torch.tensor([3.0, 3.0], dtype=torch.float64))
    log_p = torch.zeros(1, 100, dtype=torch.float64)
    log_p[0, 0] = 50.0
    heavy = Pool(log_p=log_p, log_q=torch.zeros(1, 100, 1, dtype=torch.float64))
    mean = 50.0 - math.log(100)
    assert float(heavy.log_weights.max()) == pytest.approx(mean + 0.5 * math.log(100))


def test_a_path_notes_its_points_and_counts_its_gradients(tiny):
    entry, _ = tiny.gaussian(rho=0.5, d=4)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    begin, unit = torch.tensor([3.0, -2.0, 0.5, 4.0]).double(), torch.ones(4).double()
    path = follow(density, begin, scale=unit, history=6, evaluations=100)
    assert path.settled
    assert density.gradient_evaluations == path.calls
    assert len(path.points) == len(path.gradients) == len(path.heights) <= path.calls
    assert torch.equal(path.points[0], begin)
    assert path.heights == sorted(path.heights)
    torch.testing.assert_close(path.end, torch.ones(4).double(), rtol=0, atol=1e-5)
    value, gradient = density.gradient(path.points[2])
    assert float(value) == path.heights[2]
    assert torch.equal(gradient, path.gradients[2])
    short = follow(density, begin, scale=unit, history=6, evaluations=3)
    assert (short.calls, short.settled) == (3, False)
    scaled = follow(density, begin, scale=100 * unit, history=6, evaluations=100)
    torch.testing.assert_close(scaled.end, path.end, rtol=0, atol=1e-5)
    half = torch.randn(5, 4, dtype=torch.float64, generator=GENERATOR().manual_seed(0))
    noise = torch.cat([half, -half])
    number, normal, value = best_normal(density, path, noise, 6)
    found = dict(normals_along(path, 6))
    assert torch.equal(found[number].loc, normal.loc)
    all_values = elbos(density, list(found.values()), noise)
    assert value == float(all_values.max())
    assert -1.0 < value < 0.5  # the evidence is 1


def test_pairs_without_curvature_give_no_normal():
    points = [torch.full((2,), float(k), dtype=torch.float64) for k in range(3)]
    path = Path(
        scale=torch.ones(2, dtype=torch.float64),
        points=points,
        gradients=points,
        heights=[0.0] * 3,
    )
    assert list(normals_along(path, 6)) == []  # the gradient grows along the path
    assert best_normal(TARGET, path, torch.zeros(2, 2, dtype=torch.float64), 6) is None
    assert list(normals_along(Path(scale=points[0]), 6)) == []


def test_later_starts_lie_far_away_in_opposite_pairs(tiny):
    entry, _ = tiny.gaussian(d=2)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    units = Units()
    points = []
    for point, _ in starts(density, GENERATOR().manual_seed(0), 8, units):
        points.append(point)
        units.add(round_normal([1.0, 1.0], 2.0), -1.0)
        units.add(round_normal([9.0, 9.0], 9.0), -2.0)  # a worse one
    assert all(float(p.abs().max()) <= 2.0 for p in points[:4])
    far = torch.stack(points[4:]) - 1.0
    torch.testing.assert_close(far[0], -far[1])
    torch.testing.assert_close(far[2], -far[3])
    assert far.norm(dim=1).tolist() == pytest.approx([20.0, 20.0, 60.0, 60.0])
    assert units.scale(2).tolist() == [2.0, 2.0]
    near = [p for p, _ in starts(density, GENERATOR().manual_seed(0), 6, Units())]
    assert all(float(p.abs().max()) <= 2.0 for p in near)


def test_a_far_start_comes_closer_until_the_density_is_finite():
    center = round_normal([0.0, 0.0])

    def ball(u):
        value = -u.square().sum(-1)
        return torch.where(value > -26.0, value, torch.nan)

    density = SimpleNamespace(batch=ball, dim=2, dtype=torch.float64)
    way = torch.tensor([6.0, 8.0], dtype=torch.float64)
    assert path_search._finite(density, center, way).norm() == pytest.approx(5.0)
    assert path_search._finite(density, round_normal([1000.0, 0.0]), way) is None
