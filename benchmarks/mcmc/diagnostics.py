"""Convergence gates over every judged component and the log density.

R-hat and ESS can look healthy when one draw is infinite or a chain is constant. Finite and
non-constant draws are therefore checked first, and a NaN diagnostic fails its gate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import arviz_bridge
from benchmarks.metrics.components import component_names
from benchmarks.thresholds import EBFMI, ESS_LOW, RHAT
from benchmarks.types import POSTERIOR, Mcmc
from zoo.errors import UsageError
from zoo.fields import FLAG, NUMBER, accepted
from zoo.types import Posterior

__all__ = ["GATES", "components", "diagnose", "smallest_ess"]

Array = NDArray[np.float64]
GATES = {
    "finite": "every draw of every judged component is finite",
    "non_constant": "every judged component moves in every chain",
    "rhat": f"R-hat <= {RHAT}",
    "ess_bulk": f"bulk ESS >= {ESS_LOW}",
    "ess_tail": f"tail ESS >= {ESS_LOW}",
    "ebfmi": f"E-BFMI >= {EBFMI} in every chain",
    "no_divergences": "no divergent transition",
}

_GUIDE_RHAT = (
    "R-hat compares chains of MCMC, but the draws of {method!r} are independent by construction,"
    " so it would be 1 however wrong they are; compare them with a reference instead"
    " (benchmarks.compare)."
)


def components(
    posterior: Posterior, *, judged: bool = True, lp: bool = True
) -> tuple[Array, list[str]]:
    """Stack quantities (and `lp`) as `[chain, draw, component]`, with one label per component.

    Draws of a guide form a single chain.
    """
    sample = len(posterior.sample_dims)
    parts, labels = [], []
    for name, value in posterior.quantities().items():
        if judged and not posterior.entry.quantities[name].judged:
            continue
        array = value.detach().double().numpy()
        labels += [
            c.label
            for c in component_names(
                name, posterior.entry.quantities[name], array.shape[sample:], posterior.data
            )
        ]
        parts.append(array.reshape(*array.shape[:sample], -1))
    if lp and "lp" in posterior.stats:
        labels.append("lp")
        parts.append(posterior.stats["lp"].double().numpy()[..., None])
    x = np.concatenate(parts, axis=-1)
    return (x if sample == 2 else x[None]), labels


def smallest_ess(posterior: Posterior) -> float:
    """Return the smallest bulk or tail ESS over judged components and `lp`.

    NaN if any draw is not finite or any component is constant.
    """
    x, _ = components(posterior)
    if not np.isfinite(x).all() or _constant(x).any():
        return float("nan")
    return float(min(arviz_bridge.ess_bulk(x).min(), arviz_bridge.ess_tail(x).min()))


def diagnose(posterior: Posterior, *, reference: bool = False, min_ess: float = ESS_LOW) -> Mcmc:
    """Return convergence diagnostics over every judged component and `lp`, with their gates.

    `GATES` names the gates. `no_divergences` applies to references only; a method row shows the
    count instead. A NaN fails its gate. The `ebfmi` gate is omitted when the engine records no
    energy.

    Raises:
        UsageError: no draws, or draws of a guide, which have no chains.
    """
    accepted("diagnose", posterior=(posterior, POSTERIOR), reference=(reference, FLAG))
    accepted("diagnose", min_ess=(min_ess, NUMBER))
    if posterior.sample_dims != ("chain", "draw"):
        raise UsageError(_GUIDE_RHAT.format(method=posterior.method))
    x, labels = components(posterior)
    finite, moves = np.asarray(np.isfinite(x).all((0, 1))), ~_constant(x)
    sound = finite & moves
    gates = {"finite": bool(finite.all()), "non_constant": bool(moves.all())}
    nothing = np.full(len(labels), np.nan)
    rhat, bulk, tail = (
        _where(sound, f, x) if sound.any() else nothing
        for f in (arviz_bridge.rhat, arviz_bridge.ess_bulk, arviz_bridge.ess_tail)
    )
    gates["rhat"] = bool((rhat <= RHAT).all())
    gates["ess_bulk"] = bool((bulk >= min_ess).all())
    gates["ess_tail"] = bool((tail >= min_ess).all())
    energy = posterior.stats.get("energy")
    fraction = None if energy is None else float(arviz_bridge.ebfmi(energy.numpy()).min())
    if fraction is not None:
        gates["ebfmi"] = bool(fraction >= EBFMI)
    divergences = int(posterior.stats["diverging"].sum()) if "diverging" in posterior.stats else 0
    if reference:
        gates["no_divergences"] = divergences == 0
    return Mcmc(
        rhat_max=_number(rhat.max()),
        ess_bulk_min=_number(bulk.min()),
        ess_tail_min=_number(tail.min()),
        ebfmi_min=None if fraction is None else _number(fraction),
        divergences=divergences,
        gates=gates,
        worst=_worst(labels, finite, moves, rhat, np.minimum(bulk, tail), min_ess),
    )


def _constant(x: Array) -> NDArray[np.bool_]:
    """Return which components are constant within some chain; NaN draws fail `finite` instead."""
    return np.asarray((x.max(1) == x.min(1)).any(0))


def _where(mask: NDArray[np.bool_], function: Any, x: Array) -> Array:
    out = np.full(mask.shape, np.nan)
    out[mask] = function(x[..., mask])
    return out


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _worst(
    labels: list[str],
    finite: NDArray[np.bool_],
    moves: NDArray[np.bool_],
    rhat: Array,
    ess: Array,
    min_ess: float,
) -> str:
    """Return a phrase that names the component closest to failing, and why."""
    for mask, text in (
        (finite, "has draws that are not finite"),
        (moves, "does not move in some chain"),
    ):
        if not mask.all():
            return f"{labels[int(np.argmin(mask))]} {text}"
    if np.isnan(rhat).any():
        return (
            f"{labels[int(np.argmax(np.isnan(rhat)))]} has no R-hat (one chain, or too few draws)"
        )
    if rhat.max() > RHAT:
        return f"{labels[int(rhat.argmax())]} has R-hat {rhat.max():.3f}"
    return f"{labels[int(ess.argmin())]} has ESS {ess.min():.0f}" + (
        f", below {min_ess:.0f}" if ess.min() < min_ess else ""
    )
