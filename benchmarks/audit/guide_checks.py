"""Checks of one guide: its density, weights, objective, and bounds against the evidence."""

from __future__ import annotations

import math

import torch

from benchmarks.audit.heldout import expected_score, parts_of, refuse_dependent_rows, score
from benchmarks.audit.quadrature import LARGEST_DIM, QuadratureError, moments_of, whitened_grid
from benchmarks.audit.subject import GuideSubject, limit
from guides.objectives.records import objective_of
from zoo.contract.check import Rule, rules
from zoo.contract.subject import Failed, Skipped

__all__ = ["CHECKS"]

ROUNDING = 1e-7
KL_TOLERANCE = 1e-3  # nats
WIDTHS = (0.9, 0.75)


def log_q_normalized(guide: GuideSubject) -> str:
    """Log q is the density of the draws: E_q[r / q] = 1, and q integrates to 1 for dim <= 3.

    Here r is any normal density inside q.
    """
    own = guide.own
    dim, sentence = own.u.shape[1], ""
    if guide.flat and dim <= LARGEST_DIM:
        try:
            grid = whitened_grid(
                guide.log_q, *moments_of(own.u, torch.ones(len(own.u), dtype=own.u.dtype))
            )
        except QuadratureError as error:
            raise Failed(f"q has no finite integral: {error}.") from error
        if not abs(grid.log_integral) < 1e-4:
            raise Failed(
                f"q integrates to {math.exp(grid.log_integral):.5g}, not 1: a constant or a"
                " Jacobian of log q is wrong."
            )
        sentence = f"q integrates to 1 within {abs(grid.log_integral):.1g}; "
    center, factor = moments_of(own.u, torch.ones(len(own.u), dtype=own.u.dtype))
    worst, number = 0.0, len(own.u)
    for width in WIDTHS if dim <= 60 else WIDTHS[:1]:
        z = torch.linalg.solve_triangular(factor, (own.u - center).T, upper=False).T / width
        log_r = (
            -0.5 * z.square().sum(-1)
            - 0.5 * dim * math.log(2 * math.pi)
            - factor.diagonal().log().sum()
            - dim * math.log(width)
        )
        ratio = (log_r - own.log_q).exp()
        se = float(ratio.std()) / math.sqrt(number)
        if not math.isfinite(se) or (number < 1000 and dim > 10) or se > 0.2:
            raise Skipped(
                f"{sentence}the identity E[r / q] = 1 has an error of {se:.2g} from {number} draws"
                f" in {dim} dimensions."
            )
        # Center and factor are fitted to the same draws, which biases the mean by about dim^2 /
        # number.
        distance = abs(float(ratio.mean()) - 1)
        if not distance < limit(number, 2) * se + 3 * dim * (dim + 3) / number + 1e-6:
            raise Failed(
                f"E_q[r / q] is {float(ratio.mean()):.4g} with error {se:.2g}, not 1: log q is not"
                " the density of the draws."
            )
        worst = max(worst, distance)
    return f"{sentence}E_q[r / q] = 1 within {worst:.1g}."


def log_weights(guide: GuideSubject) -> str:
    """The reported log weights are log p - log q, evaluated again at the reported draws."""
    posterior = guide.posterior
    u, given = posterior.unconstrained, posterior.log_weights
    assert u is not None
    assert given is not None
    if not guide.flat:
        raise Skipped(
            "log q of a guide that is a Pyro program is known at its own runs only;"
            " log_q_normalized covers it."
        )
    with torch.no_grad():
        log_p, log_q = guide.density.batch(u), guide.log_q(u)
        again = guide.density.unconstrain(posterior.draws)
    off = float((given - (log_p - log_q)).abs().max() / (1 + log_p.abs().max()))
    if not off < ROUNDING:
        shift = float((given - (log_p - log_q)).mean())
        raise Failed(
            f"Reported log weights are off from log p - log q by {off:.3g} (relative; {shift:+.4g}"
            " nats on average)."
        )
    if not torch.allclose(again, u, rtol=1e-5, atol=1e-5):
        raise Failed("The constrained draws do not match the unconstrained points of the weights.")
    return f"{len(given)} log weights equal log p - log q within {off:.1g}."


