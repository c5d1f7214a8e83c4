"""Checks of a guide's bounds against the log evidence.

They lie below it, differ from it by the KL, and increase with the number of samples towards it.
"""

from __future__ import annotations

import math

import torch

from benchmarks.arviz_bridge import pareto_k
from benchmarks.audit.quadrature import LARGEST_DIM, QuadratureError, moments_of, whitened_grid
from benchmarks.audit.subject import GuideSubject, limit
from zoo.contract.check import Rule, rules
from zoo.contract.subject import Failed, Skipped

__all__ = ["CHECKS"]

KL_TOLERANCE = 1e-3  # nats
SAMPLES = (1, 2, 8, 32, 128)
# k-hat up to which a mean of weights is reliable, and up to which it has a variance
CERTIFIED, FINITE_VARIANCE = 0.7, 0.5


def elbo_below_evidence(guide: GuideSubject) -> str:
    """The reported ELBO does not exceed the log evidence."""
    truth, value = guide.audited.evidence, guide.reported.elbo(guide.fit, guide.number, 8)
    se = max(value.se, guide.own.sd / math.sqrt(guide.number))
    gap = truth.value - value.value_nats
    if not gap > -(limit(min(guide.number, 200)) * se + truth.error + 1e-6):
        raise Failed(
            f"The ELBO {value.value_nats:.5f} exceeds the log evidence {truth.value:.5f}"
            f" ({truth.route}) by {-gap:.4g} nats, {-gap / max(se, 1e-12):.0f} standard errors."
        )
    return (
        f"ELBO {value.value_nats:.4f} <= log evidence {truth.value:.4f} ({truth.route}),"
        f" gap {gap:.3g} nats."
    )


def gap_is_kl(guide: GuideSubject) -> str:
    """Log evidence - ELBO is KL(q, p) integrated on a grid, to 1e-3 nats.

    The reported weights enter by their difference from the audit's own at the same points, whose
    mean under q is then integrated: the Monte Carlo error cancels where the reported weights are
    right.
    """
    if guide.density.dim > LARGEST_DIM:
        raise Skipped(f"The KL is integrated in at most {LARGEST_DIM} dimensions.")
    if not guide.flat:
        raise Skipped("log q of a guide that is a Pyro program is known at its own runs only.")
    truth, posterior = guide.audited.evidence, guide.posterior
    p = guide.audited.grid
    try:
        q = whitened_grid(
            guide.log_q,
            *moments_of(guide.own.u, torch.ones(len(guide.own.u), dtype=guide.own.u.dtype)),
        )
    except QuadratureError as error:
        raise Skipped(f"No quadrature of q: {error}.") from error
    with torch.no_grad():
        log_w = (
            torch.cat([guide.density.batch(part) for part in q.points.split(20_000)]) - q.values
        )
    mean_log_w = float(q.mean(log_w))
    kl = p.log_integral - mean_log_w
    u, given = posterior.unconstrained, posterior.log_weights
    assert u is not None
    assert given is not None
    with torch.no_grad():
        own = guide.density.batch(u) - guide.log_q(u)
    difference = given - own
    elbo, se = float(difference.mean()) + mean_log_w, float(difference.std()) / math.sqrt(len(u))
    gap = truth.value - elbo
    if not abs(gap - kl) < KL_TOLERANCE + truth.error + p.error:
        raise Failed(
            f"log evidence - ELBO is {gap:.5f} nats, but KL(q || p) on a grid is {kl:.5f}: off by"
            f" {gap - kl:+.4g} nats."
        )
    plain = truth.value - float(given.mean())
    if not abs(plain - kl) < KL_TOLERANCE + truth.error + limit(200) * (
        float(own.std()) / math.sqrt(len(u)) + se
    ):
        raise Failed(
            f"log evidence - mean log weight is {plain:.5f} nats, but KL(q || p) on a grid is"
            f" {kl:.5f}: the draws are not from q."
        )
    if kl < -1e-4:
        raise Failed(f"KL(q || p) is {kl:.4g}: negative, so one of the two is not normalized.")
    return f"log evidence - ELBO = {gap:.5f} nats, KL(q || p) = {kl:.5f} on a grid."


