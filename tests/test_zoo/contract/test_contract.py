import re
from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import zoo
from zoo import contract
from zoo.quantities import log_site, site, sorted_by
from zoo.types import Analytic, Data, ModelEntry, Moments, Quantity
from zoo.user_models.scaffold import new_model

Y = torch.tensor([1.2, 0.3, -0.4, 0.3, 2.0, 0.9], dtype=torch.float64)


def results(entry, but=()):
    return {c.name: contract.run(c) for c in contract.checks(entry) if c.name not in but}


def outcome(entry, name):
    return contract.run(next(c for c in contract.checks(entry) if c.name == name))


def entry_of(program, *, y=Y, batched=False, quantities=None, **card):
    rows = {"batched": ("y",), "size": len(y)} if batched else {}
    data = Data(train={"y": y}, observed=("y",), source="made up", licence="CC0-1.0", **rows)
    return ModelEntry(
        name="tiny",
        title="A tiny model",
        make_data=lambda seed: data,
        build=lambda data: program,
        quantities=quantities or {"z": Quantity(fn=site("z"))},
        **{"reference": "none", **card},
    )


def normal(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


# -- every entry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stein"),
    [
        *((name, name == "eight_schools") for name in zoo.names()),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in zoo.names()),
    ],
)
def test_every_entry_passes_its_contract(name, stein, load_entry):
    """Half of the time goes to Stein's identities of stored draws.

    `test_reference` and `test_posteriordb_parity` see them of each stored reference as well.
    """
    found = results(load_entry(name), but=() if stein else ("stein_stored",))
    assert not {k: r.sentence for k, r in found.items() if r.status == "failed"}


def test_a_new_model_passes_at_once(tmp_path):
    found = results(zoo.load(str(new_model("fresh", tmp_path))))
    assert {r.status for r in found.values()} == {"ok", "skipped"}
    assert all(r.sentence.endswith(".") and "\n" not in r.sentence for r in found.values())
    assert sum(r.status == "ok" for r in found.values()) >= 12


def test_checks_have_unique_names_and_reasons():
    checks = contract.checks(zoo.load("coin"))
    assert len({c.name for c in checks}) == len(checks)
    assert all(c.why.endswith(".") for c in checks)


def test_an_entry_from_a_program_passes():
    found = results(zoo.from_program(normal, {"y": Y}))
    assert not {k: r for k, r in found.items() if r.status == "failed"}


# -- planted faults ----------------------------------------------------------------------------


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def conjugate(prior=1.0, jacobian=True, draws_shift=0.0, sd_factor=1.0, generator=seeded):
    """A log-normal rate with a closed form: normal prior and likelihood of the log rate."""
    precision = 1 + len(Y)
    mean, sd = Y.sum() / precision, precision**-0.5

    def program(y=None):
        if jacobian:
            z = pyro.sample("z", dist.LogNormal(0.0, prior))
        else:
            z = pyro.sample(
                "z", dist.ImproperUniform(torch.distributions.constraints.positive, (), ())
            )
            # the density of log z, but the site is z
            pyro.factor("prior", dist.Normal(0.0, 1.0).log_prob(z.log()))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(z.log(), 1.0), obs=y)

    def sample(n, seed):
        noise = torch.randn(n, generator=generator(seed), dtype=torch.float64)
        return {"z": (mean + draws_shift + sd_factor * sd * noise).exp()}

    zero = torch.zeros(())
    moments = {"log_z": Moments(mean, zero, torch.tensor(sd), zero)}
    return entry_of(
        program,
        quantities={"log_z": Quantity(fn=log_site("z"))},
        reference="analytic",
        analytic=lambda data: Analytic(sample=sample, moments=moments),
    )


def test_stein_accepts_the_right_program():
    found = results(conjugate())
    assert found["stein_analytic"].status == found["analytic_draws"].status == "ok"


@pytest.mark.parametrize(
    ("generator", "sentence"),
    [
        (lambda seed: seeded(0), "same draws of 'z' for two seeds"),
        (lambda seed: None, "other draws of 'z' for the same seed"),
    ],
)
def test_exact_draws_depend_on_their_seed_alone(generator, sentence):
    result = outcome(conjugate(generator=generator), "analytic_draws")
    assert result.status == "failed"
    assert sentence in result.sentence


