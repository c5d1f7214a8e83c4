"""A user's own decoder and encoder: rows, exact posteriors, gaps, and what was trained elsewhere.

The decoder is linear, so that evidence, posterior and the exact encoder have closed forms.
"""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import nn

import benchmarks
import guides
import zoo
from benchmarks.reference.find import find
from zoo.density import guide_density
from zoo.density.log_density import LogDensity, default_dtype
from zoo.density.unit_terms import unit_terms
from zoo.errors import DataError, FitError, ProgramError, UnknownNameError, UsageError
from zoo.truth.unit_grid import exact_units
from zoo.types import Data

ROWS, HELD, PIXELS, CODES, SIGMA = 90, 20, 4, 2, 0.5
generator = torch.Generator().manual_seed(5)
LOADINGS = torch.randn(CODES, PIXELS, generator=generator, dtype=torch.float64)
LOADINGS -= (LOADINGS[1] @ LOADINGS[0] / LOADINGS[0].square().sum()) * torch.stack(
    [torch.zeros(PIXELS, dtype=torch.float64), LOADINGS[0]]
)  # orthogonal rows: the posterior has independent axes, and independent normals are exact
ALL = torch.randn(ROWS + HELD, CODES, generator=generator, dtype=torch.float64) @ LOADINGS
ALL += SIGMA * torch.randn(ALL.shape, generator=generator, dtype=torch.float64)
X, TEST = ALL[:ROWS], ALL[ROWS:]
PRECISION = 1 + LOADINGS.square().sum(1) / SIGMA**2
LAW = dist.MultivariateNormal(
    torch.zeros(PIXELS, dtype=torch.float64),
    LOADINGS.T @ LOADINGS + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64),
)
EVIDENCE = LAW.log_prob(ALL)


def networks():
    """The true decoder and the exact encoder, as networks trained in plain torch would be."""
    decoder, encoder = nn.Linear(CODES, PIXELS).double(), nn.Linear(PIXELS, CODES).double()
    with torch.no_grad():
        decoder.weight.copy_(LOADINGS.T)
        encoder.weight.copy_(LOADINGS / SIGMA**2 / PRECISION[:, None])
        decoder.bias.zero_()
        encoder.bias.zero_()
    return decoder, encoder


def pair(decoder, encoder, scale=1.0, plate=len):
    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("row", plate(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(CODES), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), SIGMA).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("row", plate(x)):
            pyro.sample("z", dist.Normal(encoder(x), scale * PRECISION**-0.5).to_event(1))

    return model, guide


def entry_of(scale=1.0, plate=len, **options):
    model, guide = pair(*networks(), scale, plate)
    options = {"trained": True, "test": {"x": TEST}, **options}
    return zoo.from_program(model, {"x": X}, guide=guide, **options)


@pytest.mark.parametrize("plate", [len, lambda x: ROWS], ids=["len(x)", "number"])
def test_what_was_trained_in_plain_torch_is_scored_without_a_step(plate):
    """The exact pair: every log weight is the log evidence."""
    entry = entry_of(plate=plate, judged=5)
    fit = guides.fit(entry, "own", seed=0)
    assert (fit.cost.steps, entry.learns) == (0, False)
    assert fit.elbo.value_nats == pytest.approx(float(EVIDENCE[:ROWS].sum()), abs=1e-8)
    assert fit.elbo.se < 1e-8
    few = guides.transfer(fit, entry.judged(fit.data))
    chosen = torch.tensor([0, 22, 44, 66, 89, *(ROWS + r for r in (0, 4, 9, 14, 19))])
    weights = guides.draw(few, 50).log_weights
    assert torch.allclose(weights, EVIDENCE[chosen].sum(), rtol=1e-9)
    held = guides.transfer(fit, {"x": TEST})
    assert held.elbo.value_nats == pytest.approx(float(EVIDENCE[ROWS:].sum()), abs=1e-8)


@pytest.mark.parametrize("plate", [len, lambda x: ROWS], ids=["len(x)", "number"])
def test_rows_without_an_index_are_all_there_is(plate):
    """Twenty rows are twenty, not a minibatch of the ninety the entry was made with."""
    entry = entry_of(plate=plate, judged=5)
    program = entry.program(entry.load_data())
    with default_dtype(entry.dtype):
        node = poutine.trace(program).get_trace(x=TEST).nodes["x"]
    assert (float(node["scale"]), node["fn"].batch_shape) == (1.0, (HELD,))


