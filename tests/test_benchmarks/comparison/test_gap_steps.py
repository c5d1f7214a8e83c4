"""Parts of the gap report: normals of rows, labels, and the sentences of what it refuses."""

import dataclasses
import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from support import tiny

from benchmarks.comparison import estimate_from as begun
from benchmarks.comparison import gap_report as report
from benchmarks.comparison import guide_scores, row_normals
from benchmarks.comparison.best_in_family import Target
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.truth.grid import GaussianLikelihood, standard_normal
from zoo.types import Data

ROWS = 3
Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def card(program, **fields):
    make = lambda: Data(train={"y": Y}, batched=("y",), size=ROWS)  # noqa: E731
    return tiny.entry("rows", make, program, **fields)


def program_of(*laws):
    """A program whose sites of every row have these priors, named a, b, ..."""

    def program(y, index=None):
        with pyro.plate("row", ROWS, subsample=index):
            values = [pyro.sample(name, law) for name, law in zip("abc", laws, strict=False)]
            first = values[0]
            mean = first if first.ndim == 1 else first.sum(-1)
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return program


def q_of(guide, *laws, family="mine"):
    entry = card(program_of(*laws))
    data = entry.load_data()
    with session(torch.float64):
        density = LogDensity(entry.program(data), data)
        q = row_normals.row_normals(guide, density, family)
        u = torch.linspace(-1, 1, 2 * density.dim).reshape(2, -1)
        places = torch.cat([s.unit_indices() for s in density.sites], -1)
        return q.log_prob(u[:, places]), u


def normal(*shape):
    zero = torch.zeros(shape, dtype=torch.float64)
    return dist.Normal(zero, zero + 1)


LOC = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
SCALE = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def test_normals_and_log_normals_of_rows_are_one_normal_each():
    def guide(y, index=None):
        with pyro.plate("row", ROWS):
            pyro.sample("a", dist.Normal(LOC, SCALE))
            pyro.sample("b", dist.LogNormal(2 * LOC, 0.5))

    found, u = q_of(guide, normal(), dist.LogNormal(0.0, 1.0))
    a, b = u[:, :ROWS], u[:, ROWS:]
    expected = dist.Normal(LOC, SCALE).log_prob(a) + dist.Normal(2 * LOC, 0.5).log_prob(b)
    assert torch.allclose(found, expected)


def test_a_joint_normal_of_the_only_site_keeps_its_covariance():
    factor = torch.tensor([[1.0, 0.0], [0.7, 0.5]], dtype=torch.float64)
    loc = torch.stack([LOC, -LOC], -1)

    def guide(y, index=None):
        with pyro.plate("row", ROWS):
            pyro.sample("a", dist.MultivariateNormal(loc, scale_tril=factor))

    found, u = q_of(guide, normal(2).to_event(1))
    law = dist.MultivariateNormal(loc, scale_tril=factor)
    assert torch.allclose(found, law.log_prob(u.reshape(2, ROWS, 2)))


def sentence(what):
    return (
        "The gap report, and an assessment row by row, need a q of each row that is a normal; the"
        f" guide 'mine' draws {what}; accepted: Normal, LogNormal for a positive site, a"
        " Normal under a SigmoidTransform on the unit interval, MultivariateNormal for the only"
        " site, all with parameters computed from the data."
    )


def refused(guide, *laws):
    with pytest.raises(UsageError) as caught:
        q_of(guide, *laws)
    return str(caught.value)


def test_other_distributions_and_several_joint_sites_are_refused():
    def student(y, index=None):
        with pyro.plate("row", ROWS):
            pyro.sample("a", dist.StudentT(5.0, LOC, SCALE))

    assert refused(student, normal()) == sentence("'a' from StudentT")

    def gamma(y, index=None):
        with pyro.plate("row", ROWS):
            pyro.sample("a", dist.Gamma(SCALE, SCALE))

    assert refused(gamma, dist.LogNormal(0.0, 1.0)) == sentence("'a' from Gamma")

    def joint(y, index=None):
        with pyro.plate("row", ROWS):
            one = torch.eye(2, dtype=torch.float64)
            pyro.sample("a", dist.MultivariateNormal(torch.zeros(ROWS, 2).double(), one))
            pyro.sample("b", dist.Normal(LOC, SCALE))

    found = refused(joint, normal(2).to_event(1), normal())
    assert found == sentence("'a' from MultivariateNormal")


