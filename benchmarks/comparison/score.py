"""Comparison of one posterior with a reference: `compare`.

It collects the metrics of `benchmarks.metrics` and asks for a verdict.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from benchmarks.comparison import guide_scores
from benchmarks.comparison.arguments import check_arguments
from benchmarks.comparison.fit_checks import trust_checks
from benchmarks.comparison.sentences import comparison_sentence
from benchmarks.comparison.verdict import decide, findings
from benchmarks.mcmc.diagnostics import diagnose
from benchmarks.metrics.components import Array, Component, Side, component_names, evaluate, side
from benchmarks.metrics.distances import joint_distances
from benchmarks.metrics.metric import FIELDS, METRICS, Metric, component_metrics, failure
from benchmarks.metrics.moments import compare_correlations, draws_needed, fixed, reference_scale
from benchmarks.metrics.tails import judged_by_quantiles, tail_index
from benchmarks.reference.coerce import as_reference, broken_chains
from benchmarks.reference.find import named
from benchmarks.thresholds import TAIL
from benchmarks.trust.climbs import climb_for, judged, needs_climbs
from benchmarks.trust.estimate import LOG_Z, island_moments
from benchmarks.trust.existence import needs_doubt
from benchmarks.types import CellStatus, Comparison, Correlations, Distance, Mcmc, Score
from zoo.density.faults import program_faults
from zoo.errors import UsageError
from zoo.types import Data, ModelEntry, Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit
    from zoo.density.log_density import LogDensity

__all__ = ["compare", "failed"]

ITSELF = "its draws are the reference of this entry; comparing them with themselves says nothing"
DistancePolicy = Literal["all", "if_needed", "none"]


@program_faults("compared on its quantities")
def compare(
    posterior: Posterior,
    reference: Reference | Posterior | str | None,
    *,
    fit: Fit | None = None,
    log_density: LogDensity | None = None,
    distances: DistancePolicy = "all",
    heldout: bool = True,
    climb: bool = True,
) -> Comparison:
    """Compare a method's draws with a reference; return scores, a verdict and a sentence.

    Errors are in reference sds with Monte Carlo standard errors of both sides; evidence and ELBO
    in nats.

    Args:
        posterior: draws of a guide (`("sample",)`) or of MCMC (`("chain", "draw")`).
        reference: the ground truth; chains must pass their gates first. `"stored"`, `"analytic"`,
            `"exact"` or `"certified"` is the reference that comes with the entry; None gives
            `no_reference`.
        fit: the fit the draws are from, for its ELBO and whether it converged.
        log_density: used for held-out rows; built from the entry if needed.
        distances: `all` computes C2ST and the sliced Wasserstein distance; `if_needed` only if
            means, sds, correlations and coverage show no finding; `none` never, so that a wrong
            joint shape goes unnoticed.
        heldout: score held-out rows if the data have some.
        climb: before `agrees` with chains without the gate `wide_climbs`, look for modes that they
            miss, with a tenth of the gradients of both sides.

    Raises:
        UsageError: a wrong type, a fit that the draws are not from, no quantity in common,
            quantities of different shapes, or a guide given as the ground truth.
    """
    start = time.perf_counter()
    check_arguments(posterior, fit, log_density, distances, heldout=heldout, climb=climb)
    if isinstance(reference, str):
        reference = named(reference, posterior.entry, posterior.data, given=fit)
    truth = as_reference(reference)
    if climb and needs_doubt(truth):
        truth, _ = _climbed(posterior, truth, fit)
    mcmc = _health(posterior)
    failure, unconverged = _failure(fit, mcmc), _unconverged(posterior, fit, mcmc)
    notes: list[str] = []
    values = evaluate(posterior)
    failure = failure or _drop_not_finite(values, posterior.entry, notes)
    missing = (
        None
        if truth.posterior is not None
        else truth.reason or "there is no reference to compare with"
    )
    if truth.posterior is not None and _same_draws(posterior, truth.posterior):
        missing = ITSELF
    unusable = (
        None
        if truth.usable or truth.kind == "none"
        else truth.reason or "the reference fails its gates"
    )
    components, method, other = (
        _sides(posterior, truth if missing is None else None, values)
        if failure is None
        else ([], None, None)
    )
    if other is not None and not np.isfinite(other.flat).all():
        unusable, other = unusable or "the reference has draws that are not finite", None
    scores: tuple[Score, ...] = ()
    correlations: Correlations | None = None
    joint: tuple[Distance, ...] = ()
    if method is not None and other is not None:
        method, other, tails = judged_by_quantiles(method, other)
        scores = _scores(components, method, other, tails, notes)
        notes += _without_variance(scores)
        correlations = compare_correlations(method, other, components)
        judged = [i for i, c in enumerate(components) if c.judged]
        if judged and (
            distances == "all"
            or (distances == "if_needed" and not findings(scores, correlations, ()))
        ):
            joint = joint_distances(method.take(judged), other.take(judged), notes)
            if not joint:
                notes.append(
                    "No joint distance: draws that do not move, too few effective draws, or a"
                    " reference of one chain."
                )
    verdict, reasons = decide(
        scores,
        correlations,
        joint,
        failure=failure,
        unusable=unusable,
        missing=missing,
        unconverged=unconverged,
    )
    if verdict == "agrees" and needs_climbs(truth) and climb:
        truth, said = _climbed(posterior, truth, fit)
        notes.append(said)
        if not truth.usable:
            verdict, reasons = decide((), unusable=truth.reason)
    points = guide_scores.points(posterior, fit, components, method, other)
    weights = guide_scores.weights(posterior) if failure is None and not points else None
    pareto_k = (
        None
        if weights is None or method is None
        else guide_scores.pareto(weights, method, components, other, notes)
    )
    bad_weights = (
        notes[-1] if weights is not None and method is not None and pareto_k is None else ""
    )
    labels = [] if method is None else _with_moments(components, method)
    trust = trust_checks(fit, pareto_k, mcmc, points, bad_weights, labels)
    return Comparison(
        posterior=posterior,
        reference=truth,
        scores=scores,
        distances=joint,
        verdict=verdict,
        reasons=reasons,
        sentence=comparison_sentence(
            posterior.method,
            verdict,
            reasons,
            kind=truth.kind,
            mcmc=mcmc,
            trust=trust,
            entry=posterior.entry,
            climbed=not needs_climbs(truth),
        ),
        fit=fit,
        status=_status(fit, failure, unconverged),
        elbo=None if points else guide_scores.elbo(fit, weights),
        pareto_k=pareto_k,
        mcmc=mcmc,
        trust=trust,
        log_evidence=guide_scores.evidence(weights, truth),
        heldout_lpd=(
            guide_scores.heldout(posterior, fit, log_density, notes)
            if heldout and failure is None
            else None
        ),
        correlations={} if correlations is None else asdict(correlations),
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )


def failed(
    entry: ModelEntry,
    data: Data,
    method: str,
    reference: Reference | None,
    status: CellStatus,
    sentence: str,
    *,
    seed: int = 0,
    fit: Fit | None = None,
) -> Comparison:
    """Return the comparison of a method without draws: `fit_failed` with its reason, no scores."""
    # A posterior needs a site; an empty one means that there are no draws.
    empty = Posterior(
        entry=entry,
        data=data,
        method=method,
        draws={"none": torch.empty(0)},
        sample_dims=("sample",),
        seed=seed,
    )
    verdict, reasons = decide((), failure=sentence)
    return Comparison(
        posterior=empty,
        reference=as_reference(reference),
        scores=(),
        distances=(),
        verdict=verdict,
        reasons=reasons,
        sentence=comparison_sentence(method, verdict, reasons),
        fit=fit,
        status=status,
        trust=trust_checks(fit, None, None),
    )


def _climbed(posterior: Posterior, truth: Reference, fit: Fit | None) -> tuple[Reference, str]:
    """Return the reference with the result of wide climbs, and that result as a sentence."""
    own = truth.posterior
    assert own is not None
    if own.entry.learns and fit is None:
        return truth, "Not climbed: the trained program is not available."
    spent = posterior.cost.gradient_evaluations + own.cost.gradient_evaluations
    given = fit if own.entry.learns else None
    found = climb_for(truth, given, (posterior, own), spent)
    sentence = found.sentence
    return judged(truth, found.gate, sentence), f"{sentence[0].upper()}{sentence[1:]}."


def _sides(
    posterior: Posterior, truth: Reference | None, values: dict[str, Array]
) -> tuple[list[Component], Side, Side | None]:
    """Evaluate the quantities that both sides share, by name.

    The reference may belong to another form of the model.
    """
    names = list(values)
    theirs: dict[str, Array] = {}
    if truth is not None and truth.posterior is not None:
        names = [n for n in names if n in truth.posterior.entry.quantities]
        if not names:
            raise UsageError(
                f"{posterior.entry.name} and its reference {truth.posterior.entry.name} share no"
                f" quantity: {sorted(values)} against {sorted(truth.posterior.entry.quantities)};"
                " name the common ones alike."
            )
        theirs = evaluate(truth.posterior, names)
    for name in theirs:
        if theirs[name].shape[2:] != values[name].shape[2:]:
            raise UsageError(
                f"Quantity {name!r} has shape {values[name].shape[2:]} for {posterior.method} and"
                f" {theirs[name].shape[2:]} in the reference; both sides need the same one."
            )
    components = [
        c
        for n in names
        for c in component_names(
            n, posterior.entry.quantities[n], values[n].shape[2:], posterior.data
        )
    ]
    own = island_moments(posterior) if LOG_Z in posterior.stats else None
    method = side({n: values[n] for n in names}, posterior.sample_dims == ("sample",), own)
    if truth is None or truth.posterior is None:
        return components, method, None
    return (
        components,
        method,
        side(theirs, truth.posterior.sample_dims == ("sample",), truth.moments),
    )


def _with_moments(components: Sequence[Component], method: Side) -> list[str]:
    """Return the judged components of which moments can be reweighted: those with a variance."""
    heavy = method.by_quantiles
    if heavy is None:
        heavy = tail_index(method.flat) > TAIL
    return [c.label for c, tail in zip(components, heavy, strict=True) if c.judged and not tail]


def _without_variance(scores: Sequence[Score]) -> list[str]:
    """Return a note that names the components judged by quantiles."""
    found = [s for s in scores if s.by_quantiles and s.judged]
    if not found:
        return []
    worst = max(found, key=lambda s: s.tail_index)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"{worst.label}{more}: judged by quantiles (median, interquartile range), since a tail"
        f" index of {worst.tail_index:.2f} leaves no variance."
    ]


def _scores(
    components: Sequence[Component], method: Side, reference: Side, tails: Array, notes: list[str]
) -> tuple[Score, ...]:
    """Return one score per component; a plug-in that fails is omitted, with a note.

    Columns that are no fields of `Score` become its `extra`.
    """
    scale, constant = reference_scale(method, reference), fixed(method, reference)
    ours, theirs = draws_needed(method, scale), draws_needed(reference, scale)
    known, broken = component_metrics()
    notes += broken
    own: dict[str, Array] = {}
    extra: dict[str, Array] = {}
    for metric in known:
        try:
            fields, others = _columns(metric, method, reference, len(components))
        except Exception as error:
            if metric.name not in METRICS.plugins:
                raise
            notes.append(failure("metric", metric.name, error))
        else:
            own.update(fields)
            extra.update(others)
    out = []
    for i, c in enumerate(components):
        # Equal constants (a diagonal that is 1 by definition) agree exactly and are uninformative.
        out.append(
            Score(
                quantity=c.quantity,
                index=c.index,
                label=c.label,
                judged=c.judged and not constant[i],
                **{name: float(values[i]) for name, values in own.items()},
                tail_se=float(np.hypot(method.tail_se[i], reference.tail_se[i])),
                reference_mean=float(reference.mean[i]),
                reference_sd=float(reference.sd[i]),
                draws_needed=int(ours[i]),
                reference_draws_needed=int(theirs[i]),
                tail_index=float(tails[i]),
                by_quantiles=method.by_quantiles is not None and bool(method.by_quantiles[i]),
                extra={name: float(values[i]) for name, values in extra.items()},
            )
        )
    return tuple(out)


def _columns(
    metric: Metric, method: Side, reference: Side, number: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the fields of `Score` of a metric and its other columns, `[component]` each.

    Only metrics of this package have fields of `Score`, also ones that are no columns.

    Raises:
        UsageError: columns other than those of its record, or a wrong number of values.
    """
    found = {
        name: np.asarray(values, dtype=np.float64)
        for name, values in metric.compute(method, reference).items()
    }
    fields = frozenset() if metric.name in METRICS.plugins else FIELDS
    if set(found) - fields != set(metric.columns) - fields or not set(metric.columns) <= set(
        found
    ):
        raise UsageError(
            f"it returned the columns {sorted(found)}; its record names {sorted(metric.columns)}"
        )
    wrong = {name: values.shape for name, values in found.items() if values.shape != (number,)}
    if wrong:
        raise UsageError(
            f"its columns have the shapes {wrong}; expected ({number},), one value per component"
        )
    own = {name: values for name, values in found.items() if name in fields}
    return own, {name: found[name] for name in metric.columns if name not in fields}


