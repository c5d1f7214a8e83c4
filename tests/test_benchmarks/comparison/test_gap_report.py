"""Which rows the gap report is of, and what it tells while it is made."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import guides
import zoo
from benchmarks.comparison.gap_report import gap_report
from benchmarks.comparison.repair import repair
from zoo.errors import UsageError

X = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64)
HELD = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64)


def program(x):
    """The evidence of a row is the density of N(0, 2)."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def encoder(x):
    slope = pyro.param("slope", torch.tensor(0.5))
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.5**0.5))


@pytest.fixture(scope="module")
def fit():
    entry = zoo.from_program(program, {"x": X}, guide=encoder, minibatch=2, test={"x": HELD})
    return guides.fit(entry, "own", seed=0, steps=0)


@pytest.mark.parametrize(
    ("rows", "train", "held"),
    [
        (2, [0, 5], [0, 3]),
        ([4, 1], [4, 1], []),
        (torch.tensor([3]), [3], []),
        ({"test": [2]}, [], [2]),
        ({"test": 1, "train": (5, 0)}, [5, 0], [0]),
    ],
)
def test_rows_are_reported_with_their_own_evidence(fit, rows, train, held):
    found = gap_report(fit, rows=rows, points=40).data
    taken = [(d.part, d.label) for d in found]
    assert [d.row for d in found] == [*train, *held]
    assert taken == [("train", str(r)) for r in train] + [("held out", str(r)) for r in held]
    law = dist.Normal(torch.zeros((), dtype=torch.float64), 2**0.5)
    exact = law.log_prob(torch.cat([X[train], HELD[held]])).tolist()
    assert [d.log_evidence_nats for d in found] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": 0}, "rows is 0; accepted: at least 1 row."),
        ({"rows": [6]}, "rows has the rows [6] of train; accepted: a number of rows, or different"
         " row numbers from 0 to 5."),
        ({"rows": {"test": [4]}}, "rows has the rows [4] of test; accepted: a number of rows, or"
         " different row numbers from 0 to 3."),
        ({"rows": "2"}, "rows has the rows '2' of train; accepted: a number of rows, or different"
         " row numbers from 0 to 5."),
        ({"rows": torch.ones(2, 3)}, "rows has the rows a Tensor of shape (2, 3) of train;"
         " accepted: a number of rows, or different row numbers from 0 to 5."),
        ({"rows": {"held": 1}}, "Unknown part of rows 'held'; accepted: test, train."),
        ({"rows": {}}, "rows is an empty dict; accepted: {'train': ..., 'test': ...} with either"
         " or both."),
        ({"points": 0}, "gap_report got points=0 (int); accepted: an integer of at least 1, or"
         " None."),
        ({"seed": -1}, "gap_report got seed=-1 (int); accepted: an integer of at least 0."),
        ({"progress": "no"}, "gap_report got progress='no' (str); accepted: True, False, a"
         " function, or None (lines on a terminal and in a notebook, elsewhere after half a"
         " minute)."),
    ],
)  # fmt: skip
def test_rows_that_do_not_exist_are_refused(fit, given, said):
    with pytest.raises(UsageError) as caught:
        gap_report(fit, **given)
    assert str(caught.value) == said


def test_held_out_rows_have_to_be_there():
    entry = zoo.from_program(program, {"x": X}, guide=encoder, minibatch=2)
    fit = guides.fit(entry, "own", seed=0, steps=0)
    with pytest.raises(UsageError) as caught:
        gap_report(fit, rows={"test": 1})
    assert str(caught.value) == (
        "rows names held-out rows, but the fit has none; pass test= when the entry is made."
    )


