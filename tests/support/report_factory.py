"""A synthetic run for the tests of the report: four entries, five guides and NUTS.

It has every kind of trouble. Posteriors are planted (normals and a funnel) and scores computed
from their draws, so that figures, tables and sentences agree as in a real run.
"""

import functools

import numpy as np
import torch

from benchmarks.report import EntryReport, FitSummary, PredictiveCheck, ReportInput, render_html
from benchmarks.types import Comparison, Distance, Mcmc, ParetoK, Reason, Score
from guides.types import Elbo, Restart, Stop
from zoo.types import Cost, Data, ModelEntry, Posterior, Quantity, Reference

SCHOOLS = (
    "Choate",
    "Deerfield",
    "Phillips Andover",
    "Phillips Exeter",
    "Hotchkiss",
    "Lawrenceville",
    "St. Paul's",
    "Mt. Hermon",
)
EVIL = '<script>alert("x")</script>|*b*'
METHODS = ("mean_field", "full_rank", "low_rank", "laplace", "amortized")


def build(data, **options):
    return lambda **tensors: None


def make_entry(name, quantities, title, **fields):
    data = Data(
        train={"y": torch.tensor([28.0, 8.0, -3.0])},
        source="Rubin (1981), table 1",
        licence="public domain",
        coords={"school": SCHOOLS},
    )
    entry = ModelEntry(
        name=name,
        title=title,
        make_data=lambda seed, **o: data,
        build=build,
        quantities=quantities,
        reference="stored",
        **fields,
    )
    return entry, data


def site(name, dims=(), **fields):
    return Quantity(
        fn=lambda draws, data: draws[name], dims=dims, description=f"the site {name}", **fields
    )


def posterior(entry, data, method, draws, chains=0, seed=0, **fields):
    shape = (lambda v: v.reshape(chains, -1, *v.shape[1:])) if chains else (lambda v: v)
    tensors = {k: torch.as_tensor(shape(np.asarray(v))) for k, v in draws.items()}
    dims = ("chain", "draw") if chains else ("sample",)
    return Posterior(
        entry=entry, data=data, method=method, draws=tensors, sample_dims=dims, seed=seed, **fields
    )


def scores_of(p, truth, labels=SCHOOLS):
    found = []
    lead = len(p.sample_dims)
    for name, mine in p.quantities().items():
        theirs = truth.quantities()[name].flatten(0, len(truth.sample_dims) - 1).numpy()
        mine = mine.flatten(0, lead - 1).numpy()
        for index in np.ndindex(mine.shape[1:]):
            x, y = mine[(slice(None), *index)], theirs[(slice(None), *index)]
            sd, n = y.std(), len(x)

            def inside(q, x=x, y=y):
                low, high = np.quantile(x, [(1 - q) / 2, (1 + q) / 2])
                return float(np.mean((y > low) & (y < high)))

            def quantile(q, x=x, y=y, sd=sd):
                return float((np.quantile(x, q) - np.quantile(y, q)) / sd)

            label = f"{name}[{labels[index[0]]}]" if index else name
            found.append(
                Score(
                    quantity=name,
                    index=tuple(index),
                    label=label,
                    mean_error=float((x.mean() - y.mean()) / sd),
                    mean_error_se=1.4 / np.sqrt(n),
                    sd_ratio=float(x.std() / sd),
                    sd_ratio_se=float(x.std() / sd / np.sqrt(n)),
                    wasserstein=float(np.abs(np.sort(x)[:1000] - np.sort(y)[:1000]).mean() / sd),
                    q05_error=quantile(0.05),
                    q50_error=quantile(0.5),
                    q95_error=quantile(0.95),
                    coverage50=inside(0.5),
                    coverage90=inside(0.9),
                    judged=entry_judged(p, name),
                )
            )
    return tuple(found)


def entry_judged(p, name):
    return p.entry.quantities[name].judged


def judge(scores):
    reasons = []
    for s in scores:
        log_ratio = np.log(s.sd_ratio)
        if abs(s.mean_error) > 0.15:
            reasons.append(
                Reason(
                    verdict="shifted",
                    label=s.label,
                    excess=abs(s.mean_error) / 0.15,
                    sentence=f"{s.label}: mean off by {s.mean_error:+.2f} sd.",
                )
            )
        if abs(log_ratio) > np.log(1.15):
            word = "too_narrow" if log_ratio < 0 else "too_wide"
            reasons.append(
                Reason(
                    verdict=word,
                    label=s.label,
                    excess=abs(log_ratio) / np.log(1.15),
                    sentence=f"{s.label}: sd × {s.sd_ratio:.2f}.",
                )
            )
    reasons.sort(key=lambda r: -r.excess)
    return (reasons[0].verdict if reasons else "agrees"), tuple(reasons)