def test_networks_have_the_names_their_author_gave_them():
    fit = guides.fit(entry_of(judged=5), "own", seed=0)
    decoder, encoder = networks()
    assert set(fit.networks) == {"decoder", "encoder"}
    assert torch.equal(fit.networks["decoder"](X[:, :CODES]), decoder(X[:, :CODES]))
    assert torch.equal(fit.networks["encoder"].weight, encoder.weight)


def test_the_exact_posterior_takes_the_density_there_is(monkeypatch):
    entry = entry_of(judged=5)
    data = entry.judged(entry.load_data())
    density = LogDensity(entry.program(data), data)
    alone = find(entry, data)
    monkeypatch.setattr("benchmarks.reference.find.LogDensity", None)
    found = find(entry, data, density=density)
    assert (found.kind, found.log_evidence) == ("exact", alone.log_evidence)


def test_steps_0_scores_networks_as_they_are():
    fit = guides.fit(entry_of(trained=False), "own", seed=0, steps=0)
    assert fit.elbo.value_nats == pytest.approx(float(EVIDENCE[:ROWS].sum()), abs=1e-8)


def test_a_network_and_the_store_that_disagree_are_not_guessed_between():
    pyro.get_param_store()["decoder$$$bias"] = torch.ones(PIXELS, dtype=torch.float64)
    try:
        with pytest.raises(UsageError, match=r"'decoder'.*other values of 'bias'.*update_module"):
            entry_of()
    finally:
        pyro.clear_param_store()


def test_the_grid_has_the_closed_form():
    """Evidence of the compared rows, and moments of their codes."""
    entry = entry_of(judged={"train": [3, 7], "test": 2})
    data = entry.judged(entry.load_data())
    rows = torch.tensor([3, 7, ROWS, ROWS + HELD - 1])
    truth = find(entry, data)
    assert truth.kind == "exact"
    assert truth.log_evidence == pytest.approx(float(EVIDENCE[rows].sum()), abs=1e-3)
    mean = ALL[rows] @ LOADINGS.T / SIGMA**2 / PRECISION
    draws = truth.posterior.draws["z"].flatten(0, 1)
    error = PRECISION**-0.5 / len(draws) ** 0.5
    assert bool(((draws.mean(0) - mean).abs() < 5 * error).all())
    assert bool(((draws.std(0) * PRECISION**0.5 - 1).abs() < 5 / (2 * len(draws)) ** 0.5).all())
    assert data.coords["row"] == ["3", "7", "0 held out", "19 held out"]