def test_it_tells_what_it_does(fit, monkeypatch, capsys):
    """It was silent for most of a minute."""
    monkeypatch.setattr("guides.optimize.progress.FIRST", 0.0)
    heard = []
    monkeypatch.setattr(
        "guides.optimize.progress.Parts.__call__", lambda self, part: heard.append(part)
    )
    gap_report(fit, rows={"train": 2, "test": 1}, points=40, progress=True)
    name = "zoo: gap report of my_model own: "
    first, last = capsys.readouterr().err.splitlines()
    assert first == name + "2 train and 1 held out rows"
    assert last.startswith(name + "done, ")
    assert heard == [
        "train, a grid for 2 rows",
        "train, row 1 of 2 on a grid of its own",
        "train, row 2 of 2 on a grid of its own",
        "train, k-hat of 2 rows",
        "train, the best q of the family for 2 rows",
        "train, 50 steps from the q of 2 rows",
        "train, the grid doubled",
        "held out, a grid for 1 rows",
        "held out, row 1 of 1 on a grid of its own",
        "held out, k-hat of 1 rows",
        "held out, the best q of the family for 1 rows",
        "held out, 50 steps from the q of 1 rows",
        "held out, the grid doubled",
    ]
    lines = []
    gap_report(fit, rows=[0], points=40, progress=lines.append)
    assert lines[0] == "gap report of my_model own: 1 train rows"
    gap_report(fit, rows=[0], points=40, progress=False)
    gap_report(fit, rows=[0], points=40)  # nobody reads
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("family", ["mean_field", "of_autoguide"])
def test_a_guide_without_a_q_of_each_row_is_refused(fit, family):
    entry = zoo.from_program(program, {"x": X}, guide=AutoNormal, batched=["x"])
    name = {"of_autoguide": "own"}.get(family, family)
    other = guides.fit(entry, name, seed=0, steps=3, compile="off")
    for call in (gap_report, lambda fit: repair(fit, rows=[1])):
        with pytest.raises(UsageError) as caught:
            call(other)
        assert str(caught.value) == (
            "The gap report, and an assessment row by row, need a q of each row;"
            f" {name} has one q of all rows of my_model together; accepted: amortized,"
            " amortized_full, block_full_rank, or a guide of your own that draws the values of a"
            " row from normals."
        )


def test_a_column_that_is_not_there_is_answered_with_those_that_are(fit):
    found = gap_report(fit, rows=[0], points=40)
    with pytest.raises(UsageError, match=r"Unknown column of the gap report 'kl_nat' \(did you"):
        found.mean("kl_nat")


COINS = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)


def coins(y):
    with pyro.plate("row", len(y)):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("y", dist.Bernoulli(p[..., None]).to_event(1), obs=y)


def logit_normal(y):
    loc, slope = pyro.param("loc", torch.tensor(-1.0)), pyro.param("slope", torch.tensor(0.5))
    with pyro.plate("row", len(y)):
        logit = dist.Normal(loc + slope * y.sum(-1), 0.8)
        law = dist.TransformedDistribution(logit, [dist.transforms.SigmoidTransform()])
        pyro.sample("p", law)


def squeezed(y):
    loc = pyro.param("loc", torch.tensor(0.5))
    with pyro.plate("row", len(y)):
        maps = [dist.transforms.AffineTransform(0.0, 2.0), dist.transforms.SigmoidTransform()]
        pyro.sample("p", dist.TransformedDistribution(dist.Normal(loc, torch.ones(len(y))), maps))


def test_a_logit_normal_has_gaps_of_its_own():
    """The evidence of a row is B(2 + k, 6 - k) / B(2, 2) at k heads."""
    entry = zoo.from_program(coins, {"y": COINS}, guide=logit_normal, batched=["y"])
    fit = guides.fit(entry, "own", seed=0, steps=0)
    found = gap_report(fit, rows=4, points=60).data
    heads = COINS.sum(-1)

    def log_beta(a, b):
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    two = torch.full_like(heads, 2.0)
    exact = log_beta(2 + heads, 6 - heads) - log_beta(two, two)
    assert [d.log_evidence_nats for d in found] == pytest.approx(exact.tolist(), abs=1e-6)
    assert sum(d.elbo_nats for d in found) == pytest.approx(
        fit.elbo.value_nats, abs=5 * fit.elbo.se
    )


def test_another_map_of_the_real_line_is_refused():
    entry = zoo.from_program(coins, {"y": COINS}, guide=squeezed, batched=["y"])
    with pytest.raises(UsageError, match="'p' from TransformedDistribution; accepted: Normal"):
        gap_report(guides.fit(entry, "own", seed=0, steps=0), rows=2)


def test_a_guide_that_serves_other_rows_names_how_some_are_judged():
    def skewed(x):
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.StudentT(9.0, 0.5 * x, 0.7))

    entry = zoo.from_program(program, {"x": X}, guide=skewed, batched=["x"])
    fit = guides.fit(entry, "own", seed=0, steps=0)
    with pytest.raises(UsageError) as caught:
        gap_report(fit, rows=2)
    assert str(caught.value).endswith(
        " Without one, some rows are judged together: some = guides.transfer(fit, {'x': x[:5]}),"
        " and benchmarks.assess(some)."
    )
    assert guides.transfer(fit, {"x": X[:5]}).data.size == 5
