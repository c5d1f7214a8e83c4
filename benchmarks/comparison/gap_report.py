"""The gaps of a fit on some training and some held-out rows: `gap_report`.

A program that names `decoder`, `latent` and `log_prior` (and `likelihood`, if its pixels are no
Bernoulli variables), as the `vae` entries do, has its decoder evaluated once for all rows, after
a comparison with the program's own log density. Of any other program, a caller's own say, the
terms of each row are evaluated. Both take rows with at most three latent values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.comparison.best_in_family import Target, family_of
from benchmarks.comparison.inference_gap import DatumGap, GapReport, datum_gaps
from benchmarks.comparison.rows import part_of, q_of_rows
from guides.base.local import LocalGuide
from guides.draws import density_of
from guides.optimize.progress import PROGRESS, Parts, Say, speaker
from guides.session import session
from guides.types import FIT
from zoo.density.log_density import LogDensity
from zoo.density.row_terms import ProgramTerms, has_grid, row_numbers
from zoo.errors import UnknownNameError, UsageError, listed
from zoo.fields import COUNT, POSITIVE, SEED, accepted
from zoo.truth.grid import LARGEST, BernoulliLikelihood, GridCheck, LatentGrid
from zoo.truth.unit_grid import flat, grid_of
from zoo.types import Data
from zoo.user_models.units import Rows, chosen_rows

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["gap_report"]

Wanted = Rows | Mapping[str, Rows]
CHECKED = 3  # rows on which the likelihood is compared with the program


def gap_report(
    fit: Fit,
    *,
    rows: Wanted = 32,
    points: int | None = None,
    seed: int = 0,
    progress: Say | bool | None = None,
) -> GapReport:
    """Return the gaps of a fit on some training and some held-out rows.

    Args:
        fit: a fit to all data of a program whose latent values all belong to rows, at most three
            to each; its guide is of a family with units (`amortized` and its kin,
            `block_full_rank`), or one of your own that draws the values of a row from normals.
        rows: a number of rows per part, evenly spaced, all of a part that has fewer; row numbers
            of the training data; `{"train": ..., "test": ...}` of either.
        points: grid points per axis.
        seed: seed of the draws for k-hat.
        progress: lines on stderr, by default where it is a terminal or a notebook, elsewhere few
            after half a minute; or a function that receives a line per stage.

    Raises:
        UsageError: another program or guide, or rows that do not exist, with what is accepted.
    """
    accepted("gap_report", fit=(fit, FIT), points=(points, POSITIVE | None))
    accepted("gap_report", seed=(seed, SEED), progress=(progress, PROGRESS))
    tell = Parts(f"gap report of {fit.entry.key} {fit.family}", speaker(progress))
    program: Any = fit.program
    named = all(hasattr(program, name) for name in ("decoder", "latent", "log_prior"))
    direct = named and isinstance(fit.guide, LocalGuide)
    if not direct:
        _refuse_other_latents(fit)
    taken = _taken(fit.data, rows)
    sizes = [f"{len(chosen)} {part}" for part, _, chosen in taken]
    tell.begin(f"{' and '.join(sizes)} rows")
    if direct:
        likelihood = getattr(program, "likelihood", None) or BernoulliLikelihood(program.decoder)
        _refuse_another_program(fit, Target(likelihood, program.log_prior))
        made = LatentGrid(likelihood, program.latent, log_prior=program.log_prior, points=points)
        some = [
            t["x"][:: max(1, len(t["x"]) // rows)] if isinstance(rows, int) else t["x"][chosen]
            for _, t, chosen in taken
        ]
        grid = made.sufficient(torch.cat(some))
    else:
        likelihood, grid = None, None
    parts = []
    for part, tensors, chosen in taken:
        few = part_of(fit.data, tensors, chosen)
        density, q = q_of_rows(fit, few, chosen, held_out=part != "train")
        x: Tensor
        tell(f"{part}, a grid for {len(chosen)} rows")
        if grid is None:
            x = row_numbers(density)
            target, own = Target(ProgramTerms(density), flat), grid_of(density, points)
            own = own.sufficient(x)
        else:
            x, own, target = few.train["x"], grid, Target(likelihood, program.log_prior)
        labels = _labels(few, chosen)
        found = datum_gaps(target, own, q, x, part=part, labels=labels, seed=seed, tell=tell)
        tell(f"{part}, the grid doubled")
        numbers = chosen.tolist()
        found = [dataclasses.replace(gap, row=numbers[gap.row]) for gap in found]
        parts.append((found, own.check(x), _shown(few), family_of(q)))
    gaps: list[DatumGap] = [d for rows_of_part, *_ in parts for d in rows_of_part]
    checks = [check for _, check, *_ in parts]
    worst = GridCheck(
        **{f.name: max(getattr(c, f.name) for c in checks) for f in dataclasses.fields(GridCheck)}
    )
    images = torch.cat([images for *_, images, _ in parts])
    tell.end()
    return GapReport(family=parts[-1][-1], data=tuple(gaps), grid=worst, images=images)


def _taken(data: Data, rows: Wanted) -> list[tuple[str, Mapping[str, Any], Tensor]]:
    """Return each part with its arguments and the numbers of the rows that are reported.

    Raises:
        UsageError: another value, or rows that do not exist.
    """
    known = {"train": data.train, "test": data.test}
    wanted: Mapping[str, Any]
    if isinstance(rows, Mapping):
        wanted = rows
    elif COUNT.holds(rows):
        wanted = {part: rows for part, tensors in known.items() if tensors is not None}
    else:
        wanted = {"train": rows}
    found = []
    for part in wanted:
        if part not in known:
            raise UnknownNameError("part of rows", part, known)
    for part, tensors in known.items():
        if part not in wanted:
            continue
        if tensors is None:
            raise UsageError(
                "rows names held-out rows, but the fit has none; pass test= when the entry is"
                " made."
            )
        size = len(tensors[data.batched[0]])
        chosen = torch.tensor(chosen_rows(wanted[part], size, "rows", f" of {part}"))
        found.append(("train" if part == "train" else "held out", tensors, chosen))
    if not found:
        raise UsageError(
            "rows is an empty dict; accepted: {'train': ..., 'test': ...} with either or both."
        )
    return found


def _labels(few: Data, chosen: Tensor) -> list[str]:
    """Return the names of rows: their numbers, with their class if the data have one."""
    known = few.train.get("label")
    if not isinstance(known, Tensor) or known.shape != chosen.shape:
        return [str(int(c)) for c in chosen]
    return [
        f"{int(c)}: {int(k)}" if int(k) >= 0 else str(int(c))
        for c, k in zip(chosen, known, strict=True)
    ]


def _shown(few: Data) -> Tensor:
    """Return what is observed of each row, `[row, value]`."""
    names = [k for k in few.observed if k in few.batched] or list(few.batched)
    value: Tensor = few.train[names[0]]
    return value.reshape(len(value), -1)


def _refuse_other_latents(fit: Fit) -> None:
    """Reject programs without rows, or with more latent values per row than a grid takes.

    Raises:
        UsageError: always in that case.
    """
    density = density_of(fit)
    if not fit.data.batched or not has_grid(density):
        rows = (
            "the entry knows no rows: pass batched= or minibatch= to zoo.from_program"
            if not fit.data.batched
            else f"{listed(density.discrete)} is summed out of all rows at once"
            if density.discrete
            else f"its sites {[s.name for s in density.sites]} have {density.dim} values for"
            f" {fit.data.size} rows"
        )
        raise UsageError(
            f"The gap report needs 1 to {LARGEST} latent values per row and none outside the"
            f" plate of the rows; {fit.entry.name}: {rows}."
        )


def _refuse_another_program(fit: Fit, target: Target) -> None:
    """Compare the log joint of decoder, likelihood and prior with that of the program itself.

    Raises:
        UsageError: they differ at random codes, so that nothing here would be exact.
    """
    program: Any = fit.program
    x = fit.data.train.get("x")
    if not isinstance(x, Tensor):
        raise UsageError(
            f"The gap report needs the observed rows in a column 'x'; {fit.entry.name} has"
            f" {listed(sorted(fit.data.train))}."
        )
    rows = min(CHECKED, len(x))
    few = {k: fit.data.train[k][:rows] for k in fit.data.batched}
    data = dataclasses.replace(fit.data, train={**fit.data.train, **few}, test=None, size=rows)
    data = dataclasses.replace(data, coords={})
    with session(fit.entry.dtype):
        density = LogDensity(program, data, dtype=fit.entry.dtype)
        if len(density.sites) != 1 or density.dim != rows * program.latent:
            raise UsageError(
                f"The gap report needs one latent site with {program.latent} numbers per row;"
                f" {fit.entry.name} has {[s.name for s in density.sites]} with {density.dim} for"
                f" {rows} rows."
            )
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(rows, program.latent, dtype=density.dtype, generator=generator)
        with torch.no_grad():
            own = float(density.evaluate(z.reshape(-1)))
            taken = float(target.log_joint(x[:rows], z).sum())
    if not abs(own - taken) <= 1e-6 * max(1.0, abs(own)):
        raise UsageError(
            f"At random codes of {rows} rows the log joint of {fit.entry.name} is {own:.4f}"
            f" nats, that of its decoder with {type(target.likelihood).__name__} and log_prior"
            f" {taken:.4f}; give the program a `likelihood` that matches its observed site, as"
            " zoo.truth.grid.GaussianLikelihood(decoder, sigma)."
        )
