"""Evaluation sets of the held-out checks: held-out rows, else training rows, and splits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.audit.subject import GuideSubject
from zoo.contract.subject import Skipped
from zoo.errors import ZooError
from zoo.types import Posterior

__all__ = ["expected_score", "parts_of", "refuse_dependent_rows", "row_terms", "score"]

DRAWS = 40
MOST_ROWS = 60

Parts = list[tuple[Tensor, Posterior]]


def score(guide: GuideSubject, posterior: Posterior) -> float:
    """Return the implementation's score of one set in nats per row.

    Raises:
        Skipped: the program cannot be evaluated on it.
    """
    try:
        value = guide.reported.heldout(posterior, guide.density)
    except ZooError as error:
        raise Skipped(f"The program cannot be evaluated on parts of its rows: {error}") from error
    if value is None:
        raise Skipped("The implementation has no held-out score.")
    return value


def row_terms(guide: GuideSubject, posterior: Posterior) -> Tensor:
    """Return the log likelihood of every row at every draw, `[draw, row]`."""
    terms = guide.density.pointwise(posterior.draws, posterior.data.test)
    rows = [v.reshape(v.shape[0], -1) for v in terms.values()]
    widest = max(r.shape[1] for r in rows)
    return torch.stack([r for r in rows if r.shape[1] == widest]).sum(0)


def expected_score(guide: GuideSubject, posterior: Posterior) -> tuple[float, float]:
    """Return the log mean and the mean log likelihood over draws, each a mean per row."""
    joint = row_terms(guide, posterior)
    return float((joint.logsumexp(0) - math.log(len(joint))).mean()), float(joint.mean())


def refuse_dependent_rows(guide: GuideSubject, whole: Posterior, parts: Parts) -> None:
    """Refuse rows whose likelihood in the whole set differs from that in a part.

    Raises:
        Skipped: they differ, as in a time series, where no split preserves the score.
    """
    rows = torch.cat([index for index, _ in parts])
    together = torch.cat([row_terms(guide, part) for _, part in parts], -1)
    alone = row_terms(guide, whole)
    if together.shape != alone.shape or not torch.allclose(
        together[:, rows.argsort()], alone, rtol=1e-9, atol=1e-9
    ):
        raise Skipped(
            "The likelihood of a row depends on the rows before it: the set cannot be split."
        )


def parts_of(guide: GuideSubject) -> tuple[Posterior, dict[str, Parts]]:
    """Return the whole set and three splits of it.

    They are halves, thirds of a shuffled order, and unequal parts.

    Raises:
        Skipped: nothing is observed, or no tensor has one row per observation.
    """
    data = guide.audited.data
    if not data.observed:
        raise Skipped("Nothing is observed.")
    test: dict[str, Any] = dict(data.test if data.test is not None else data.train)
    seen = test[data.observed[0]]
    rows = (
        data.size
        if data.test is None and data.batched and data.size
        else len(seen)
        if isinstance(seen, Tensor) and seen.ndim
        else 0
    )
    if not rows or rows < 3:
        raise Skipped("There are no rows to split.")
    keys = [
        k
        for k, v in test.items()
        if (k in data.batched or not data.batched)
        and isinstance(v, Tensor)
        and v.ndim
        and len(v) == rows
    ]
    posterior = guide.posterior
    with torch.no_grad():
        if not guide.density.pointwise(
            {name: value[:1] for name, value in posterior.draws.items()}
        ):
            raise Skipped("No observed site has a likelihood per row; it is a factor.")
    few = {name: value[:DRAWS] for name, value in posterior.draws.items()}
    local = data.test is None and bool(data.batched)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(51))[:MOST_ROWS]

    def part(index: Tensor) -> tuple[Tensor, Posterior]:
        tensors = {**test, **{k: test[k][index] for k in keys}}
        draws = dict(few)
        if local:
            tensors["index"] = index
            for s in guide.density.sites:
                if s.plate_axis is not None:
                    draws[s.name] = draws[s.name].index_select(
                        draws[s.name].ndim - s.plate_axis, index
                    )
        return index, replace(
            posterior,
            draws=draws,
            unconstrained=None,
            log_weights=None,
            data=replace(data, test=tensors),
        )

    whole = order.sort().values
    splits = {
        "in halves": [part(i) for i in whole.tensor_split(2)],
        "in shuffled thirds": [part(i) for i in order.tensor_split(3)],
        "in unequal parts": [part(whole[:1]), part(whole[1:])],
    }
    return part(whole)[1], splits