@pytest.mark.parametrize(
    "fault", [{"prior": 1.3}, {"jacobian": False}, {"draws_shift": 0.05}, {"sd_factor": 0.9}]
)
def test_stein_catches_a_wrong_prior_jacobian_or_draws(fault):
    result = outcome(conjugate(**fault), "stein_analytic")
    assert result.status == "failed"
    assert "'z'" in result.sentence


def test_moments_that_disagree_with_their_draws_are_caught():
    assert outcome(conjugate(draws_shift=0.05), "analytic_draws").status == "failed"
    assert outcome(conjugate(sd_factor=0.9), "analytic_draws").status == "failed"


def test_a_moving_support_is_refused():
    def program(y=None):
        alpha = pyro.sample("alpha", dist.Uniform(0.0, 1.0))
        pyro.sample("z", dist.Uniform(0.0, 1 - alpha))
        normal_part = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(normal_part, 1.0), obs=y)

    found = results(entry_of(program))
    assert found["log_density"].status == "failed"
    assert "fraction in (0, 1)" in found["log_density"].sentence
    assert found["gradient"].status == "skipped"


def mixture(scale_prior, labeled=False):
    def program(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        scale = pyro.sample("scale", scale_prior.expand([2]).to_event(1))
        with pyro.plate("rows", 6):
            c = pyro.sample(
                "c", dist.Categorical(torch.tensor([0.5, 0.5])), infer={"enumerate": "parallel"}
            )
            pyro.sample("y", dist.Normal(z[c], scale[c]), obs=y)

    return entry_of(
        program,
        quantities={
            "z": Quantity(fn=site("z") if labeled else sorted_by("z", "z"), dims=("class",))
        },
    )


@pytest.mark.parametrize(
    "prior", [dist.HalfNormal(1.0), dist.HalfCauchy(1.0), dist.Exponential(1.0)]
)
def test_a_soft_scale_prior_fails_the_propriety_check(prior):
    result = outcome(mixture(prior), "proper_at_ties")
    assert result.status == "failed"
    assert "improper" in result.sentence


@pytest.mark.parametrize("prior", [dist.LogNormal(0.0, 1.0), dist.InverseGamma(2.0, 1.0)])
def test_a_firm_scale_prior_passes_the_propriety_check(prior):
    assert outcome(mixture(prior), "proper_at_ties").status == "ok"


def test_labeled_quantities_of_a_mixture_are_caught():
    prior = dist.LogNormal(0.0, 1.0)
    assert outcome(mixture(prior), "label_safe").status == "ok"
    assert outcome(mixture(prior, labeled=True), "label_safe").status == "failed"
    assert outcome(mixture(prior), "enumeration").status == "ok"


@pytest.mark.parametrize("index", [True, False])
def test_a_plate_that_counts_the_rows_it_is_given_is_no_fault(index):
    """`pyro.plate(name, len(x))`, as in a stock autoencoder, and the form with an index."""

    def rows(x, index=None):
        with pyro.plate("row", 12, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def counted(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    entry = zoo.from_program(rows if index else counted, {"x": torch.arange(12.0)}, minibatch=4)
    assert entry.build(entry.load_data()).counts_rows is not index
    said = outcome(entry, "index_used")
    assert (said.status, said.sentence) == (
        "ok",
        "The plate of 12 units holds the 4 units it is given.",
    )


@pytest.mark.parametrize(
    ("use", "failing"),
    [
        (lambda index: index, set()),
        (lambda index: index.flip(0), {"index_used"}),
        (lambda index: torch.arange(len(index)), {"index_used"}),
        (lambda index: None, {"index_used"}),
    ],
)
def test_a_wrong_index_is_caught(use, failing):
    def program(y=None, index=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        subsample = None if index is None else use(index)
        with pyro.plate(
            "rows",
            6,
            subsample_size=None if subsample is not None or index is None else len(index),
            subsample=subsample,
        ):
            local = pyro.sample("local", dist.Normal(z, 1.0))
            pyro.sample("y", dist.Normal(local, 1.0), obs=y)

    found = {
        k for k, r in results(entry_of(program, batched=True)).items() if r.status == "failed"
    }
    assert found == failing


@pytest.mark.parametrize("fault", ["swapped rows", "no scale"])
def test_a_biased_minibatch_is_caught(fault):
    offsets = torch.arange(6.0, dtype=torch.float64)

    def program(y=None, index=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        rows = torch.arange(6) if index is None else index
        if fault == "no scale" and index is not None:
            with pyro.plate("rows", len(rows)):
                pyro.sample("y", dist.Normal(z + offsets[rows], 1.0), obs=y)
        else:
            with pyro.plate("rows", 6, subsample=rows):
                pyro.sample(
                    "y",
                    dist.Normal(z + offsets[rows if index is None else rows.flip(0)], 1.0),
                    obs=y,
                )

    found = results(entry_of(program, batched=True))
    assert found["minibatch_unbiased"].status == "failed"
    assert (found["row_order"].status == "failed") == (fault == "swapped rows")


def test_structure_faults_are_caught():
    def no_plate(y=None):
        pyro.sample(
            "y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), torch.ones(6)), obs=y
        )

    assert outcome(entry_of(no_plate), "plates").status == "failed"

    def needs_y(y):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    result = outcome(entry_of(needs_y), "prior_predictive")
    assert result.status == "failed"
    assert "default None" in result.sentence
    assert outcome(entry_of(lambda y=None: normal(Y)), "prior_predictive").status == "failed"

    def detached(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(z.detach(), 1.0), obs=y)

    assert outcome(entry_of(detached), "gradient").status == "failed"

    def random_inside(y=None):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(torch.rand(()), 1.0), obs=y)

    assert outcome(entry_of(random_inside), "log_density").status == "failed"


def test_flat_priors_skip_the_prior_check():
    def program(y=None):
        z = pyro.sample("z", dist.ImproperUniform(torch.distributions.constraints.real, (), ()))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    found = results(entry_of(program))
    assert found["prior_predictive"].status == "skipped"
    assert "improper" in found["prior_predictive"].sentence
    assert not [k for k, r in found.items() if r.status == "failed"]


def test_card_and_data_faults_are_caught():
    good = entry_of(normal)
    assert outcome(replace(good, title=" "), "card").status == "failed"
    assert outcome(good, "citation").status == "skipped"
    unsourced = replace(
        good, make_data=lambda seed: Data(train={"y": Y}, observed=("y",), licence="CC0-1.0")
    )
    assert outcome(unsourced, "data").status == "failed"
    single = Data(train={"y": Y.float()}, observed=("y",), source="s", licence="l")
    assert "float32" in outcome(replace(good, make_data=lambda seed: single), "data").sentence
    moving = replace(
        good,
        make_data=lambda seed: Data(
            train={"y": torch.rand(6)}, observed=("y",), source="s", licence="l"
        ),
    )
    found = {
        c.name: contract.run(c)
        for c in contract.checks(moving)
        if c.name in ("data_repeatable", "no_global_state")
    }
    assert {r.status for r in found.values()} == {"failed"}
    assert "torch's random state" in found["no_global_state"].sentence


def test_quantity_faults_are_caught():
    for quantity in (
        Quantity(fn=site("z"), dims=("extra",)),
        Quantity(fn=lambda draws, data: draws["z"].mean(0)),
        Quantity(fn=lambda draws, data: draws["z"] - draws["z"][0]),
        Quantity(fn=log_site("z")),
        Quantity(fn=site("zz")),
    ):
        assert (
            outcome(entry_of(normal, quantities={"q": quantity}), "quantities").status == "failed"
        )


class Learner(nn.Module):
    def __init__(self, dead):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        if dead:
            self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(self.shift, 1.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_weights_without_gradient_are_caught():
    assert outcome(entry_of(Learner(False), learns=True), "parameters_trained").status == "ok"
    assert "unused" in outcome(entry_of(Learner(True), learns=True), "parameters_trained").sentence
    assert outcome(entry_of(Learner(False)), "parameters_trained").status == "failed"
    assert outcome(entry_of(normal, learns=True), "parameters_trained").status == "failed"


def test_the_whole_file_of_the_page_passes_every_check(tmp_path):
    """The file at the end of docs/add_a_model.md; its closed form matches its log density."""
    page = (Path(__file__).parents[3] / "docs" / "add_a_model.md").read_text(encoding="utf-8")
    (code,) = [
        b
        for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "ENTRY = ModelEntry(" in b and "survey_mean" in b
    ]
    (tmp_path / "survey_mean.py").write_text(code)
    entry = zoo.load(str(tmp_path / "survey_mean.py"))
    results = {check.name: contract.run(check) for check in contract.checks(entry)}
    assert {name: r.sentence for name, r in results.items() if r.status == "failed"} == {}
    assert {"analytic_draws", "stein_analytic", "prior_predictive", "pointwise"} <= {
        n for n, r in results.items() if r.status == "ok"
    }