def test_constrained_codes_are_integrated_where_they_live():
    """Gamma prior, Poisson counts: the evidence of a row is negative binomial."""
    counts = torch.tensor([0.0, 3.0, 11.0, 4.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("row", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    entry = zoo.from_program(model, {"x": counts}, batched=["x"])
    data = entry.load_data()
    exact = exact_units(LogDensity(entry.program(data), data))
    right = dist.GammaPoisson(torch.tensor(2.0).double(), torch.tensor(0.5).double())
    assert exact.log_evidence == pytest.approx(float(right.log_prob(counts).sum()), abs=2e-3)
    draws = exact.sample(4000, 0)["rate"]
    assert bool((draws > 0).all())
    sd = (2 + counts).sqrt() / 1.5
    assert bool(((draws.mean(0) - (2 + counts) / 1.5).abs() < 5 * sd / 4000**0.5).all())


def test_a_card_of_a_trained_pair():
    """The exact encoder agrees; one of twice its scale is found out."""
    for scale, verdict in ((1.0, "agrees"), (2.0, "too_wide")):
        model, guide = pair(*networks(), scale)
        card = benchmarks.compare_program(
            model,
            {"x": X},
            ["own"],
            guide=guide,
            trained=True,
            judged=2,
            nuts=False,
            trust=False,
            quick=True,
            jobs=1,
            progress=False,
        )
        found = card.comparisons["own"]
        assert (found.verdict, found.reference.kind) == (verdict, "exact")
        assert found.trust, "the checks of trust ran"
        if scale == 1.0:
            rows = EVIDENCE[torch.tensor([0, ROWS - 1])]
            assert found.elbo["value_nats"] == pytest.approx(float(rows.sum()), abs=1e-6)


@pytest.mark.usefixtures("brief", "eager")
def test_a_card_of_a_learned_decoder_says_who_trained_it():
    torch.manual_seed(0)
    model, guide = pair(nn.Linear(CODES, PIXELS), nn.Linear(PIXELS, CODES))
    entry_options = {
        "test": {"x": TEST},
        "judged": {"train": [0, 1], "test": [0]},
        "minibatch": 30,
        "training": {"steps": 60, "patience": 10, "anneal": 20},
    }
    entry = zoo.from_program(model, {"x": X}, guide=guide, **entry_options)
    assert entry.families[0] == "own"
    assert entry.learns
    assert (entry.reference, entry.minibatch) == ("exact", 30)
    card = benchmarks.compare_program(
        model,
        {"x": X},
        ["own", "mean_field"],
        guide=guide,
        nuts=False,
        trust=False,
        quick=True,
        jobs=1,
        progress=False,
        **entry_options,
    )
    told = " ".join(str(card).split())
    assert re.search(r"own trained the weights of the program in \d+ steps", told), told
    assert "3 units of 'row'" in told
    rows = card.comparisons["own"].posterior.draws["z"].shape[1:]
    assert rows == (3, CODES)
    assert card.comparisons["mean_field"].reference.kind == "exact"


def test_gaps_of_an_own_encoder():
    """log p(x) in closed form; no gap if exact, log 2 - 3/8 per axis at half the scale."""
    fit = guides.fit(entry_of(judged=5), "own", seed=0)
    report = benchmarks.gap_report(fit, rows=3)
    right = EVIDENCE[torch.tensor([0, 44, 89, *(ROWS + r for r in (0, 9, 19))])]
    assert report.faults == ()
    assert [d.part for d in report.data] == ["train"] * 3 + ["held out"] * 3
    for datum, value in zip(report.data, right, strict=True):
        assert datum.log_evidence_nats == pytest.approx(float(value), abs=1e-3)
        assert datum.kl_nats == pytest.approx(0.0, abs=1e-3)
    half = guides.fit(entry_of(0.5, judged=5), "own", seed=0)
    for datum in benchmarks.gap_report(half, rows=2).data:
        assert datum.kl_nats == pytest.approx(2 * (0.6931472 - 0.375), abs=1e-3)
        assert datum.amortization_gap_nats == pytest.approx(datum.kl_nats, abs=5e-3)


def test_an_observation_that_counts_twice_does_so_in_every_number_of_a_row():
    """N(x | z, s)^2 is N(x | z, s / sqrt 2) / (2 s sqrt pi): normal posterior and evidence."""
    x = torch.tensor([0.4, -1.1, 2.0], dtype=torch.float64)
    sd = (1 + 2 / SIGMA**2) ** -0.5

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.scale(scale=2.0):
                pyro.sample("x", dist.Normal(z, SIGMA), obs=x)

    def guide(x):
        factor = pyro.param("factor", torch.tensor(2 * sd**2 / SIGMA**2, dtype=torch.float64))
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(factor * x, sd))

    entry = zoo.from_program(model, {"x": x}, guide=guide, batched=["x"])
    fit = guides.fit(entry, "own", seed=0, steps=0)
    marginal = torch.distributions.Normal(0 * x, (1 + SIGMA**2 / 2) ** 0.5)
    right = marginal.log_prob(x) - math.log(2 * SIGMA * math.pi**0.5)
    assert fit.elbo.value_nats == pytest.approx(float(right.sum()), abs=1e-8)
    report = benchmarks.gap_report(fit, rows=[0, 1, 2])
    assert report.faults == ()
    for datum, value in zip(report.data, right, strict=True):
        assert datum.log_evidence_nats == pytest.approx(float(value), abs=1e-4)
        assert datum.kl_nats == pytest.approx(0.0, abs=1e-4)


def without_parameters(x):
    with pyro.plate("row", len(x)):
        mean = x @ LOADINGS.T / SIGMA**2 / PRECISION
        pyro.sample("z", dist.Normal(mean, PRECISION**-0.5).to_event(1))


def test_a_guide_without_parameters_is_scored_and_not_trained():
    """It is exact; of one row per part no error over rows is known."""
    model, _ = pair(*networks())
    options = {"guide": without_parameters, "test": {"x": TEST}}
    entry = zoo.from_program(model, {"x": X}, trained=True, **options)
    fit = guides.fit(entry, "own", seed=0)
    assert fit.elbo.value_nats == pytest.approx(float(EVIDENCE[:ROWS].sum()), abs=1e-8)
    held = guides.transfer(fit, {"x": TEST})
    assert held.elbo.value_nats == pytest.approx(float(EVIDENCE[ROWS:].sum()), abs=1e-8)
    report = benchmarks.gap_report(fit, rows=1)
    assert math.isnan(report.mean("kl_nats", "train")[1])
    assert f"| exact log p(x) | {float(EVIDENCE[0]):.3f} (one row) |" in report.markdown()
    fixed = zoo.from_program(model, {"x": X}, batched=["x"], guide=without_parameters)
    with pytest.raises(FitError, match=r"no trainable parameter.*by steps=0"):
        guides.fit(fixed, "own", seed=0, steps=20)


def test_a_guide_whose_parameters_do_not_reach_the_elbo_says_so():
    def guide(x):
        shift = pyro.param("shift", torch.tensor(0.3)).detach()
        with pyro.plate("row", len(x)):
            mean = x @ LOADINGS.T / SIGMA**2 / PRECISION + shift
            pyro.sample("z", dist.Normal(mean, PRECISION**-0.5).to_event(1))

    model = pair(nn.Linear(CODES, PIXELS).requires_grad_(False), None)[0]
    entry = zoo.from_program(model, {"x": X}, guide=guide)
    with pytest.raises(FitError, match=r"depends on no trainable parameter: .* detached"):
        guides.fit(entry, "own", seed=0, steps=20)


def test_gaps_need_normals_computed_from_the_data():
    decoder, encoder = networks()
    model, _ = pair(decoder, encoder)

    def heavy(x):
        pyro.module("encoder", encoder)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.StudentT(4.0, encoder(x), 1.0).to_event(1))

    entry = zoo.from_program(model, {"x": X}, guide=heavy, trained=True, batched=["x"])
    fit = guides.fit(entry, "own", seed=0)
    with pytest.raises(UsageError, match="draws 'z' from StudentT; accepted: Normal"):
        benchmarks.gap_report(fit, rows=2)


def test_a_guide_with_a_parameter_per_row_serves_no_others():
    def guide(x):
        loc = pyro.param("loc", torch.zeros(ROWS, CODES))
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    model, _ = pair(*networks())
    entry = zoo.from_program(model, {"x": X}, guide=guide, batched=["x"])
    fit = guides.fit(entry, "own", seed=0, steps=0)
    with pytest.raises(FitError, match="without a parameter per row"):
        guides.transfer(fit, {"x": TEST})


# -- arguments ---------------------------------------------------------------------------------


def test_encoder_inputs_are_named_or_computed():
    by_name = entry_of(amortize="x").amortize(entry_of().load_data().train)
    assert torch.equal(by_name, X)
    computed = entry_of(amortize=lambda t: t["x"].mean(-1, keepdim=True))
    assert computed.amortize({"x": X}).shape == (ROWS, 1)
    with pytest.raises(UnknownNameError, match="encoder input"):
        entry_of(amortize="y")
    with pytest.raises(UsageError, match=r"amortize returned shape \(4,\)"):
        entry_of(amortize=lambda t: t["x"].mean(0))


def test_an_argument_that_does_not_exist_is_no_fault_of_the_program():
    with pytest.raises(UnknownNameError, match=r"from_program 'amortise' \(did you mean 'amort"):
        entry_of(amortise="x")
    with pytest.raises(UsageError, match=r"missing 1 required positional argument: 'data'; acc"):
        zoo.from_program(pair(*networks())[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"judged": {"validation": 3}}, UnknownNameError, "part of judged"),
        ({"judged": [0, ROWS]}, UsageError, f"different row numbers from 0 to {ROWS - 1}"),
        ({"judged": 0}, UsageError, "at least 1 row"),
        ({"judged": "few"}, UsageError, "or 'all'"),
        ({"test": {"x": TEST[:, :3]}}, DataError, "rows like those of the training data"),
        ({"test": {"y": TEST}}, UnknownNameError, "argument of the model|held-out data"),
    ],
)
def test_rows_that_do_not_exist_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        entry_of(**options)


