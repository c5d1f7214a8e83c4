"""All numbers a verdict depends on; `docs/reading_a_report.md` explains them.

Errors are in reference standard deviations, ratios on the log scale, coverage as a fraction of the
reference.
"""

from __future__ import annotations

import functools
from math import log, log10

__all__ = [
    "AGREE",
    "C2ST_DRAWS",
    "C2ST_FLOOR_LINE",
    "CORRELATION",
    "COVERAGE50",
    "COVERAGE90",
    "EBFMI",
    "ESS_LOW",
    "HELDOUT_DRAWS",
    "IMPORTANCE_ESS",
    "LOG_SD",
    "MEAN",
    "OTHER_MODE",
    "PARETO_K",
    "RESTART_NATS",
    "RESTART_SDS",
    "RHAT",
    "SIGMAS",
    "TAIL",
    "multiplier",
    "pareto_threshold",
    "rhat_limit",
]

# mean error, reference sds: a 90 % interval of the same width still holds 89.6 %
MEAN = 0.15
# log sd ratio: at 1 / 1.15 a central 90 % interval holds 84.7 %, the 5 points of COVERAGE90
LOG_SD = log(1.15)
CORRELATION = 0.2  # difference of a correlation
# fraction of the reference missing from, or in excess in, the central 90 % interval
COVERAGE90 = 0.05
# the same for the central 50 % interval; sd ratios within 1.15 move it by at most 0.062
COVERAGE50 = 0.07
C2ST_FLOOR_LINE = 0.55  # accuracy that two good samples of one posterior almost never reach
C2ST_DRAWS = 2000  # maximum number of draws per side for the classifier
AGREE = 0.15  # `agrees` needs 3 se within this, for every mean and log sd
# A finding is this many standard errors from zero (more if many components are tested).
SIGMAS = 3.0
RHAT = 1.01
ESS_LOW = 1000  # bulk and tail ESS of a reference
EBFMI = 0.3
PARETO_K = 0.7
IMPORTANCE_ESS = 400  # below this, reweighted moments are shown with a warning
RESTART_NATS = 1.0  # restarts whose ELBOs differ by more found different solutions
RESTART_SDS = 1.0  # sds between means of restarts beyond which their answers differ
HELDOUT_DRAWS = 250
# nats below what the draws cover at which another mode still counts: at a twentieth of the mass
# and 3 sds away it moves a mean by 0.15 sd
OTHER_MODE = log(20)
# tail index above which quantiles are judged in place of moments: at 1/2 there is no variance,
# from 1/4 on a sample variance has no error; estimates from 2,000 draws scatter by 0.1
TAIL = 0.4


@functools.cache
def multiplier(looks: int) -> float:
    """Return the threshold in standard errors for the largest of `looks` findings.

    Keeps the chance that noise alone crosses the threshold anywhere at that of 3 standard errors
    in one look (0.3 %): z with P(Z > z) = P(Z > 3) / looks (Bonferroni). 3.0 for one, 3.6 for 10,
    4.2 for 100.
    """
    from scipy.stats import norm

    return float(norm.isf(norm.sf(SIGMAS) / max(looks, 1)))


def pareto_threshold(draws: int) -> float:
    """Return the largest acceptable k-hat of `draws` importance draws.

    It is min(1 - 1 / log10 S, 0.7). Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto
    smoothed importance sampling, JMLR 25(72).
    """
    return min(1.0 - 1.0 / log10(draws), PARETO_K) if draws > 10 else 0.0


def rhat_limit(chains: int, draws: int) -> float:
    """Return the largest R-hat that chains of independent draws of this length may show.

    They almost never exceed it; it is at least 1.01. R-hat^2 is about 1 + (F - 1) / n for split
    chains of n draws, where F is chi-square over its degrees of freedom; the 1e-4 quantile is
    used. With 4 x 1000 draws the limit is 1.01; with 4 x 50, 1.064. It separates a reference that
    is merely short (`inconclusive`) from one whose chains disagree (`reference_unusable`).
    """
    from scipy.stats import chi2

    freedom = max(2 * chains - 1, 1)
    split = max(draws // 2, 1)
    chance = 1.0 + max(float(chi2.isf(1e-4, freedom)) / freedom - 1.0, 0.0) / split
    return max(RHAT, chance**0.5)