def draws_honored(guide: GuideSubject) -> str:
    """The requested number of draws is returned, all different, and the ELBO states its own."""
    numbers = (1, 7, 130, 451) if guide.flat else (1, 7, 130)
    for n in numbers:
        posterior = guide.reported.draw(guide.fit, n, 31)
        u = posterior.unconstrained
        if (
            u is None
            or posterior.log_weights is None
            or len(u) != n
            or len(posterior.log_weights) != n
            or posterior.sample_shape != (n,)
        ):
            raise Failed(f"{n} draws were requested, {list(posterior.sample_shape)} came.")
        different = len(torch.unique(u, dim=0))
        if different != n:
            raise Failed(
                f"{n} draws were requested, only {different} of those that came are different."
            )
    for n in numbers[2:]:
        value = guide.reported.elbo(guide.fit, n, 32)
        ratio = value.se * math.sqrt(n) / max(guide.own.sd, 1e-12)
        if value.draws != n:
            raise Failed(f"An ELBO of {n} draws was requested, {value.draws} were used.")
        if guide.own.sd > 1e-6 and _has_variance(guide) and not 0.2 < ratio < 5:
            raise Failed(
                f"The ELBO of {n} draws states an error of {value.se:.3g} nats; draws with sd"
                f" {guide.own.sd:.3g} give another."
            )
    return f"Requests for {', '.join(map(str, numbers))} draws are honored."


def _has_variance(guide: GuideSubject) -> bool:
    try:
        return guide.inflation == 1
    except Skipped:
        return False


def elbo_reported(guide: GuideSubject) -> str:
    """The reported ELBO is +E_q[log p - log q] in nats, as on the audit's own draws."""
    value, own = guide.reported.elbo(guide.fit, guide.number, 6), guide.own
    _equal(guide, "The reported ELBO", value.value_nats, own.sd / math.sqrt(value.draws), sign=1)
    if guide.fit.elbo is not None:
        _equal(
            guide,
            "The ELBO of the fit",
            guide.fit.elbo.value_nats,
            own.sd / math.sqrt(guide.fit.elbo.draws),
            sign=1,
        )
    return (
        f"ELBO {value.value_nats:.4f} nats;"
        f" the audit's own draws give {own.elbo:.4f} with error {own.se:.1g}."
    )


def _equal(
    guide: GuideSubject,
    what: str,
    value: float,
    se: float,
    *,
    sign: int,
    slack: float = 0.0,
    comparisons: int = 2,
) -> float:
    """Compare with the audit's ELBO; report how a wrong value relates to the right one."""
    own, inflation = guide.own, guide.inflation
    expected = sign * own.elbo
    tolerance = (
        inflation * limit(min(len(own.u), 200), comparisons) * math.hypot(se, own.se)
        + ROUNDING * (1 + abs(expected))
        + slack
    )
    gap = abs(value - expected)
    if gap <= tolerance:
        return gap
    guesses = {"the sign is wrong": -expected, "it is in bits": expected / math.log(2)}
    near = [text for text, guess in guesses.items() if abs(value - guess) <= tolerance]
    minus = "minus " if sign < 0 else ""
    raise Failed(
        f"{what} is {value:.5f}, but {minus}E_q[log p - log q] is {expected:.5f} nats (tolerance"
        f" {tolerance:.2g})" + (f": {near[0]}." if near else ".")
    )


def objective_is_minus_elbo(guide: GuideSubject) -> str:
    """The training objective at the final guide is minus the ELBO for any number of particles."""
    _refuse_classes(guide)
    sizes = {1: 80, 2: 60, 8: 30, 64: 15} if guide.flat else {1: 40, 2: 20, 8: 8}
    worst = 0.0
    for particles, repeats in sizes.items():
        loss = guide.reported.objective(guide.fit, particles)
        if loss is None:
            raise Skipped("The family has no stochastic objective.")
        values = torch.tensor(
            [loss(None, 1000 * particles + r) for r in range(repeats)], dtype=torch.float64
        )
        se = max(
            guide.own.sd / math.sqrt(particles * repeats), float(values.std()) / math.sqrt(repeats)
        )
        text = f"The objective with {particles} particles"
        worst = max(
            worst, _equal(guide, text, float(values.mean()), se, sign=-1, comparisons=len(sizes))
        )
    return (
        f"With {', '.join(map(str, sizes))} particles the objective is minus the ELBO within"
        f" {worst:.2g} nats."
    )