def sampled_bounds(guide: GuideSubject) -> str:
    """The k-sample bounds equal log (1/k) sum w, rise with k, and stay below the evidence.

    The bound for k = 1 is the ELBO.
    """
    log_w = guide.own.log_w[:4096]
    number = len(log_w) // SAMPLES[-1] * SAMPLES[-1] if guide.flat else len(log_w) // 32 * 32
    sizes = SAMPLES if guide.flat else SAMPLES[:4]
    values, errors = [], []
    for k in sizes:
        blocks = log_w[:number].reshape(-1, k)
        right = blocks.logsumexp(1) - math.log(k)
        found = guide.reported.bound(blocks)
        if not abs(found - float(right.mean())) < 1e-8 * (1 + abs(found)):
            raise Failed(
                f"The {k}-sample bound of given weights is {found:.6f} nats; log (1/k) sum w"
                f" averages to {float(right.mean()):.6f}."
            )
        values.append(found)
        errors.append(float(right.std()) / math.sqrt(len(right)))
    for i in range(1, len(sizes)):  # blocks are nested, so this holds draw by draw
        if not values[i] >= values[i - 1] - 1e-9 * (1 + abs(values[i])):
            raise Failed(
                f"The bound falls from {values[i - 1]:.5f} to {values[i]:.5f} nats between"
                f" {sizes[i - 1]} and {sizes[i]} samples."
            )
    try:
        truth = guide.audited.evidence
    except Skipped as reason:
        return (
            f"Bounds rise from {values[0]:.4f} to {values[-1]:.4f} nats;"
            f" no evidence to compare with: {reason}"
        )
    for k, value, error in zip(sizes, values, errors, strict=True):
        excess = value - truth.value
        if excess > limit(min(number // k, 200), len(sizes)) * error + truth.error + 1e-6:
            raise Failed(
                f"The {k}-sample bound {value:.5f} exceeds the log evidence {truth.value:.5f}"
                f" ({truth.route}) by {excess:.4g} nats."
            )
    return (
        f"Bounds of {', '.join(map(str, sizes))} samples rise from {values[0]:.4f} to"
        f" {values[-1]:.4f} (evidence {truth.value:.4f})."
    )


def bound_converges(guide: GuideSubject) -> str:
    """With all weights the bound is the log evidence within its error, if k-hat is good."""
    truth, log_w = guide.audited.evidence, guide.own.log_w
    k = pareto_k(log_w)[0]
    if not k <= CERTIFIED:
        raise Skipped(
            f"The weights of this guide are not certified (k-hat {k:.2f}):"
            " they say little about the evidence."
        )
    found = guide.reported.bound(log_w[None])
    ratio = (log_w - log_w.logsumexp(0)).exp() * len(log_w)
    se = float(ratio.std()) / math.sqrt(len(log_w)) * (1 if k <= FINITE_VARIANCE else 3)
    gap = found - truth.value
    # the bias of the bound is minus half its squared error
    tolerance = limit(200) * se + se * se + truth.error + 1e-6
    if not abs(gap) < tolerance:
        # A guide restricted to one numbering of free classes sees 1 / K! of the evidence, and
        # its own weights cannot show that.
        numberings = math.factorial(guide.audited.free_classes)
        if numberings > 1 and abs(gap + math.log(numberings)) < tolerance:
            return (
                f"With {len(log_w)} samples the bound is {found:.4f} nats, off by"
                f" {gap + math.log(numberings):+.2g} from the log evidence less log {numberings}:"
                f" the guide holds one of the {numberings} numberings of the classes."
            )
        raise Failed(
            f"With {len(log_w)} samples the bound is {found:.5f} nats with error {se:.2g}, "
            f"the log evidence {truth.value:.5f} ({truth.route})."
        )
    return f"With {len(log_w)} samples the bound is off by {gap:+.2g} nats, its error {se:.1g}."


CHECKS = rules(
    Rule(
        name="elbo_below_evidence",
        why=(
            "A bound above the evidence: scikit-learn's BayesianGaussianMixture lacks terms"
            " (#8823)."
        ),
        body=elbo_below_evidence,
        tier="audit",
    ),
    Rule(
        name="gap_is_kl",
        why=(
            "A KL that is averaged twice or loses a factor (VGAE, PyG PR 1368) leaves a bound that"
            " looks plausible."
        ),
        body=gap_is_kl,
        tier="audit",
    ),
    Rule(
        name="sampled_bounds",
        why="pythae's VAMP likelihood: a misplaced parenthesis; a log mean without its 1 / k.",
        body=sampled_bounds,
        tier="audit",
    ),
    Rule(
        name="bound_converges",
        why="tomotopy: three ways to a likelihood with three results (#147, #156).",
        body=bound_converges,
        tier="audit",
    ),
)
