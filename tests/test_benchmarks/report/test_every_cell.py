"""One small run: every number that is read equals what its stored draws give.

The draws are read from the files without the package, scores are computed with numpy, scipy and
ArviZ, and the cells of CSV, JSON, Markdown and HTML are parsed and compared one by one.
"""

import csv
import json
import math
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy.stats import wasserstein_distance
from support import tiny
from support.short_runs import leave_undrawn, short_fits

from benchmarks.run import cell as work
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.record import drawn_cell
from zoo.types import Analytic, Cost, Data, Moments, Posterior, Quantity

GROUPS = 3
METHODS = ("mean_field", "laplace", "nuts")
COMPONENTS = ("mu", "effect[0]", "effect[1]", "effect[2]")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


Y = torch.tensor([1.5, -0.4, 2.2], dtype=torch.float64)


def program(y, index=None):
    """Random intercepts with one weak observation each: mu and the effects are dependent."""
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("group", GROUPS):
        effect = pyro.sample("effect", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def normal_entry():
    """Return an entry whose posterior is normal, with its mean and covariance."""
    precision = torch.diag(torch.tensor([1 / 9 + GROUPS, *[2.0] * GROUPS], dtype=torch.float64))
    precision[0, 1:] = precision[1:, 0] = -1.0
    covariance = torch.linalg.inv(precision)
    mean = covariance @ torch.cat([torch.zeros(1, dtype=torch.float64), Y])
    card = tiny.entry("intercepts", lambda: Data(train={"y": Y}), program)

    def analytic(data):
        zero, sd = torch.zeros_like(mean), covariance.diagonal().sqrt()

        def sample(n, seed):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(n, GROUPS + 1, dtype=torch.float64, generator=generator)
            x = mean + noise @ torch.linalg.cholesky(covariance).T
            return {"mu": x[:, 0], "effect": x[:, 1:]}

        parts = {"mu": 0, "effect": slice(1, None)}
        moments = {
            k: Moments(mean=mean[i], mean_se=zero[i], sd=sd[i], sd_se=zero[i])
            for k, i in parts.items()
        }
        return Analytic(sample=sample, moments=moments)

    quantities = {
        "mu": Quantity(fn=lambda draws, data: draws["mu"], description="the mean"),
        "effect": Quantity(
            fn=lambda draws, data: draws["effect"], dims=("group",), description="the effects"
        ),
    }
    entry = replace(
        card,
        quantities=quantities,
        analytic=analytic,
        reference="analytic",
        families=("laplace", "mean_field"),
    )
    return entry, mean, covariance


def negative_chains(cell, run, folder, jobs):
    """Write shifted chains whose negative autocorrelation makes bulk and tail ESS differ."""
    entry, data = cell.prepared.entry, cell.prepared.data
    _, mean, covariance = normal_entry()
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((4, 1000, GROUPS + 1))
    for i in range(1, 1000):
        noise[:, i] = -0.4 * noise[:, i - 1] + math.sqrt(1 - 0.16) * noise[:, i]
    x = torch.as_tensor(noise) @ torch.linalg.cholesky(covariance).T + mean
    x = x + 0.4 * covariance.diagonal().sqrt()
    posterior = Posterior(
        entry=entry,
        data=data,
        method="nuts",
        draws={"mu": x[..., 0], "effect": x[..., 1:]},
        sample_dims=("chain", "draw"),
        stats={
            "energy": torch.as_tensor(rng.standard_normal((4, 1000))),
            "diverging": torch.as_tensor(np.arange(4000).reshape(4, 1000) % 1999 == 1998),
            "lp": torch.as_tensor(noise[..., 0]),
        },
        cost=Cost(seconds=12.0, gradient_evaluations=54_321),
        seed=cell.seed,
        engine="nutpie",
    )
    work._save(posterior, None, folder)
    return drawn_cell(cell.head, "ok", posterior, None, 1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Execute the run once; return its result and the text of its files."""
    out = tmp_path_factory.mktemp("run") / "out"
    entry, *_ = normal_entry()
    plan = make_plan(
        entries=["intercepts"],
        guides=["mean_field", "laplace"],
        nuts=True,
        compile="off",
        quick=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_nuts", negative_chains)
        short_fits(patch, 600, 50)
        leave_undrawn(patch)
        result = execute(plan, out=out, entries=[entry], jobs=1)
    return result, out


class Table(HTMLParser):
    """Collects the text of every cell of every table, and the class of a table."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.inside, self.glue = [], False, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append((dict(attrs).get("class"), []))
            self.inside = False
        elif self.tables and tag == "tr":
            self.tables[-1][1].append([])
            self.inside = False
        elif tag == "wbr":
            self.glue = True
        elif self.tables and tag in ("th", "td"):
            self.tables[-1][1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("table", "thead", "tbody", "td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            text = self.tables[-1][1][-1]
            text[-1] = " ".join(f"{text[-1]}{'' if self.glue else ' '}{data}".split())
            self.glue = False


def numbers(text):
    """Return the numbers of a text, each with the unit of its last digit."""
    plain = text.replace("\N{MINUS SIGN}", "-").replace(",", "")
    found = re.findall(r"(?<![\w.])[-+]?\d+(?:\.(\d+))?", plain)
    values = re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?", plain)
    return [(float(v), 10.0 ** -len(f)) for v, f in zip(values, found, strict=True)]


def says(text, *expected):
    """Assert that a text shows these numbers, in this order, rounded to the digits it has."""
    found = numbers(text)
    assert len(found) == len(expected), (text, expected)
    for (value, unit), wanted in zip(found, expected, strict=True):
        assert abs(value - wanted) <= 0.5001 * unit, (text, expected)


@pytest.fixture(scope="module")
def draws(run):
    """Return `method -> [chain, draw, component]`, as stored in the files."""
    found = {}
    for place in run[1].glob("cells/*/posterior.nc"):
        with xr.open_dataset(place, group="posterior", engine="h5netcdf") as file:
            parts = [file["mu"].values[..., None], file["effect"].values]
        method = json.loads((place.parent / "cell.json").read_text())["method"]
        found[method] = np.concatenate(parts, -1)
    assert set(found) == set(METHODS)
    return found


@pytest.fixture(scope="module")
def expected(run, draws):
    """Return `(method, label) -> column -> value`, recomputed."""
    _, mean, covariance = normal_entry()
    mean, sd = mean.numpy(), covariance.diagonal().sqrt().numpy()
    truth = run[0].report.entries[0].reference.posterior
    p = np.concatenate([truth.draws["mu"][..., None], truth.draws["effect"]], -1).reshape(-1, 4)
    table = {}
    for method, x in draws.items():
        for i, label in enumerate(COMPONENTS):
            q = x[..., i].ravel()
            own, theirs = np.quantile(q, LEVELS), np.quantile(p[:, i], LEVELS)
            gaps = (own - theirs) / sd[i]
            if method == "nuts":
                # negative autocorrelation is not believed: as many independent draws at most
                least = q.std() / math.sqrt(len(q))
                errors = [
                    max(float(arviz.mcse(x[..., i], method=m)), least / factor)
                    for m, factor in (("mean", 1.0), ("sd", math.sqrt(2)))
                ]
            else:  # independent draws: the textbook errors
                kurtosis = ((q - q.mean()) ** 4).mean() / q.var() ** 2
                errors = [
                    q.std() / math.sqrt(len(q)),
                    q.std() * math.sqrt((kurtosis - 1) / (4 * len(q))),
                ]
            table[method, label] = {
                "mean_error": (q.mean() - mean[i]) / sd[i],
                "mean_error_se": errors[0] / sd[i],
                "sd_ratio": q.std(ddof=1) / sd[i],
                "sd_ratio_se": errors[1] / sd[i],
                "wasserstein": wasserstein_distance(q, p[:, i]) / sd[i],
                "q05_error": gaps[0],
                "q50_error": gaps[2],
                "q95_error": gaps[4],
                "coverage50": ((p[:, i] >= own[1]) & (p[:, i] <= own[3])).mean(),
                "coverage90": ((p[:, i] >= own[0]) & (p[:, i] <= own[4])).mean(),
            }
    return table


LOOSE = {"mean_error_se": 0.03, "sd_ratio_se": 0.05}  # estimates of an error differ a little


def same(column, value, wanted):
    assert value == pytest.approx(wanted, rel=LOOSE.get(column, 1e-9), abs=1e-12), column


@pytest.fixture(scope="module")
def kept(run):
    """Return `cell.json` of every method."""
    cells = [json.loads(p.read_text()) for p in run[1].glob("cells/*/cell.json")]
    return {c["method"]: c for c in cells}


def test_the_methods_differ_in_everything_that_is_compared(kept, expected):
    """Exchanged columns, rows or heads would be seen."""
    assert {m: c["verdict"] for m, c in kept.items()} == {
        "laplace": "agrees",
        "mean_field": "wrong_shape",
        "nuts": "shifted",
    }
    for column in next(iter(expected.values())):
        values = [row[column] for row in expected.values()]
        assert len(set(values)) >= len(values) - ("coverage" in column), column


def test_json_holds_the_scores_of_the_stored_draws(run, kept, expected):
    document = run[0].document()
    assert {c["method"]: c for c in document["cells"]} == kept
    for method, cell in kept.items():
        assert [s["label"] for s in cell["scores"]] == list(COMPONENTS)
        for score in cell["scores"]:
            for column, wanted in expected[method, score["label"]].items():
                same(column, score[column], wanted)


def test_a_cell_of_a_guide_has_the_bound_and_the_weights_of_its_draws(run, kept, draws):
    """The exact posterior gives the bound; NUTS has neither."""
    covariance = 9.0 + 2.0 * torch.eye(GROUPS, dtype=torch.float64)  # of y
    evidence = float(
        torch.distributions.MultivariateNormal(torch.zeros_like(Y), covariance).log_prob(Y)
    )
    normal = torch.distributions.Normal
    for method in ("laplace", "mean_field"):
        cell = kept[method]
        q = torch.as_tensor(draws[method][0])
        mu, effect = q[:, 0], q[:, 1:]
        log_p = normal(0.0, 3.0).log_prob(mu) + normal(mu[:, None], 1.0).log_prob(effect).sum(-1)
        log_p = log_p + normal(effect, 1.0).log_prob(Y).sum(-1)
        sd = q.std(0) if method == "mean_field" else None
        log_q = (
            normal(q.mean(0), sd).log_prob(q).sum(-1)
            if sd is not None
            else torch.distributions.MultivariateNormal(q.mean(0), q.T.cov()).log_prob(q)
        )
        weights = log_p - log_q  # with the moments of the draws in place of the guide's own
        error = float(weights.std()) / math.sqrt(len(q)) + 0.002
        assert cell["elbo"]["value_nats"] == pytest.approx(float(weights.mean()), abs=4 * error)
        # it is the bound of the fit, from draws of its own, not the mean of these weights
        place = next(p for p in run[1].glob(f"cells/*--{method}--*/guide.pt"))
        with zipfile.ZipFile(place) as archive:
            stored = json.loads(archive.read("meta.json"))["elbo"]
        assert cell["elbo"]["value_nats"] == stored["value_nats"]
        assert cell["elbo"]["se"] == stored["se"]
    assert kept["laplace"]["elbo"]["value_nats"] == pytest.approx(evidence, abs=1e-6)
    assert kept["mean_field"]["elbo"]["value_nats"] < evidence - 0.2
    assert kept["laplace"]["pareto_k"]["value"] < kept["mean_field"]["pareto_k"]["value"]
    assert kept["nuts"]["elbo"] is None
    assert kept["nuts"]["pareto_k"] is None


def test_every_cell_of_the_csv_is_that_of_its_cell(run, kept, expected):
    rows = list(csv.DictReader((run[1] / "results.csv").read_text().splitlines()))
    assert [(r["method"], r["label"]) for r in rows] == [
        (m, label) for m in sorted(METHODS) for label in COMPONENTS
    ]
    for row in rows:
        cell = kept[row["method"]]
        score = next(s for s in cell["scores"] if s["label"] == row["label"])
        for column in expected[row["method"], row["label"]]:
            assert float(row[column]) == score[column], column
        assert row["index"] == ".".join(map(str, score["index"]))
        for name in ("entry", "status", "verdict", "seed"):
            assert row[name] == str(cell[name])
        figures = {
            "elbo": (cell["elbo"] or {}).get("value_nats"),
            "elbo_se": (cell["elbo"] or {}).get("se"),
            "pareto_k": (cell["pareto_k"] or {}).get("value"),
            "gradient_evaluations": cell["cost"]["gradient_evaluations"],
            "c2st": next(d["value"] for d in cell["distances"] if d["name"] == "c2st"),
            "c2st_se": next(d["se"] for d in cell["distances"] if d["name"] == "c2st"),
        }
        for name, value in figures.items():
            assert row[name] == ("" if value is None else str(value)), name
    costs = list(csv.DictReader((run[1] / "costs.csv").read_text().splitlines()))
    assert [c["method"] for c in costs] == sorted(METHODS)
    for cost in costs:
        expected_cost = kept[cost["method"]]["cost"]
        assert {k: cost[k] for k in expected_cost} == {
            k: "" if v is None else str(v) for k, v in expected_cost.items()
        }


WORDS = {"laplace": "agrees", "mean_field": "wrong shape", "nuts": "shifted"}


def table_of(text, head):
    """Return the rows of the Markdown table whose head starts so."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(head))
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines[first:last]]
    return [cells[0], *cells[2:]]


def decides(text, method, expected, draws):
    """Assert that a cell of the overview shows the number that decided it, recomputed."""
    _, _, covariance = normal_entry()
    text = text.replace("\\", "").replace("\N{MINUS SIGN}", "-")
    if method == "mean_field":  # correlations differ most: independent draws of dependent sites
        name = re.search(r"mu, (effect\[\d\]) *(?:<br>)?correlation", text)[1]
        pair = [0, COMPONENTS.index(name)]
        found = float(re.search(r"correlation ([-+\d.]+) ±", text)[1])
        true = float(re.search(r"not ([-+\d.]+)", text)[1])
        own = np.corrcoef(draws[method].reshape(-1, 4)[:, pair].T)[0, 1]
        exact = float(covariance[0, pair[1]] / (covariance[0, 0] * covariance[1, 1]).sqrt())
        assert found == pytest.approx(own, abs=0.0051)
        assert true == pytest.approx(exact, abs=0.03)  # from 8,000 draws of the reference
    else:
        rows = {label: expected[method, label]["mean_error"] for label in COMPONENTS}
        label = max(rows, key=lambda n: abs(rows[n]))
        assert label in text
        found = re.search(r"mean ([-+\d.]+) ± ([\d.]+) sd", text)
        assert float(found[1]) == pytest.approx(rows[label], abs=0.0006)
        assert float(found[2]) == pytest.approx(expected[method, label]["mean_error_se"], rel=0.05)


def test_the_overview_in_markdown_has_each_verdict_under_its_head(run, expected, draws):
    heads, row = table_of((run[1] / "report.md").read_text(), "| entry |")
    assert tuple(h.replace("\\", "") for h in heads[1:-1]) == METHODS
    shown = dict(zip(METHODS, row[1:-1], strict=True))
    for method in METHODS:
        assert f"**{WORDS[method]}**" in shown[method]
    decides(shown["mean_field"], "mean_field", expected, draws)
    decides(shown["nuts"], "nuts", expected, draws)


def test_the_scores_in_markdown_are_those_of_the_draws(run, expected):
    heads, *rows = table_of((run[1] / "report.md").read_text(), "| component | mean")
    assert len(rows) == len(COMPONENTS)
    for row in rows:
        label = row[0].replace("\\", "")
        for method, text in zip(METHODS, row[1:], strict=True):
            assert heads[1 + METHODS.index(method)].replace("\\", "").startswith(method)
            mean, ratio = text.split(", ")
            wanted = expected[method, label]
            assert numbers(mean)[0][0] == pytest.approx(wanted["mean_error"], abs=0.006)
            assert numbers(ratio)[0][0] == pytest.approx(wanted["sd_ratio"], abs=0.006)
            assert numbers(ratio)[1][0] == pytest.approx(wanted["sd_ratio_se"], abs=0.002)


@pytest.fixture(scope="module")
def tables(run):
    return Table((run[1] / "report.html").read_text()).tables


def test_the_overview_in_html_has_each_verdict_under_its_head(tables, expected, draws):
    ((_, (heads, row)),) = [t for t in tables if t[0] == "heat"]
    assert tuple(heads[1:-1]) == METHODS
    for method, text in zip(METHODS, row[1:-1], strict=True):
        assert text.startswith(WORDS[method])
    decides(row[1], "mean_field", expected, draws)
    decides(row[3], "nuts", expected, draws)


def test_all_scores_in_html_are_those_of_the_draws(tables, expected):
    heads, *rows = next(t for _, t in tables if t[0][:2] == ["component", "method"])
    assert len(rows) == len(COMPONENTS) * len(METHODS)
    columns = {
        "mean error": ("mean_error", "mean_error_se"),
        "sd ratio": ("sd_ratio", "sd_ratio_se"),
        "Wasserstein": ("wasserstein",),
        "50 % cov": ("coverage50",),
        "90 % cov": ("coverage90",),
    }
    seen, label = set(), ""
    for row in rows:
        label = row[0] or label
        wanted = expected[row[1], label]
        for head, text in zip(heads[2:], row[2:], strict=True):
            match = next((c for w, c in columns.items() if w.lower() in head.lower()), None)
            values = numbers(text)
            if match is None:
                assert head == "5 / 50 / 95 % error"
                match = ("q05_error", "q50_error", "q95_error")
            seen.update(match)
            factor = 100 if "coverage" in match[0] else 1
            assert len(values) == len(match), (head, text)
            for (value, unit), column in zip(values, match, strict=True):
                slack = 0.5001 * unit + factor * abs(wanted[column]) * LOOSE.get(column, 0.0)
                assert abs(value - factor * wanted[column]) <= slack, (head, text, column)
    assert seen == set(next(iter(expected.values())))


def test_trust_and_cost_in_html_are_those_of_the_cells(tables, kept, draws):
    _, *rows = next(t for _, t in tables if t[0] == ["", *METHODS])
    shown = {row[0]: dict(zip(METHODS, row[1:], strict=True)) for row in rows}
    chains = [draws["nuts"][..., i] for i in range(GROUPS + 1)]
    bulk = min(float(arviz.ess(x, method="bulk")) for x in chains)
    tail = min(float(arviz.ess(x, method="tail", prob=(0.05, 0.95))) for x in chains)
    assert bulk > 1.1 * tail  # exchanged figures would be seen
    says(shown["ESS bulk / tail"]["nuts"], bulk, tail)
    says(shown["R-hat"]["nuts"], max(float(arviz.rhat(x)) for x in chains))
    says(shown["divergences"]["nuts"], 2)
    says(shown["E-BFMI"]["nuts"], kept["nuts"]["mcmc"]["ebfmi_min"])
    for method in ("mean_field", "laplace"):
        elbo, k = kept[method]["elbo"], kept[method]["pareto_k"]
        assert numbers(shown["ELBO"][method])[0][0] == pytest.approx(elbo["value_nats"], abs=1e-3)
        tail = min(k["draws"] / 5, 3 * k["draws"] ** 0.5)
        error = (1 + k["value"]) * tail**0.5 / (tail + 10) if k["value"] else 0.0
        figures = shown["k-hat"][method].replace("≤", "").replace("±", "")
        says(figures, k["value"], error, k["threshold"])
        says(shown["importance ESS"][method], k["importance_ess"], k["draws"])
    for method in METHODS:
        cost = kept[method]["cost"]
        says(shown["gradients"][method], cost["gradient_evaluations"])
        c2st = next(d for d in kept[method]["distances"] if d["name"] == "c2st")
        says(
            shown["C2ST accuracy"][method].replace("C2ST", ""),
            *(c2st[k] for k in ("value", "se", "floor")),
        )
    assert [shown[row]["nuts"] for row in ("ELBO", "k-hat", "importance ESS")] == ["–"] * 3
    assert shown["time"]["nuts"] == "12 s"


def test_estimates_in_html_are_the_quantiles_of_the_draws(run, tables, draws):
    heads, *rows = next(t for c, t in tables if c == "numbers estimates")
    assert heads == ["component", "reference", *METHODS]
    truth = run[0].report.entries[0].reference.posterior
    p = np.concatenate([truth.draws["mu"][..., None], truth.draws["effect"]], -1)
    for label, row in zip(COMPONENTS, rows, strict=True):
        assert row[0].startswith(label)
        for head, text in zip(heads[1:], row[1:], strict=True):
            q = draws.get(head, p)[..., COMPONENTS.index(label)].ravel()
            says(text, *np.quantile(q, (0.5, 0.05, 0.95)))
