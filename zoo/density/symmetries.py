"""Exact symmetries of a log density, found by evaluating it: signs, labels and rotations.

A map T of the constrained sites that keeps volumes (sign changes, permutations along an axis,
rotations of an axis) is a symmetry where log p(T z, data) = log p(z, data) at five points, and at
the modes found, within 1e-9. It matters where the posterior is not its own mirror image: there a
mode m and T m are different modes of equal mass, of which chains and guides visit some. That is
seen by climbing from one of the points and asking whether the end is left where it is by T.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from zoo.density.faults import unless_it_raises
from zoo.density.log_density import LogDensity
from zoo.density.sites import Site, default_dtype, is_identity

__all__ = ["Symmetry", "symmetries"]

POINTS, EVALUATIONS = 5, 200
RADIUS = 0.7  # of the points around zero, in unconstrained space
TOLERANCE = 1e-9
CLIMB, CLIMBS = 60, 3  # gradients of a climb from a point towards a mode, and climbs
APART = 0.05  # a coordinate moved by more than this is another place
BLOCK = 256  # entries rotated together: of a long axis disjoint random ones, in linear time
Kind = Literal["sign", "label", "rotation"]
Draws = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """A symmetry of the density under which its modes come in several copies.

    Attributes:
        kind: signs, labels (permutations along an axis), or rotations (of the last axis).
        sites: the sites that it moves together, in the program's order.
        axes: the axis of each site that it acts on, from the right; None for the whole site.
        tested: what was evaluated, in words.
    """

    kind: Kind
    sites: tuple[str, ...]
    axes: tuple[tuple[str, int | None], ...]
    tested: str

    @property
    def sentence(self) -> str:
        """What is free, and what is judged in its place."""
        names = " and ".join((", ".join(self.sites[:-1]), self.sites[-1])[not self.sites[1:] :])
        free = {
            "sign": f"The sign of {names} is free",
            "label": f"The order of the labels of {names} is free",
            "rotation": f"The rotation of {names} is free",
        }[self.kind]
        what = {"sign": "absolute values", "label": "sorted values", "rotation": "lengths"}
        return (
            f"{free}: {self.tested} leaves the density as it is at {POINTS} points; judged by"
            f" {what[self.kind]}."
        )


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    kind: Kind
    parts: tuple[tuple[Site, int | None], ...]
    move: Callable[[Draws], Draws]
    tested: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.name for s, _ in self.parts))


def symmetries(density: LogDensity) -> tuple[Symmetry, ...]:
    """Return the symmetries under which the modes of a density come in copies.

    At most 200 evaluations, and 3 climbs of 60 gradients with an evaluation at their ends where a
    symmetry is found; nothing is counted by the density. One symmetry of each kind is returned per
    set of sites; rotations stand for the signs and labels among them.
    """
    return tuple(_found(density))


def _found(density: LogDensity) -> Iterator[Symmetry]:
    generator = torch.Generator().manual_seed(2718)
    points = RADIUS * torch.randn(POINTS, density.dim, dtype=density.dtype, generator=generator)
    sites = [density.constrain(u) for u in points]
    with torch.no_grad():
        values = [_joint(density, z) for z in sites]
    spent = POINTS
    modes: list[Draws] | None = None
    known: list[tuple[str, frozenset[str]]] = []
    for candidate in _candidates(density, generator):
        if spent >= EVALUATIONS:
            return
        names = frozenset(candidate.names)
        if any(
            kind in ("rotation", candidate.kind) and (k <= names or names <= k)
            for kind, k in known
        ):
            continue  # a copy of one that is known, or part of a rotation
        same = True
        for z, value in zip(sites, values, strict=True):
            spent += 1
            same = _same(density, candidate.move(z), value)
            if not same or spent >= EVALUATIONS:
                break
        if not same:
            continue
        if modes is None:  # several, since a climb can end at a saddle that T leaves where it is
            ends = [_climb(density, point) for point in points[:CLIMBS]]
            modes = [density.constrain(end) for end in ends if end is not None]
        if not any(_moves(candidate, mode) for mode in modes):
            continue  # its own mirror image: one mode, seen from both sides
        with torch.no_grad():
            heights = [_joint(density, mode) for mode in modes]
        if not all(
            _same(density, candidate.move(mode), height)
            for mode, height in zip(modes, heights, strict=True)
        ):
            continue  # far from the modes the rounding of a steep density hides the difference
        known.append((candidate.kind, names))
        yield Symmetry(
            kind=candidate.kind,
            sites=candidate.names,
            axes=tuple((s.name, axis) for s, axis in candidate.parts),
            tested=candidate.tested,
        )


def _same(density: LogDensity, draws: Draws, value: float) -> bool:
    """Whether the log density at these draws is a value, within rounding."""
    with torch.no_grad():
        moved = _joint(density, draws)
    return abs(moved - value) <= TOLERANCE * max(1.0, abs(value))


def _moves(candidate: _Candidate, mode: Draws) -> bool:
    there = candidate.move(mode)
    return any(bool(((there[n] - mode[n]).abs() > APART).any()) for n in candidate.names)


def _joint(density: LogDensity, draws: Mapping[str, Tensor]) -> float:
    with default_dtype(density.dtype):
        return float(density.log_joint(draws, density.data.train))


def _climb(density: LogDensity, point: Tensor) -> Tensor | None:
    """Return where a climb from a point is after some sixty gradients, None if it fails."""
    u = point.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [u], max_iter=CLIMB, max_eval=CLIMB, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -density.evaluate(u)
        value.backward()
        return value

    def run() -> bool:
        with torch.enable_grad():
            optimizer.step(loss)
        return True

    if not unless_it_raises(run, otherwise=False):  # it may fail somewhere on the way
        return None
    end = u.detach()
    return end if bool(torch.isfinite(end).all()) else None


# -- candidates --------------------------------------------------------------------------------


def _candidates(density: LogDensity, generator: torch.Generator) -> Iterator[_Candidate]:
    """Return rotations, then signs, then labels, those of fewest sites first."""
    held = [s for s in density.sites if s.name not in density.free]
    real = [s for s in held if is_identity(s.transform)]
    by_length: dict[int, list[tuple[Site, int]]] = {}
    for s in held:
        for axis in range(len(s.shape)):
            by_length.setdefault(s.shape[axis], []).append((s, len(s.shape) - axis))
    groups = {n: parts for n, parts in by_length.items() if n > 1}
    names = {s.name for s in real}
    for n, parts in groups.items():
        turned = [(s, axis) for s, axis in parts if s.name in names]
        for some in _subsets(turned):
            yield _rotation(tuple(some), n, generator)
    angles = [s for s in held if s.name in density.completion.centers]
    for group in _subsets([s for s in held if s in real or s in angles]):
        yield _signs(tuple((s, None) for s in group))
    for n, parts in groups.items():
        movable = [(s, axis) for s, axis in parts if s.name in names and len(s.shape) > 1]
        vectors = [(s, axis) for s, axis in parts if s.name in names and len(s.shape) == 1]
        for some in _subsets(movable + vectors):
            yield _signs(tuple(some))
        for some in _subsets(parts):
            yield _labels(tuple(some), n)


T = TypeVar("T")


def _subsets(items: list[T]) -> Iterator[tuple[T, ...]]:
    """Return one by one, all together, and pairs."""
    yield from itertools.combinations(items, 1)
    if len(items) > 2:
        yield tuple(items)
    yield from itertools.combinations(items, 2)


def _signs(parts: tuple[tuple[Site, int | None], ...]) -> _Candidate:
    def move(z: Draws) -> Draws:
        out = dict(z)
        for site, axis in parts:
            value = out[site.name].clone()
            if axis is None:
                out[site.name] = -value
            else:
                first = value.narrow(-axis, 0, 1)
                first.neg_()
                out[site.name] = value
        return out

    whole = parts[0][1] is None
    what = "changing the sign" if whole else "changing the sign of one row or column"
    together = " of all of them at once" if len({s.name for s, _ in parts}) > 1 else ""
    return _Candidate(kind="sign", parts=parts, move=move, tested=what + together)


def _labels(parts: tuple[tuple[Site, int], ...], n: int) -> _Candidate:
    order = torch.arange(n)
    order[:2] = torch.tensor([1, 0])

    def move(z: Draws) -> Draws:
        out = dict(z)
        for site, axis in parts:
            out[site.name] = out[site.name].index_select(-axis, order)
        return out

    tested = f"swapping two of {n} entries"
    return _Candidate(kind="label", parts=parts, move=move, tested=tested)


def _rotation(
    parts: tuple[tuple[Site, int], ...], n: int, generator: torch.Generator
) -> _Candidate:
    size = min(n, BLOCK)
    raw = torch.randn(size, size, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(raw)
    mixed = torch.randperm(n, generator=generator) if n > size else torch.arange(n)
    chosen = mixed[: n - n % size]

    def move(z: Draws) -> Draws:
        out = dict(z)
        for site, axis in parts:
            value = out[site.name].movedim(-axis, -1)
            blocks = value[..., chosen].unflatten(-1, (-1, size)) @ rotation.to(value.dtype)
            turned = value.index_copy(-1, chosen, blocks.flatten(-2))
            out[site.name] = turned.movedim(-1, -axis)
        return out

    tested = f"one random rotation of the axis of length {n}"
    return _Candidate(kind="rotation", parts=parts, move=move, tested=tested)
