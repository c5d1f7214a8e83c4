"""Low-rank adapters of a frozen digit classifier with one or two coefficients.

They are small enough for scipy's quadrature. The integrand is written in numpy from the frozen
weights, not taken from the program.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import integrate

from benchmarks.audit.target_table import FAMILIES, TARGETS, Target
from zoo.models.adapters._backbone import backbone
from zoo.models.adapters._updates import CORE_SCALE, singular
from zoo.models.adapters.lora_head import ENTRY

WIDE = 8.0  # prior standard deviations on either side


def _log_likelihood(number: int) -> Callable[..., float]:
    """Return the log likelihood of `number` coefficients.

    They scale the first singular directions of the second layer.
    """
    data = ENTRY.with_options(form="subspace", rank=number).load_data()
    w = {name: value.numpy() for name, value in backbone().items()}
    x, label = data.train["x"].numpy(), data.train["label"].numpy()
    left, right = (v.numpy()[:, :number] for v in singular("w2"))
    base, seen, rows = x @ w["w2"].T + w["b2"], x @ right, np.arange(len(label))

    def value(*t: float) -> float:
        logits = np.tanh(base + CORE_SCALE * (seen * np.array(t)) @ left.T) @ w["w3"].T + w["b3"]
        top = logits.max(1)
        return float(
            (logits[rows, label] - top - np.log(np.exp(logits - top[:, None]).sum(1))).sum()
        )

    return value


@functools.cache
def _evidence(number: int) -> float:
    """Integrate likelihood times standard normal prior by adaptive quadrature.

    Values are relative to the largest on a coarse grid.
    """
    likelihood = _log_likelihood(number)

    def joint(*t: float) -> float:
        return likelihood(*t) - 0.5 * sum(v * v for v in t) - 0.5 * number * math.log(2 * math.pi)

    axis = np.linspace(-WIDE, WIDE, 65)
    points = np.stack(np.meshgrid(*[axis] * number, indexing="ij"), -1).reshape(-1, number)
    values = np.array([joint(*p) for p in points])
    top = float(values.max())
    # The box holds all but e^-30 of the mass on the coarse grid, so that the rule does not miss a
    # narrow peak.
    inside = points[values > top - 30]
    low, high = inside.min(0) - 0.5, inside.max(0) + 0.5

    def relative(*t: float) -> float:
        return math.exp(joint(*t) - top)

    if number == 1:
        total = integrate.quad(relative, low[0], high[0], epsabs=0, epsrel=1e-10, limit=400)[0]
    else:
        total = integrate.dblquad(
            lambda b, a: relative(a, b), low[0], high[0], low[1], high[1], epsabs=1e-9, epsrel=1e-8
        )[0]
    return top + math.log(total)


for _name, _number, _route in (
    ("adapter_core", 1, "scipy.integrate.quad"),
    ("adapter_subspace", 2, "scipy.integrate.dblquad"),
):
    _entry = ENTRY.with_options(form=_name.removeprefix("adapter_"), rank=_number)
    TARGETS[_name] = Target(
        entry=dataclasses.replace(_entry, families=FAMILIES),
        log_evidence=functools.partial(_evidence, _number),
        route=_route,
    )