def test_parameters_that_depend_on_other_draws_are_refused():
    def guide(y, index=None):
        with pyro.plate("row", ROWS):
            a = pyro.sample("a", dist.Normal(LOC, SCALE))
            pyro.sample("b", dist.Normal(a, SCALE))

    found = refused(guide, normal(), normal())
    assert found == sentence("'b' with parameters that depend on other draws")

    def other_way(y, index=None):
        with pyro.plate("row", ROWS):
            b = pyro.sample("b", dist.Normal(LOC, SCALE))
            pyro.sample("a", dist.Normal(b, SCALE))

    found = refused(other_way, normal(), normal())
    assert found == sentence("'a' with parameters that depend on other draws")


# --- rows of the report


def few(label=None, observed=("y",), **tensors):
    train = {"y": Y, **tensors, **({} if label is None else {"label": label})}
    return SimpleNamespace(train=train, observed=observed, batched=("x", "y"))


def test_rows_are_named_by_their_numbers_and_their_class():
    chosen = torch.tensor([0, 5, 9])
    assert report._labels(few(), chosen) == ["0", "5", "9"]
    assert report._labels(few(torch.tensor([3, -1, 0])), chosen) == ["0: 3", "5", "9: 0"]
    assert report._labels(few(torch.tensor([3, 1])), chosen) == ["0", "5", "9"]
    assert report._labels(few("text"), chosen) == ["0", "5", "9"]


def test_what_is_observed_of_a_row_is_shown():
    x = torch.arange(12.0).reshape(3, 2, 2)
    assert report._shown(few(x=x)).tolist() == [[0.5], [-1.0], [2.0]]
    assert report._shown(few(x=x, observed=("z",))).tolist() == x.reshape(3, 4).tolist()


def fit_of(entry):
    data = entry.load_data()
    return SimpleNamespace(entry=entry, data=data, program=entry.program(data))


def test_programs_without_rows_or_with_other_latents_are_refused(monkeypatch):
    fit = fit_of(card(program_of(normal())))
    density = LogDensity(fit.program, fit.data)
    monkeypatch.setattr(report, "density_of", lambda fit: density)
    report._refuse_other_latents(fit)
    start = (
        "The gap report needs 1 to 3 latent values per row and none outside the plate of the"
        " rows; rows: "
    )
    monkeypatch.setattr(report, "has_grid", lambda density: False)
    with pytest.raises(UsageError) as caught:
        report._refuse_other_latents(fit)
    assert str(caught.value) == start + "its sites ['a'] have 3 values for 3 rows."
    fit.data = SimpleNamespace(batched=(), size=None)
    monkeypatch.setattr(report, "has_grid", lambda density: True)
    with pytest.raises(UsageError) as caught:
        report._refuse_other_latents(fit)
    assert str(caught.value) == (
        start + "the entry knows no rows: pass batched= or minibatch= to zoo.from_program."
    )


def named(shift=0.0, rows=5, name="x"):
    """x = z + e with unit normals in two dimensions, as a program with a decoder."""
    x = torch.arange(2.0 * rows, dtype=torch.float64).reshape(rows, 2) / 4

    class Program:
        latent = 2

        def __call__(self, index=None, **tensors):
            value = tensors[name]
            with pyro.plate("row", len(value), subsample=index):
                z = pyro.sample("z", normal(2).to_event(1))
                pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=value)

    program = Program()
    make = lambda: Data(train={name: x}, batched=(name,), size=rows)  # noqa: E731
    fit = fit_of(tiny.entry("named", make, program))
    return dataclasses.replace(Named(fit), program=program)


@dataclasses.dataclass
class Named:
    fit: object
    program: object = None

    @property
    def data(self):
        return self.fit.data

    @property
    def entry(self):
        return self.fit.entry