def _same_draws(one: Posterior, other: Posterior) -> bool:
    if one is other:
        return True
    if one.sample_shape != other.sample_shape or one.draws.keys() != other.draws.keys():
        return False
    return all(
        v.shape == other.draws[k].shape and bool((v == other.draws[k]).all())
        for k, v in one.draws.items()
    )


def _health(posterior: Posterior) -> Mcmc | None:
    if posterior.sample_dims != ("chain", "draw") or LOG_Z in posterior.stats:
        return None  # islands of SMC are no chains
    return diagnose(posterior)


def _failure(fit: Fit | None, mcmc: Mcmc | None) -> str | None:
    if fit is not None and not fit.ok:
        return fit.stop.sentence
    if mcmc is not None and not (
        mcmc.gates.get("finite", True) and mcmc.gates.get("non_constant", True)
    ):
        return f"the chains cannot be used: {mcmc.worst}"
    return None


def _drop_not_finite(values: dict[str, Array], entry: ModelEntry, notes: list[str]) -> str | None:
    """Return which judged quantity has draws that are not finite.

    A quantity that is only shown is removed instead, with a note.
    """
    for name, value in list(values.items()):
        total = value.shape[0] * value.shape[1]
        bad = int((~np.isfinite(value)).reshape(total, -1).any(-1).sum())
        if bad and entry.quantities[name].judged:
            return f"{bad} of {total:,} draws of {name} are not finite"
        if bad:
            notes.append(f"{name} is left out: {bad} of {total:,} draws are not finite.")
            del values[name]
    return None


def _unconverged(posterior: Posterior, fit: Fit | None, mcmc: Mcmc | None) -> str | None:
    """Return why existing draws are not final, or None.

    They can show an error, but not earn `agrees`.
    """
    if fit is not None and fit.stop.status == "not_converged":
        return f"the fit had not converged: {fit.stop.sentence}"
    if mcmc is None:
        return posterior.doubt or None
    return broken_chains(mcmc, posterior, strict=False)


def _status(fit: Fit | None, failure: str | None, unconverged: str | None) -> CellStatus:
    if fit is not None and fit.stop.status != "ok":
        return fit.stop.status
    if failure is not None:
        return "nan"
    return "ok" if unconverged is None else "not_converged"