def test_latents_of_all_rows_have_no_posterior_on_some():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(UsageError, match="'mean' is not a continuous value of one row"):
        zoo.from_program(model, {"x": X[:, 0]}, judged=5)
    # minibatches of it are right: one in three counts three times, the prior once
    entry = zoo.from_program(model, {"x": X[:, 0]}, minibatch=30)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    u, index = torch.tensor([0.4], dtype=torch.float64), torch.arange(0, 90, 3)
    part = density.evaluate(u, {"x": X[index, 0], "index": index})
    right = dist.Normal(0.0, 1.0).log_prob(u) + 3 * dist.Normal(u, 1.0).log_prob(X[index, 0]).sum()
    assert float(part) == pytest.approx(float(right))


def test_rows_on_another_axis_than_the_first_are_to_be_transposed():
    def model(x):
        with pyro.plate("row", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixel", len(x), dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    said = r"'z' is not .* first axis of 'x' \(4\), .* plate 'row', as long as its axis 1; if"
    with pytest.raises(UsageError, match=said + ".*transpose the data"):
        zoo.from_program(model, {"x": X.T.contiguous()}, judged=[2, 3])


def test_a_program_that_fails_on_some_rows_says_why_no_rows_are_judged():
    """Its sizes are numbers: the reason is shown, and not that a site belonged to no row."""

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * torch.ones(ROWS), 1.0), obs=x)

    with pytest.raises(ProgramError, match=r"30 of its 90 rows .* must match .* every size"):
        zoo.from_program(model, {"x": X[:, 0]}, judged=5)


