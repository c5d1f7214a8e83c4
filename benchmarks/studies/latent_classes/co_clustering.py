"""Co-clustering of guides against the chains of a stored reference, and relabeling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import benchmarks
import guides
import zoo
from benchmarks import arviz_bridge
from benchmarks.comparison import relabel
from benchmarks.mcmc.diagnostics import diagnose
from benchmarks.reference.find import find
from zoo.models.mixtures import gaussian_mixture
from zoo.quantities import shared_classes
from zoo.types import Data, Posterior

__all__ = ["against_reference", "labels", "responsibilities"]

DRAWS = 4000
LONG = 4000  # draws of each chain


def responsibilities(posterior: Posterior, data: Data) -> Tensor:
    """Return class probabilities of the distinct petal lengths, `[*sample, value, class]`.

    The entry is `gaussian_mixture`.
    """
    values = data.train["petal"].unique()
    return gaussian_mixture.log_joint(posterior.draws, values).softmax(-1)


def _reference() -> tuple[zoo.ModelEntry, Data, Posterior, dict[str, Any]]:
    entry = gaussian_mixture.ENTRY
    data = entry.load_data()
    found = find(entry, data)
    assert found.posterior is not None
    assert found.usable, found.reason
    return (
        entry,
        data,
        found.posterior,
        {"ess_record": found.ess_min, "rhat_record": found.rhat_max},
    )


def against_reference(
    families: tuple[str, ...] = ("laplace", "mean_field", "full_rank"),
    *,
    draws: int = LONG,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Return the largest co-clustering error of each family over all pairs of petal lengths.

    Both sides are Rao-Blackwellized. The truth is from four chains of 4,000 draws: the stored
    reference has 2,000, with an ESS of 1,987 for one pair.
    """
    entry = gaussian_mixture.ENTRY
    data = entry.load_data()
    truth = benchmarks.run_nuts(entry, data=data, draws=draws, min_ess=0, jobs=1)
    health = diagnose(truth, reference=True)
    record = {
        "rhat_record": health.rhat_max,
        "ess_record": health.ess_bulk_min,
        "draws": 4 * draws,
    }
    r = responsibilities(truth, data)  # [chain, draw, value, class]
    matrix = shared_classes(r)
    upper = torch.triu_indices(len(matrix), len(matrix), 1)
    pairs = torch.einsum("csik,csjk->csij", r, r)[..., upper[0], upper[1]].numpy()
    doubt = (pairs.mean((0, 1)) > 0.001) & (pairs.mean((0, 1)) < 0.999)
    ess, error = (
        arviz_bridge.ess_bulk(pairs[..., doubt]),
        arviz_bridge.mcse_mean(pairs[..., doubt]),
    )
    rows = []
    for family in families:
        fit = guides.fit(
            entry, family, data=data, **({"compile": "off"} if family == "laplace" else settings)
        )
        found = shared_classes(responsibilities(guides.draw(fit, DRAWS), data))
        rows.append(
            {
                "family": family,
                "largest": float((found - matrix).abs().max()),
                "pairs": int(upper.shape[1]),
                "mcse_largest": float(error.max()),
                "ess_smallest": float(ess.min()),
                "doubt": int(doubt.sum()),
                **record,
            }
        )
    return rows


def labels() -> list[dict[str, Any]]:
    """Return R-hat of the raw locations before and after each way of relabeling.

    For the stored chains, with the quality of the relabeling.
    """
    entry, data, truth, _ = _reference()
    r = responsibilities(truth, data).numpy()
    found = relabel.modes(truth, r)
    rows = []
    for method in (relabel.stephens, relabel.pivot):
        result = method(r)
        before, after = relabel.rhat_before_after(truth.draws["location"].numpy(), result)
        first = (
            np.bincount(result.order[..., 0].ravel(), minlength=r.shape[-1])
            / result.order[..., 0].size
        )
        rows.append(
            {
                "entry": entry.key,
                "method": result.method,
                "rhat_before": before,
                "rhat_after": after,
                "kl_before": result.before,
                "kl_after": result.quality,
                "certainty": result.certainty,
                "agreement": result.agreement,
                "share_moved": float(1 - first.max()),
                "modes": found.number,
                "sentence": found.sentence,
            }
        )
    return rows