TARGET = Target(GaussianLikelihood(lambda z: z, 1.0), standard_normal)


@pytest.mark.parametrize("rows", [2, 5])
def test_a_decoder_of_another_program_is_refused(rows):
    report._refuse_another_program(named(rows=rows), TARGET)
    with pytest.raises(UsageError) as caught:
        report._refuse_another_program(named(shift=1e-3, rows=rows), TARGET)
    text = str(caught.value)
    assert text.startswith(f"At random codes of {min(3, rows)} rows the log joint of named is ")
    assert "that of its decoder with GaussianLikelihood and log_prior" in text
    assert text.endswith(
        "give the program a `likelihood` that matches its observed site, as"
        " zoo.truth.grid.GaussianLikelihood(decoder, sigma)."
    )


def test_rows_are_in_a_column_x_and_codes_in_one_site():
    with pytest.raises(UsageError) as caught:
        report._refuse_another_program(named(name="pixels"), TARGET)
    assert str(caught.value) == (
        "The gap report needs the observed rows in a column 'x'; named has 'pixels'."
    )
    wide = named()
    wide.program.latent = 3
    with pytest.raises(UsageError) as caught:
        report._refuse_another_program(wide, TARGET)
    assert str(caught.value) == (
        "The gap report needs one latent site with 3 numbers per row; named has ['z'] with 6 for"
        " 3 rows."
    )


# --- an estimate from a fit


@pytest.mark.parametrize("weights", [None, 0.8])
def test_smc_begins_from_draws_modes_and_k_hat(monkeypatch, weights):
    calls = []
    drawn = SimpleNamespace(unconstrained="u")
    khat = None if weights is None else SimpleNamespace(value=weights)
    monkeypatch.setattr(begun.guides, "draw", lambda fit, n, seed: calls.append(n) or drawn)
    monkeypatch.setattr(
        begun,
        "wide_climbs",
        lambda density, drawn, *, seed, budget: (
            calls.append((seed, budget)) or SimpleNamespace(points="modes", gradients=7)
        ),
    )
    monkeypatch.setattr(begun, "compare", lambda *a, **k: SimpleNamespace(pareto_k=khat))

    def estimate(*args, **options):
        calls.append((args, options))
        return SimpleNamespace(depth=10)

    monkeypatch.setattr(begun, "estimate", estimate)
    fit = SimpleNamespace(entry="entry", data="data")
    found, depth = begun.estimate_from(fit, "density", islands=3, seed=9)
    assert (found.depth, depth) == (10, 17)
    assert calls == [
        2048,
        (9, 30_000),
        (
            ("density", "entry", "data", "u"),
            {
                "modes": "modes",
                "k_hat": math.inf if weights is None else 0.8,
                "islands": 3,
                "seed": 9,
            },
        ),
    ]


# --- held-out density


def test_a_held_out_density_that_fails_is_a_note(monkeypatch):
    notes, made = [], []
    data = SimpleNamespace(test={"y": 1})
    entry = SimpleNamespace(program=lambda data: "own", dtype=torch.float64)
    posterior = SimpleNamespace(data=data, entry=entry)
    monkeypatch.setattr(
        guide_scores, "LogDensity", lambda program, data, dtype: made.append(program) or program
    )
    monkeypatch.setattr(guide_scores, "heldout_lpd", lambda posterior, density: {"of": density})
    assert guide_scores.heldout(posterior, None, None, notes) == {"of": "own"}
    fit = SimpleNamespace(program="fitted")
    assert guide_scores.heldout(posterior, fit, None, notes) == {"of": "fitted"}
    assert guide_scores.heldout(posterior, fit, "given", notes) == {"of": "given"}
    assert made == ["own", "fitted"]

    def fail(posterior, density):
        raise UsageError("No rows; give some.")

    monkeypatch.setattr(guide_scores, "heldout_lpd", fail)
    assert guide_scores.heldout(posterior, fit, "given", notes) is None
    assert notes == ["No held-out density: No rows; give some."]
    data.test = None
    assert guide_scores.heldout(posterior, fit, "given", notes) is None
    assert len(notes) == 1