def test_rows_that_depend_on_each_other_have_no_minibatches():
    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[:, 0] - z.mean(), 1.0), obs=x)

    with pytest.raises(ProgramError, match="the rows depend on each other"):
        zoo.from_program(model, {"x": X[:, 0]}, minibatch=30)
    with pytest.raises(ProgramError, match="no plate of the program is as long"):
        zoo.from_program(
            lambda x: pyro.sample(
                "x", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0).expand([90]), obs=x
            ),
            {"x": X[:, 0]},
            minibatch=30,
        )


# -- modes, and values in the store ------------------------------------------------------------


def test_a_flat_prior_beside_classes_and_rows_is_loaded():
    def model(y, index=None):
        center = pyro.sample("center", dist.ImproperUniform(constraints.real, (), ()))
        with pyro.plate("row", 8, subsample=index):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(center + 2.0 * k, 1.0), obs=y)

    before = torch.random.get_rng_state()
    entry = zoo.from_program(model, {"y": torch.linspace(-1.0, 3.0, 8)}, batched=("y",))
    assert entry.load_data().batched == ("y",)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_density_of_zero_at_one_point_says_nothing_of_the_rows():
    def model(y, index=None):
        center = pyro.sample("center", dist.Normal(torch.tensor(6.0), 1.0))
        pyro.factor("hard", torch.where(center > 5.0, 0.0, -math.inf))
        with pyro.plate("row", 8, subsample=index):
            pyro.sample("y", dist.Normal(center, 1.0), obs=y)

    entry = zoo.from_program(model, {"y": torch.linspace(5.0, 7.0, 8)}, batched=("y",))
    assert entry.load_data().size == 8


def test_a_plate_of_two_is_no_plate_of_rows():
    """Global values in a plate as long as the two rows that are looked at: no posterior by row."""

    def model(y):
        weight = pyro.param("weight", torch.tensor(1.0, dtype=torch.float64))
        with pyro.plate("component", 2):
            m = pyro.sample("m", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(m.sum(), 1.0))
            pyro.sample("y", dist.Normal(weight * z, 1.0), obs=y)

    y = torch.linspace(-1.0, 1.0, 70, dtype=torch.float64)
    entry = zoo.from_program(model, {"y": y}, batched=("y",))
    assert entry.judged is None
    assert entry.reference != "exact"
    with pytest.raises(UsageError, match=r"'m' is not a continuous value of one row"):
        zoo.from_program(model, {"y": y}, batched=("y",), judged=5)