def make_fit(method, rng, gap, status="ok", restarts=1):
    steps = {"mean_field": 3200, "full_rank": 5600, "low_rank": 4800, "amortized": 6000}[method]
    curve = 30 + gap + 400 * np.exp(-np.arange(steps) / 120) + 6 * np.exp(-np.arange(steps) / 900)
    noisy = curve + rng.normal(0, 0.8, steps)
    sentence = (
        f"stopped at step {steps}: the ELBO gained less than its noise over 500 steps."
        if status == "ok"
        else f"ran out of steps at {steps}."
    )
    stop = Stop(status=status, sentence=sentence, step=steps)
    kept = tuple(
        Restart(seed=i, elbo=Elbo(value_nats=-30 - gap - 2.5 * i, se=0.03, draws=4000), stop=stop)
        for i in range(restarts)
    )
    return FitSummary(
        losses=noisy,
        stop=stop,
        elbo=Elbo(value_nats=-30 - gap, se=0.03, draws=4000),
        cost=Cost(seconds=4.0, steps=steps),
        restarts=kept,
        compiled={
            "used": method != "amortized",
            "reason": "" if method != "amortized" else "dynamic index",
        },
    )


def make_nuts(entry, data, draws, rng, divergent):
    n = len(next(iter(draws.values())))
    energy = rng.normal(40, 4, (4, n // 4))
    bad = np.zeros(n, dtype=bool)
    if divergent and "log_tau" in draws:
        bad[np.argsort(draws["log_tau"])[:divergent]] = True
    stats = {
        "energy": torch.as_tensor(energy),
        "diverging": torch.as_tensor(bad.reshape(4, -1)),
        "lp": torch.as_tensor(-energy),
    }
    cost = Cost(seconds=11.3, gradient_evaluations=182_400, compile_seconds=3.0)
    return posterior(entry, data, "nuts", draws, chains=4, stats=stats, cost=cost, engine="nutpie")


def compare_all(entry, data, truth, guides, nuts_draws, rng, divergent=0, kind="stored"):
    """Compare every guide and NUTS; `guides` maps method -> draws or None for a failed fit."""
    reference = Reference(
        kind=kind,
        posterior=truth,
        ess_min=9712.0 if kind == "stored" else None,
        rhat_max=1.0007 if kind == "stored" else None,
        gates={"rhat": True, "ess_bulk": True, "divergences": True} if kind == "stored" else {},
        provenance={"command": "zoo reference --write"},
        log_evidence=-31.2 if kind == "analytic" else None,
    )
    rows, fits = [], {}
    for i, (method, draws) in enumerate(guides.items()):
        if draws is None:
            empty = posterior(
                entry,
                data,
                method,
                {k: np.full((1, *v.shape[1:]), np.nan) for k, v in nuts_draws.items()},
                cost=Cost(seconds=0.3),
            )
            why = (
                "L-BFGS found no mode: the density grows without bound as log_tau goes to minus"
                " infinity"
            )
            rows.append(
                Comparison(
                    posterior=empty,
                    reference=reference,
                    scores=(),
                    distances=(),
                    verdict="fit_failed",
                    status="init_failed",
                    sentence=f"fit failed: {why}.",
                    reasons=(
                        Reason(verdict="fit_failed", label="", excess=1.0, sentence=why + "."),
                    ),
                )
            )
            continue
        cost = Cost(
            seconds=3.0 + 2 * i, gradient_evaluations=50_000 * (i + 1), compile_seconds=6.1
        )
        p = posterior(entry, data, method, draws, cost=cost)
        fits[method] = make_fit(
            method,
            rng,
            0.4 * (3 - i) ** 2,
            "not_converged" if method == "low_rank" else "ok",
            restarts=3 if i == 0 else 1,
        )
        rows.append(compare_one(p, reference, truth, 0.3 + 0.25 * i))
    nuts = make_nuts(entry, data, nuts_draws, rng, divergent)
    rows.append(compare_one(nuts, reference, truth, None, divergent))
    return reference, rows, nuts, fits


def compare_one(p, reference, truth, khat, divergent=0):
    scores = scores_of(p, truth) if truth is not None else ()
    verdict, reasons = judge(scores) if truth is not None else ("no_reference", ())
    if p.method == "nuts" and verdict != "no_reference":
        verdict, reasons = "agrees", ()
    worst = max(scores, key=lambda s: abs(s.mean_error), default=None)
    number = (
        f"largest mean error {worst.mean_error:+.2f} reference sd ({worst.label})"
        if worst is not None
        else "no truth to compare with"
    )
    sentence = (
        f"{p.method} {verdict.replace('_', ' ')}: {number}"
        + (f"; {divergent} divergences" if divergent else "")
        + "."
    )
    distances = (
        Distance(name="c2st", value=0.71, se=0.012, floor=0.503, line=0.55),
        Distance(name="energy distance", value=0.083, se=None, floor=0.004),
    )
    k = None
    if khat is not None:
        reweighted = {s.label: (s.mean_error, 0.3 * s.mean_error) for s in scores[:5]}
        k = ParetoK(
            value=khat, threshold=0.69, draws=2000, importance_ess=812.4, reweighted=reweighted
        )
    mcmc = None
    if p.method == "nuts":
        gates = {"rhat": True, "ess_bulk": True, "divergences": divergent == 0}
        mcmc = Mcmc(
            rhat_max=1.0042,
            ess_bulk_min=2140.0,
            ess_tail_min=1876.0,
            ebfmi_min=0.81,
            divergences=divergent,
            gates=gates,
            worst="log_tau",
        )
    return Comparison(
        posterior=p,
        reference=reference,
        scores=scores,
        distances=distances if truth is not None else (),
        verdict=verdict,
        reasons=reasons,
        sentence=sentence,
        pareto_k=k,
        mcmc=mcmc,
        elbo={"value_nats": -31.42, "se": 0.031} if khat is not None else None,
    )


def normal(rng, mean, covariance, n=2000):
    return rng.multivariate_normal(mean, covariance, n)


def schools(rng, seed_shift=0.0):
    quantities = {
        "theta": site("theta", ("school",)),
        "mu": site("mu"),
        "log_tau": site("log_tau"),
        "lp_shown": site("lp_shown", judged=False),
    }
    entry, data = make_entry(
        "eight_schools_centered",
        quantities,
        f"Eight schools, centered {EVIL}",
        cites=("Rubin, D. B. (1981). Estimation in parallel randomized experiments.",),
        tags=frozenset({"hierarchical", "funnel"}),
        reference_of="eight_schools",
    )

    def draw(n, log_tau_mean=1.0, log_tau_sd=1.0, shift=0.0, narrow=1.0):
        log_tau = rng.normal(log_tau_mean, log_tau_sd, n) - 0.4 * rng.exponential(1.0, n)
        mu = rng.normal(4.4 + shift, 3.3 * narrow, n)
        theta = mu[:, None] + narrow * np.exp(log_tau)[:, None] * (
            rng.normal(size=(n, 8)) + np.linspace(1, -1, 8)
        )
        return {"theta": theta, "mu": mu, "log_tau": log_tau, "lp_shown": rng.normal(-20, 3, n)}

    truth = posterior(entry, data, "stored", draw(8000), chains=4)
    guides = {
        "mean_field": draw(2000, 1.9, 0.22, 0.9, 0.7),
        "full_rank": draw(2000, 1.6, 0.5, 0.6, 0.9),
        "low_rank": draw(2000, 1.5, 0.55, 0.4),
        "laplace": None,
        "amortized": draw(2000, 1.2, 1.1, 0.1),
    }
    reference, rows, nuts, fits = compare_all(
        entry, data, truth, guides, draw(4000), rng, divergent=12
    )
    y = rng.normal(5, 12, 80)
    ppc = (
        PredictiveCheck(
            label="effect y (points)",
            observed=y,
            replicated={
                "nuts": rng.normal(5, 12, (200, 80)),
                "mean_field": rng.normal(7, 10, (200, 80)),
            },
        ),
    )
    return EntryReport(
        entry=entry,
        data=data,
        reference=reference,
        comparisons=rows,
        nuts=nuts,
        fits=fits,
        ppc=ppc,
    )


def gaussian(rng):
    entry, data = make_entry(
        "correlated_gaussian",
        {"z": site("z", ("coordinate",))},
        "Equicorrelated Gaussian: mean-field's shrinkage is known in closed form",
        options={"d": 2, "rho": 0.9},
        chosen={"d": 5},
    )
    d, rho = 5, 0.9
    full = np.full((d, d), rho) + (1 - rho) * np.eye(d)
    diagonal = np.diag(1 / np.diag(np.linalg.inv(full)))
    truth = posterior(entry, data, "analytic", {"z": normal(rng, np.zeros(d), full, 8000)})
    covariances = {
        "mean_field": diagonal,
        "full_rank": full,
        "low_rank": 0.97 * full,
        "laplace": full,
        "amortized": 1.5 * full,
    }
    guides = {
        m: {"z": normal(rng, np.zeros(d), c)} for m, c in covariances.items() if m != "laplace"
    }
    reference, rows, nuts, fits = compare_all(
        entry,
        data,
        truth,
        guides,
        {"z": normal(rng, np.zeros(d), full, 4000)},
        rng,
        kind="analytic",
    )
    return EntryReport(
        entry=entry, data=data, reference=reference, comparisons=rows, nuts=nuts, fits=fits
    )


def regression(rng, width=30):
    quantities = {"beta": site("beta", ("feature",)), "log_sigma": site("log_sigma")}
    entry, data = make_entry(
        "linear_regression", quantities, "Conjugate regression on the diabetes data"
    )
    labels = tuple(f"feature_{i}" for i in range(width))
    a = rng.normal(size=(width, width))
    full = a @ a.T / width + 0.2 * np.eye(width)

    def both(c, n=2000):
        return {"beta": normal(rng, np.zeros(width), c, n), "log_sigma": rng.normal(0, 0.03, n)}

    truth = posterior(entry, data, "stored", both(full, 8000), chains=4)
    guides = {
        "mean_field": both(np.diag(1 / np.diag(np.linalg.inv(full)))),
        "full_rank": both(full),
        "low_rank": both(0.9 * full),
    }
    global SCHOOLS
    kept, SCHOOLS = SCHOOLS, labels
    scores_of.__defaults__ = (labels,)
    reference, rows, nuts, fits = compare_all(entry, data, truth, guides, both(full, 4000), rng)
    scores_of.__defaults__ = (kept,)
    SCHOOLS = kept
    return EntryReport(
        entry=entry, data=data, reference=reference, comparisons=rows, nuts=nuts, fits=fits
    )


def unknown(rng):
    entry, data = make_entry(
        "my_model",
        {"a": site("a"), "b": site("b"), f"c{EVIL}": site("b")},
        "A user's program without a reference",
    )
    covariance = [[1.0, 0.7], [0.7, 2.0]]

    def two(n):
        a, b = normal(rng, [3.0, -1.0], covariance, n).T.copy()
        return {"a": a, "b": b}

    reference = Reference(
        kind="none",
        posterior=None,
        reason="no reference is stored and NUTS was switched off",
        usable=False,
    )
    p = posterior(
        entry, data, "mean_field", two(2000), cost=Cost(seconds=2.0, gradient_evaluations=30_000)
    )
    q = posterior(
        entry, data, "full_rank", two(2000), cost=Cost(seconds=2.0, gradient_evaluations=30_000)
    )
    rows = [compare_one(p, reference, None, 0.82), compare_one(q, reference, None, -0.05)]
    fits = {m: make_fit(m, rng, 1.0) for m in ("mean_field", "full_rank")}
    return EntryReport(entry=entry, data=data, reference=reference, comparisons=rows, fits=fits)


@functools.cache
def page():
    """Return the HTML of the run with all figures, drawn once for the tests of all modules."""
    return render_html(make_run())


def make_run(copies=1):
    """Return the run; `copies` repeats its entries to reach the size of a large run."""
    rng = np.random.default_rng(7)
    entries = [
        make(rng) for _ in range(copies) for make in (schools, gaussian, regression, unknown)
    ]
    meta = {
        "command": (
            "zoo compare eight_schools_centered correlated_gaussian[d=5] --guides all --seed 0"
        ),
        "created": "2026-11-20 20:00 UTC",
        "seeds": [0],
        "versions": {"posterior-zoo": "0.1.0", "torch": "2.13.0", "pyro": "1.9.2"},
        "machine": {"cpu": EVIL, "cores": 2},
    }
    return ReportInput(entries=entries, meta=meta)
