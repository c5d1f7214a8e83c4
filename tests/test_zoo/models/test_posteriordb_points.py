"""Log densities of the programs of posteriordb at a few points, from the formulas by scipy.

Data are typed in, so that a wrong prior is seen without a copy of the database; points are far
enough from the prior means that scale and location of every prior matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats

from zoo.density.log_density import default_dtype
from zoo.models.posteriordb import (
    ark,
    arma,
    diamonds,
    gauss_mix,
    gp,
    hmm,
    kilpisjarvi,
    regressions,
)
from zoo.types import Data, Program

norm, cauchy = stats.norm, stats.halfcauchy
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(6, 3)), rng.normal(3.0, 2.0, size=6)
COUNTS = np.array([0.0, 2.0, 5.0, 1.0])
INPUTS = np.array([-1.0, 0.0, 1.5, 4.0])


def tensor(value):
    return torch.as_tensor(value, dtype=torch.float64) if isinstance(value, np.ndarray) else value


def density(build: Callable[[Data], Program], data: dict, point: dict) -> float:
    """Return the log joint density of a program at constrained values of its sites."""
    train = {k: tensor(v) for k, v in data.items()}
    values = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in point.items()}
    with default_dtype(torch.float64), poutine.block():
        program = build(Data(train=train, observed=("k" if "k" in data else "y",)))
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(**train)
        return float(trace.log_prob_sum())


def of_diamonds(b, intercept, sigma):
    half_t = np.log(2) + stats.t.logpdf(sigma, 3, 0, 10)
    prior = norm.logpdf(b, 0, 1).sum() + stats.t.logpdf(intercept, 3, 8, 10) + half_t
    return prior + norm.logpdf(Y, intercept + X @ b, sigma).sum()


def of_ark(alpha, beta, sigma):
    prior = (
        norm.logpdf(alpha, 0, 10) + norm.logpdf(beta, 0, 10).sum() + cauchy.logpdf(sigma, 0, 2.5)
    )
    return prior + norm.logpdf(Y, alpha + X @ beta, sigma).sum()


def of_arma(mu, phi, theta, sigma):
    prior = norm.logpdf(mu, 0, 10) + norm.logpdf([phi, theta], 0, 2).sum()
    error, total = 0.0, 0.0
    for step, y in enumerate(Y):
        nu = mu + phi * (mu if step == 0 else Y[step - 1]) + theta * error
        error = y - nu
        total += norm.logpdf(y, nu, sigma)
    return prior + cauchy.logpdf(sigma, 0, 2.5) + total


def of_gp(rho, alpha, f_tilde):
    squares = (INPUTS[:, None] - INPUTS) ** 2
    covariance = alpha**2 * np.exp(-0.5 * squares / rho**2) + gp.JITTER * np.eye(4)
    f = np.linalg.cholesky(covariance) @ f_tilde
    prior = stats.gamma.logpdf(rho, 25, scale=1 / 4) + stats.halfnorm.logpdf(alpha, 0, 2)
    likelihood = stats.poisson.logpmf(COUNTS, np.exp(f)).sum()
    return prior + norm.logpdf(f_tilde).sum() + likelihood


def of_kilpisjarvi(alpha, beta, sigma):
    prior = norm.logpdf(alpha, 9.0, 20.0) + norm.logpdf(beta, 0.5, 0.033)
    return prior + norm.logpdf(Y, alpha + beta * X[:, 0], sigma).sum()


def paths(theta1, theta2, emission):
    """Sum over every path of the two states, the first of which is uniform."""
    moves, total = np.log([theta1, theta2]), []
    for path in itertools.product((0, 1), repeat=emission.shape[0]):
        steps = sum(moves[a, b] for a, b in itertools.pairwise(path))
        total.append(np.log(0.5) + steps + sum(emission[i, s] for i, s in enumerate(path)))
    return np.logaddexp.reduce(total)


def of_hmm(theta1, theta2, mu):
    prior = norm.logpdf(mu, [3, 10], 1).sum()  # the Dirichlets with concentrations 1 are flat
    return prior + paths(theta1, theta2, norm.logpdf(Y[:, None], mu, 1))


ALPHA = np.array([[4.0, 2.0], [1.5, 6.0]])
SPEEDS = np.abs(X[:, :2]) + 0.1


def of_drive(theta1, theta2, phi, lam):
    prior = norm.logpdf(phi, [0, 3], 1).sum() + norm.logpdf(lam, [0, 3], 1).sum()
    prior += sum(
        stats.dirichlet.logpdf(t, a) for t, a in zip((theta1, theta2), ALPHA, strict=True)
    )
    rates = np.stack([phi, lam], -1)  # [state, channel]
    emission = stats.expon.logpdf(SPEEDS[:, None], scale=1 / rates).sum(-1)
    return prior + paths(theta1, theta2, emission)


def of_mixture(mu, sigma, theta):
    prior = norm.logpdf(mu, 0, 2).sum() + stats.halfnorm.logpdf(sigma, 0, 2).sum()
    prior += stats.beta.logpdf(theta, 5, 5)
    each = np.log([theta, 1 - theta]) + norm.logpdf(Y[:, None], mu, sigma)
    return prior + np.logaddexp(*each.T).sum()


def of_regression(priors):
    def value(beta, sigma):
        prior = {
            "flat": 0.0,
            "half_cauchy": cauchy.logpdf(sigma, 0, 2.5),
            "normal": norm.logpdf(beta, 0, 10).sum() + stats.halfnorm.logpdf(sigma, 0, 10),
        }[priors]
        return prior + norm.logpdf(Y, X @ beta, sigma).sum()

    return value


def design(priors):
    columns = {f"x{j}": regressions.raw("x") for j in range(3)}
    return regressions.build_of(
        regressions.Design(
            response=regressions.raw("y"), columns=columns, intercept=False, priors=priors
        )
    )


def points(**spread):
    """Return three points; `spread` maps a site to the range of its values and its shape."""
    stream = np.random.default_rng(1)
    return [
        {
            name: stream.uniform(low, high, shape) if shape else float(stream.uniform(low, high))
            for name, (low, high, shape) in spread.items()
        }
        for _ in range(3)
    ]


def simplexes(**more):
    found = points(share1=(0.1, 0.9, ()), share2=(0.1, 0.9, ()), **more)
    for p in found:
        for i in (1, 2):
            share = p.pop(f"share{i}")
            p[f"theta{i}"] = np.array([share, 1 - share])
        for name in {"mu", "phi", "lambda"} & set(p):
            p[name] = np.sort(p[name])
    return found


REGRESSION = points(beta=(-20, 20, 3), sigma=(2, 30, ()))
CASES = {
    "diamonds": (
        diamonds.build,
        {"X": X, "y": Y},
        of_diamonds,
        points(b=(-2, 2, 3), Intercept=(-30, 30, ()), sigma=(2, 30, ())),
    ),
    "arK": (
        ark.build,
        {"lags": X, "y": Y},
        of_ark,
        points(alpha=(-20, 20, ()), beta=(-20, 20, 3), sigma=(1, 9, ())),
    ),
    "arma": (
        arma.build,
        {"past": Y, "y": Y},
        of_arma,
        points(mu=(-20, 20, ()), phi=(-3, 3, ()), theta=(-3, 3, ()), sigma=(1, 9, ())),
    ),
    "gp": (
        gp.build,
        {"x": INPUTS, "k": COUNTS},
        of_gp,
        points(rho=(3, 9, ()), alpha=(0.5, 4, ()), f_tilde=(-1, 1, 4)),
    ),
    "kilpisjarvi": (
        kilpisjarvi.build,
        {"x": X[:, 0], "pmualpha": 9.0, "psalpha": 20.0, "pmubeta": 0.5, "psbeta": 0.033, "y": Y},
        of_kilpisjarvi,
        points(alpha=(-30, 40, ()), beta=(0.3, 0.7, ()), sigma=(0.5, 4, ())),
    ),
    "hmm example": (hmm.build_example, {"steps": 6, "y": Y}, of_hmm, simplexes(mu=(1, 12, 2))),
    "hmm drive": (
        hmm.build_drive,
        {"alpha": ALPHA, "steps": 6, "y": SPEEDS},
        of_drive,
        simplexes(phi=(0.1, 5, 2), **{"lambda": (0.1, 5, 2)}),
    ),
    "gauss mix": (
        gauss_mix.build,
        {"rows": 6, "y": Y},
        of_mixture,
        [
            {**p, "mu": np.sort(p["mu"])}
            for p in points(mu=(-4, 4, 2), sigma=(0.5, 5, 2), theta=(0.1, 0.9, ()))
        ],
    ),
    **{
        f"regression, {priors}": (
            design(priors),
            {"X": X, "y": Y},
            of_regression(priors),
            REGRESSION,
        )
        for priors in ("flat", "half_cauchy", "normal")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_log_densities_are_those_of_the_formula(name):
    build, data, formula, where = CASES[name]
    for point in where:
        named = {
            {"Intercept": "intercept", "lambda": "lam"}.get(k, k): v for k, v in point.items()
        }
        assert density(build, data, point) == pytest.approx(formula(**named), abs=1e-8)


def test_every_program_that_could_be_checked_here_is():
    """The others solve differential equations or borrow a program of this zoo."""
    from zoo.models import posteriordb

    stems = {
        p.stem for p in __import__("pathlib").Path(posteriordb.__file__).parent.glob("[a-z]*.py")
    }
    elsewhere = {"eight_schools", "lotka_volterra", "one_comp"}
    seen = {build.__module__.rpartition(".")[2] for build, *_ in CASES.values()}
    assert seen == stems - elsewhere