@pytest.mark.parametrize("outer", ["pixel", "row"])
def test_terms_of_rows_are_those_of_their_plate_though_another_is_as_long(outer):
    """Four pixels and four rows: each row's log joint is that of its own pixels."""
    x = torch.linspace(-1.0, 2.0, 16, dtype=torch.float64).reshape(4, 4)  # [row, pixel]

    def model(x, index=None):
        rows = pyro.plate("row", 4, subsample=index, dim=-1)
        pixels = pyro.plate("pixel", 4, dim=-2)
        with rows:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        first, second = (pixels, rows) if outer == "pixel" else (rows, pixels)
        with first, second:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    data = Data(train={"x": x}, observed=("x",), batched=("x",), size=4)
    density = LogDensity(model, data)
    z = torch.tensor([0.3, -0.2, 1.0, 0.5], dtype=torch.float64)
    found = unit_terms(density, z)
    law = torch.distributions.Normal
    torch.testing.assert_close(found.prior, law(0.0, 1.0).log_prob(z))
    torch.testing.assert_close(found.likelihood, law(z[:, None], 1.0).log_prob(x).sum(1))


def test_draws_and_scores_are_made_in_evaluation_mode():
    """Dropout is part of the training of an encoder, not of its q."""
    decoder, encoder = networks()
    seen = []
    encoder = nn.Sequential(nn.Dropout(0.5), encoder)
    encoder[0].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    model, guide = pair(decoder, encoder)
    entry = zoo.from_program(model, {"x": X}, guide=guide, batched=["x"])
    seen.clear()
    fit = guides.fit(
        entry, "own", seed=0, steps=30, patience=5, anneal=10, weight_lr=1e-9, lr=1e-9
    )
    assert True in seen, "training drops inputs"
    seen.clear()
    first, again = (guides.draw(fit, 20, seed=3).log_weights for _ in range(2))
    assert set(seen) == {False}
    assert torch.equal(first, again)
    # steps of 1e-9 leave the exact pair, whose log weights do not vary without dropout
    assert float(first.std()) < 1e-4
    assert not any(net.training for net in fit.networks.values())
    assert encoder.training, "the caller's network keeps its mode"


def test_a_transferred_encoder_keeps_the_batch_statistics_of_its_training():
    """Other rows are encoded as all rows are: by the means and variances the fit has seen."""
    decoder, encoder = networks()
    encoder = nn.Sequential(nn.BatchNorm1d(PIXELS), encoder).double()
    model, guide = pair(decoder, encoder)
    entry = zoo.from_program(model, {"x": 3 + 2 * X}, guide=guide, batched=["x"])
    fit = guides.fit(entry, "own", seed=0, steps=40, patience=5, anneal=10)
    norm = fit.networks["encoder"][0]
    assert (norm.running_mean - 3).abs().max() < 1.5  # it is no longer 0, nor the variance 1
    before = {name: b.clone() for name, b in fit.guide.named_buffers()}
    rows = torch.tensor([5, 0, 77])
    moved = guides.transfer(fit, {"x": 3 + 2 * X[rows]})
    with default_dtype(torch.float64), torch.no_grad():
        traces = [
            poutine.block(poutine.trace(g).get_trace)(x=x)
            for g, x in ((fit.guide, 3 + 2 * X), (moved.guide, 3 + 2 * X[rows]))
        ]
    every, some = (t.nodes["z"]["fn"].base_dist.loc for t in traces)
    torch.testing.assert_close(some, every[rows])
    assert not torch.allclose(every, networks()[1](3 + 2 * X))
    for found in (fit.guide, moved.guide):
        assert before.keys() == dict(found.named_buffers()).keys()
        assert all(torch.equal(b, before[name]) for name, b in found.named_buffers())
    assert math.isfinite(moved.elbo.value_nats)


def test_values_in_the_store_that_a_fit_does_not_use_are_said():
    def model(x):
        w = pyro.param("w", torch.tensor(0.7))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)

    pyro.get_param_store()["w"] = torch.tensor(2.0)
    try:
        (said,) = [n for n in zoo.from_program(model, {"x": X[:, 0]}).notices if "store" in n]
    finally:
        pyro.clear_param_store()
    assert "other values of 'w'" in said
    assert not any("store" in n for n in zoo.from_program(model, {"x": X[:, 0]}).notices)