def losses_end_at_minus_elbo(guide: GuideSubject) -> str:
    """The last losses are minus the final ELBO: right sign, nats, annealing finished."""
    _refuse_classes(guide)
    losses = guide.fit.losses
    if not len(losses):
        raise Skipped("The family records no losses.")
    if not objective_of(guide.fit.config.objective).ends_as_elbo:
        raise Skipped(
            f"The objective of the fit is {guide.fit.config.objective},"
            " whose losses are not minus the ELBO."
        )
    last = torch.as_tensor(losses[-max(2, min(25, len(losses) // 2)) :].copy())
    particles = max(1, guide.fit.config.num_particles)
    se = max(float(last.std()), guide.own.sd / math.sqrt(particles)) / math.sqrt(len(last))
    # the guide averages the last iterates, each slightly off the optimum
    slack = 0.05 + 0.01 * guide.density.dim
    gap = _equal(
        guide,
        f"The mean of the last {len(last)} losses",
        float(last.mean()),
        se,
        sign=-1,
        slack=slack,
    )
    return f"The last losses are minus the ELBO within {gap:.2g} nats."


def _refuse_classes(guide: GuideSubject) -> None:
    """Skip guides that also draw discrete sites.

    Their objective is below the ELBO of the continuous part by the KL of the discrete sites.
    """
    if guide.draws_classes:
        raise Skipped(
            "The guide draws discrete sites, whose KL its objective holds and the ELBO with them"
            " summed out does not."
        )


def annealing_ends_at_one(guide: GuideSubject) -> str:
    """The weight of the KL term ends at exactly 1."""
    weights = guide.reported.annealing(guide.fit)
    if weights is None or not len(weights):
        raise Skipped("The objective has no annealing weight.")
    if weights[-1] != 1:
        raise Failed(
            f"The KL term ends with weight {weights[-1]:.6g}, not 1: the end of training does not"
            " optimize the ELBO."
        )
    return f"The KL weight ends at 1 after {len(weights)} steps."


def minibatches_average(guide: GuideSubject) -> str:
    """Objectives of disjoint minibatches average to that of all data, for several batch sizes."""
    size = guide.audited.size
    loss = guide.reported.objective(guide.fit, 8 if guide.flat else 2)
    if loss is None:
        raise Skipped("The family has no stochastic objective.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(41))
    repeats, worst, batches = 24, 0.0, sorted({max(1, size // 4), max(1, size // 2)})
    full = [loss(None, r) for r in range(repeats)]
    for batch in batches:
        parts = order.split(batch)
        means = [sum(len(i) / size * loss(i, r) for i in parts) for r in range(repeats)]
        worst = max(
            worst,
            _paired(
                means,
                full,
                f"Minibatches of {batch} of {size} units average to another objective",
                len(batches),
            ),
        )
    return (
        f"Minibatches of {', '.join(map(str, batches))} of {size} units average to the objective"
        f" of all data within {worst:.1g} nats."
    )


def order_of_data(guide: GuideSubject) -> str:
    """The objective does not depend on the order of the units."""
    size = guide.audited.size
    loss = guide.reported.objective(guide.fit, 8 if guide.flat else 2)
    if loss is None:
        raise Skipped("The family has no stochastic objective.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(42))
    repeats = 24
    gap = _paired(
        [loss(order, r) for r in range(repeats)],
        [loss(None, r) for r in range(repeats)],
        "Reordered units change the objective",
        1,
    )
    return f"Reordering the units changes the objective by {gap:.1g} nats."


def _paired(first: list[float], second: list[float], what: str, comparisons: int) -> float:
    """Compare two estimates that share random numbers if the implementation allows it."""
    difference = torch.tensor(first, dtype=torch.float64) - torch.tensor(
        second, dtype=torch.float64
    )
    gap, se = float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))
    if not abs(gap) <= limit(len(difference) - 1, comparisons) * se + ROUNDING * (
        1 + abs(second[0])
    ):
        raise Failed(f"{what}: off by {gap:+.5g} nats with error {se:.2g}.")
    return abs(gap)


def heldout_splits(guide: GuideSubject) -> str:
    """The held-out score of a set is the mean over its parts, to 1e-9, for any split.

    Repeated calls agree exactly.
    """
    whole, splits = parts_of(guide)
    total = score(guide, whole)
    if abs(score(guide, whole) - total) > 1e-12:
        raise Failed("The held-out score of the same set differs between two calls.")
    worst = 0.0
    for name, parts in splits.items():
        joined = sum(len(rows) * score(guide, part) for rows, part in parts) / sum(
            len(rows) for rows, _ in parts
        )
        refuse_dependent_rows(guide, whole, parts)
        worst = max(worst, abs(joined - total) / (1 + abs(total)))
        if not worst < 1e-9:
            raise Failed(
                f"Split {name}, the held-out score is {joined:.8g} nats per row, whole"
                f" {total:.8g}: it depends on the split."
            )
    return (
        f"The score {total:.4f} nats per row"
        f" is the same for {len(splits)} splits within {worst:.1g}."
    )


def heldout_value(guide: GuideSubject) -> str:
    """The held-out score is log mean p(row given z) over the draws, not a mean of logs."""
    whole, _ = parts_of(guide)
    found, right, mean_of_logs = score(guide, whole), *expected_score(guide, whole)
    if not abs(found - right) < 1e-8 * (1 + abs(right)):
        hint = (
            ": it is the mean of the logs"
            if abs(found - mean_of_logs) < 1e-8 * (1 + abs(right))
            else ""
        )
        raise Failed(
            f"The held-out score is {found:.8g} nats per row, the log of the mean likelihood is"
            f" {right:.8g}{hint}."
        )
    return f"The score is the log of the mean likelihood, {right:.4f} nats per row."


CHECKS = rules(
    Rule(
        name="log_q_normalized",
        why=(
            "A flow or a guide whose log q is not the density of its draws makes every bound"
            " wrong."
        ),
        body=log_q_normalized,
        tier="audit",
    ),
    Rule(
        name="log_weights",
        why=(
            "A bits-back tutorial used a variance where a standard deviation belongs; only the"
            " code length showed it."
        ),
        body=log_weights,
        tier="audit",
    ),
    Rule(
        name="draws_honored",
        why="pythae's get_nll draws batch_size importance samples whatever n_samples says.",
        body=draws_honored,
        tier="audit",
    ),
    Rule(
        name="elbo_reported",
        why=(
            "scvi-tools' get_elbo returned the negative ELBO, documented as higher is better (PR"
            " 3373)."
        ),
        body=elbo_reported,
        tier="audit",
    ),
    Rule(
        name="objective_is_minus_elbo",
        why=(
            "KL times batch / dataset (PyTorch-VAE), divided by 784 (PyTorch's example), averaged"
            " twice (VGAE): beta-VAEs sold as VAEs."
        ),
        body=objective_is_minus_elbo,
        tier="audit",
    ),
    Rule(
        name="losses_end_at_minus_elbo",
        why="Pyro's Trace_ELBO.loss says ELBO and returns minus it.",
        body=losses_end_at_minus_elbo,
        tier="audit",
    ),
    Rule(
        name="annealing_ends_at_one",
        why="scvi-tools: a KL warm-up longer than training (#1569).",
        body=annealing_ends_at_one,
        tier="audit",
    ),
    Rule(
        name="minibatches_average",
        why="A KL or likelihood scaled by the wrong number of units (PyTorch-VAE, VGAE).",
        body=minibatches_average,
        tier="audit",
    ),
    Rule(
        name="order_of_data",
        why="Local values paired with other rows.",
        body=order_of_data,
        tier="audit",
    ),
    Rule(
        name="heldout_splits",
        why="scikit-learn's LDA perplexity depends on the size of the evaluation set (#20032).",
        body=heldout_splits,
        tier="audit",
    ),
    Rule(
        name="heldout_value",
        why="gensim's log_perplexity is a bound per word, not a score (#701, #951).",
        body=heldout_value,
        tier="audit",
    ),
)
