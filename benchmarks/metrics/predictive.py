"""Held-out predictive density: how well a posterior predicts unseen rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import logsumexp

from benchmarks.thresholds import HELDOUT_DRAWS
from zoo.errors import ProgramError
from zoo.types import Posterior

if TYPE_CHECKING:
    from zoo.density.log_density import LogDensity

__all__ = ["heldout_lpd"]


def heldout_lpd(
    posterior: Posterior, log_density: LogDensity, most_draws: int = HELDOUT_DRAWS
) -> dict[str, float] | None:
    """Return the mean over held-out rows of log mean_s p(row | z_s), with its error over rows.

    In nats per row. At most `most_draws` evenly spaced draws are used. Observed sites with one
    term per row are added up. None without held-out data.

    Raises:
        ProgramError: the program cannot be evaluated on its held-out data.
    """
    test = posterior.data.test
    if test is None:
        return None
    lead = len(posterior.sample_dims)
    flat = {name: value.flatten(0, lead - 1) for name, value in posterior.draws.items()}
    total = next(iter(flat.values())).shape[0]
    keep = torch.linspace(0, total - 1, min(total, most_draws)).long()
    try:
        terms = log_density.pointwise({name: value[keep] for name, value in flat.items()}, test)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ProgramError(
            f"Held-out data cannot be scored ({type(error).__name__}):"
            f" {str(error).splitlines()[0]}"
        ) from error
    # [draw, row] each
    rows = [value.reshape(len(keep), -1).double().cpu().numpy() for value in terms.values()]
    widest = max(r.shape[1] for r in rows)
    joint = sum(r for r in rows if r.shape[1] == widest)
    per_row = logsumexp(joint, axis=0) - np.log(len(keep))
    spread = float(per_row.std(ddof=1) / np.sqrt(widest)) if widest > 1 else 0.0
    return {"nats_per_row": float(per_row.mean()), "se": spread}