# -- a discrete site before a continuous one ---------------------------------------------------

CENTERS = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [0.0, 3.0]], dtype=torch.float64)


def of_classes(x):
    with pyro.plate("row", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(3, dtype=torch.float64) / 3))
        z = pyro.sample("z", dist.Normal(CENTERS[y], 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADINGS, SIGMA).to_event(1), obs=x)


def class_guide(shift):
    """The exact q(y given x) q(z given x, y), moved by `shift`."""

    def guide(x):
        of = pyro.param("of", torch.zeros((), dtype=torch.float64))
        law = dist.MultivariateNormal(CENTERS @ LOADINGS, LAW.covariance_matrix)
        with pyro.plate("row", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=law.log_prob(x[:, None]) + of))
            mean = (x @ LOADINGS.T / SIGMA**2 + CENTERS[y]) / PRECISION + shift
            pyro.sample("z", dist.Normal(mean, PRECISION**-0.5).to_event(1))

    return guide


def test_a_discrete_site_before_a_continuous_one_is_summed_out_of_the_guide():
    law = dist.MultivariateNormal(CENTERS @ LOADINGS, LAW.covariance_matrix)
    evidence = (law.log_prob(X[:20, None]).logsumexp(-1) - math.log(3.0)).sum()
    fits = [
        guides.fit(
            zoo.from_program(of_classes, {"x": X[:20]}, guide=class_guide(shift)),
            "own",
            seed=0,
            steps=0,
        )
        for shift in (0.0, 0.3)
    ]
    weights = guides.draw(fits[0], 40).log_weights
    assert torch.allclose(weights, evidence, rtol=1e-9)
    assert fits[1].elbo.value_nats < float(evidence) - 5 * fits[1].elbo.se - 1


def test_the_sum_is_set_up_once_per_guide(monkeypatch):
    def guide(x):
        shift = pyro.param("shift", torch.zeros((), dtype=torch.float64))
        class_guide(shift)(x)

    made = []
    real = guide_density.LogDensity
    monkeypatch.setattr(
        guide_density, "LogDensity", lambda *a, **k: made.append(1) or real(*a, **k)
    )
    entry = zoo.from_program(of_classes, {"x": X[:5]}, guide=guide)
    fit = guides.fit(entry, "own", seed=0, steps=0)
    assert len(made) == 2  # as the program was given, and of the guide that was fitted
    exact = guides.draw(fit, 8, seed=1).log_weights
    assert torch.equal(guides.draw(fit, 8, seed=1).log_weights, exact)
    # the weights of the guide are read at every call
    with torch.no_grad():
        (shift,) = (p for n, p in fit.guide.named_parameters() if "shift" in n)
        shift.fill_(0.3)
    moved = guides.draw(fit, 8, seed=1).log_weights
    assert len(made) == 2
    entry = zoo.from_program(of_classes, {"x": X[:5]}, guide=class_guide(0.3))
    other = guides.draw(guides.fit(entry, "own", seed=0, steps=0), 8, seed=1).log_weights
    assert torch.allclose(moved, other)
    assert not torch.allclose(moved, exact)


def test_training_such_a_guide_sums_the_discrete_site_out():
    """From an exact guide one step must not move: the gradient of the ELBO is zero there."""
    entry = zoo.from_program(of_classes, {"x": X[:20]}, guide=class_guide(0.0))
    fit = guides.fit(entry, "own", seed=0, steps=20, patience=5, anneal=10)
    law = dist.MultivariateNormal(CENTERS @ LOADINGS, LAW.covariance_matrix)
    evidence = (law.log_prob(X[:20, None]).logsumexp(-1) - math.log(3.0)).sum()
    assert fit.losses == pytest.approx(-float(evidence), abs=1e-6)


def test_a_discrete_site_that_cannot_be_summed_out_is_refused_at_load():
    def model(x):
        with pyro.plate("row", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(CENTERS[y, 0], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("row", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
            wild = pyro.sample("wild", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(wild + CENTERS[y, 0], scale))

    with pytest.raises(ProgramError, match=r"draws 'z' after the discrete site 'y'.*'wild'"):
        zoo.from_program(model, {"x": X[:6, 0]}, guide=guide)
