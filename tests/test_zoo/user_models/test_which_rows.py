"""Arguments as long as the rows that are none, and rows that depend on each other."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import benchmarks
import guides
import zoo
from zoo.errors import ProgramError

N, WIDE = 6, 6
generator = torch.Generator().manual_seed(3)
X = torch.randn(N, WIDE, generator=generator, dtype=torch.float64) + 2.0
C = torch.linspace(0.3, 2.0, N, dtype=torch.float64)


def pair(scale=lambda c: 1.0, of=lambda x: x, start=None, seen=lambda x, c: x):
    """Return a program with a linear decoder, and a guide with a linear encoder."""
    decoder, encoder = nn.Linear(1, WIDE).double(), nn.Linear(WIDE, 2).double()
    if start is not None:
        nn.init.constant_(decoder.weight, start)

    def model(x, c=None):
        pyro.module("decoder", decoder)
        x = of(x)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale(c)).to_event(1), obs=x)

    def guide(x, c=None):
        pyro.module("encoder", encoder)
        with pyro.plate("row", len(x)):
            loc, spread = encoder(seen(x, c)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, spread.exp()).to_event(1))

    return model, guide


def rows_of(entry):
    data = entry.load_data()
    return tuple(data.batched), data.size


# -- rows that depend on each other --------------------------------------------------------------


def standardized(x):
    return (x - x.mean(0)) / x.std(0)


def test_rows_that_depend_on_each_other_are_no_rows_of_a_program_that_learns():
    """Run on some rows it is another program: a row has no posterior of its own."""
    model, guide = pair(of=standardized)
    entry = zoo.from_program(model, {"x": X}, guide=guide)
    assert rows_of(entry) == ((), None)
    (said,) = (n for n in entry.notices if "depend on each other" in n)
    assert said.startswith("On all 6 rows the log density is -")
    assert said.endswith(
        "; so all rows are taken at once, and no row is fitted, compared or judged alone: compute"
        " what ties the rows outside the program."
    )
    assert entry.judged is None


def test_many_rows_that_depend_on_each_other_are_all_compared():
    many = torch.randn(90, WIDE, generator=generator, dtype=torch.float64)
    model, _ = pair(of=standardized)
    assert zoo.from_program(model, {"x": many}).judged is None
    apart, _ = pair()
    assert zoo.from_program(apart, {"x": many}).judged is not None


@pytest.mark.parametrize("asked", [{"batched": ("x",)}, {"judged": 2}, {"minibatch": 2}])
def test_rows_that_depend_on_each_other_are_refused_where_some_are_asked_for(asked):
    model, guide = pair(of=standardized)
    with pytest.raises(ProgramError, match=r"On all 6 rows .* depend on each other"):
        zoo.from_program(model, {"x": X}, guide=guide, **asked)


def test_rows_are_told_apart_in_single_precision():
    wide = torch.randn(1024, 500, generator=generator) + 100.0
    nets = {}

    def model(of, x):
        net = nets.setdefault("net", nn.Linear(1, 500))
        pyro.module("net", net)
        x = of(x)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def apart(x):
        model(lambda x: x, x)

    def tied(x):
        model(standardized, x)

    for program, rows in ((apart, (("x",), 1024)), (tied, ((), None))):
        nets.clear()
        nets["net"] = nn.Linear(1, 500)
        assert rows_of(zoo.from_program(program, {"x": wide}, dtype=torch.float32)) == rows


def test_more_rows_than_are_looked_at_are_seen_on_some_of_them():
    many = torch.randn(1300, WIDE, generator=generator, dtype=torch.float64)
    tied, _ = pair(of=standardized)
    entry = zoo.from_program(tied, {"x": many})
    assert rows_of(entry) == ((), None)
    assert any(n.startswith("On all 512 rows") for n in entry.notices)
    assert rows_of(zoo.from_program(pair()[0], {"x": many})) == (("x",), 1300)


def test_a_program_of_one_size_keeps_all_its_rows_and_says_so():
    net = nn.Linear(1, 1).double()

    def model(x):
        pyro.module("net", net)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(net(z[:, None])[:, 0] * torch.ones(N), 1.0), obs=x)

    entry = zoo.from_program(model, {"x": X[:, 0]})
    assert rows_of(entry) == ((), None)
    assert any("cannot run on 2 of its 6 rows" in n and "every size" in n for n in entry.notices)


# -- arguments as long as the rows ---------------------------------------------------------------

WHOLE = (
    "Taken as rows: 'x'; 'c' is as long but no row: the terms of a row need all of it; batched="
    " chooses."
)


@pytest.mark.parametrize("scale", [lambda c: c.square().mean().sqrt(), lambda c: c])
def test_a_constant_as_long_as_the_rows_is_no_row(scale):
    model, guide = pair(scale)
    entry = zoo.from_program(model, {"x": X, "c": C}, guide=guide)
    assert rows_of(entry) == (("x",), N)
    assert WHOLE in entry.notices


def test_the_gaps_of_a_row_take_the_whole_constant():
    def scale(c):
        return c.square().mean().sqrt()

    model, guide = pair(scale)
    entry = zoo.from_program(model, {"x": X, "c": C}, guide=guide)
    fit = guides.fit(entry, "own", seed=0, steps=0, progress=False)
    loadings, bias = fit.networks["decoder"].weight, fit.networks["decoder"].bias
    law = dist.MultivariateNormal(
        bias, loadings @ loadings.T + scale(C) ** 2 * torch.eye(WIDE, dtype=torch.float64)
    )
    gaps = benchmarks.gap_report(fit, rows=[0, 5]).data
    right = law.log_prob(X[[0, 5]]).tolist()
    assert [gap.log_evidence_nats for gap in gaps] == pytest.approx(right, abs=1e-6)


def test_a_constant_of_the_guide_alone_is_no_row():
    model, guide = pair(seen=lambda x, c: x / c.mean())
    entry = zoo.from_program(model, {"x": X, "c": C}, guide=guide)
    assert rows_of(entry) == (("x",), N)
    assert WHOLE in entry.notices


def test_rows_of_the_guide_alone_are_rows():
    model, guide = pair(seen=lambda x, c: x + c[:, None])
    entry = zoo.from_program(model, {"x": X, "c": C}, guide=guide)
    assert rows_of(entry) == (("x", "c"), N)
    assert not any("batched= chooses" in n for n in entry.notices)


def test_covariates_are_rows_without_a_word():
    model, guide = pair(lambda c: c[:, None])
    entry = zoo.from_program(model, {"x": X, "c": C}, guide=guide)
    assert rows_of(entry) == (("x", "c"), N)
    assert not any("batched= chooses" in n for n in entry.notices)


def test_what_nothing_reads_is_named():
    model, guide = pair()
    entry = zoo.from_program(model, {"x": X, "c": C}, guide=guide)
    assert rows_of(entry) == (("x", "c"), N)
    assert (
        "Taken as rows: 'x', 'c'; 'c' is as long and may be no row; batched= chooses."
        in entry.notices
    )


# -- as many steps as the longest row has ---------------------------------------------------------

LENGTHS = torch.tensor([4, 3, 2, 4, 1, 4, 3, 2, 4, 4, 1, 2])
STEPS = torch.randn(12, 4, 1, generator=generator, dtype=torch.float64).cumsum(1)


def sequences(steps, of_guide=None):
    move, emit, read = (nn.Linear(n, n).double() for n in (1, 1, 2))

    def model(x, lens):
        pyro.module("move", move)
        pyro.module("emit", emit)
        with pyro.plate("row", len(x)):
            z = torch.zeros(len(x), 1)
            for t in pyro.markov(range(steps(x, lens))):
                with poutine.mask(mask=t < lens):
                    z = pyro.sample(f"z{t}", dist.Normal(move(z), 0.7).to_event(1))
                    pyro.sample(f"x{t}", dist.Normal(emit(z), 0.7).to_event(1), obs=x[:, t])

    def guide(x, lens):
        pyro.module("read", read)
        with pyro.plate("row", len(x)):
            z = torch.zeros(len(x), 1)
            for t in pyro.markov(range((of_guide or steps)(x, lens))):
                with poutine.mask(mask=t < lens):
                    loc, spread = read(torch.cat([x[:, t], z], -1)).chunk(2, -1)
                    z = pyro.sample(f"z{t}", dist.Normal(loc, spread.exp()).to_event(1))

    return model, guide


def longest(x, lens):
    return int(lens.max())


def every(x, lens):
    return x.shape[1]


def test_steps_up_to_the_longest_row_load_and_are_taken_whole():
    model, guide = sequences(longest)
    entry = zoo.from_program(model, {"x": STEPS, "lens": LENGTHS}, guide=guide)
    assert rows_of(entry) == ((), None)
    assert any("no site 'z1'" in n and "x.shape[1]" in n for n in entry.notices)
    fit = guides.fit(entry, "own", seed=0, steps=0, progress=False)
    assert torch.isfinite(torch.tensor(fit.elbo.value_nats))
    with pytest.raises(ProgramError, match=r"take the number of steps from x\.shape\[1\]"):
        zoo.from_program(model, {"x": STEPS, "lens": LENGTHS}, guide=guide, minibatch=3)


def test_steps_of_the_guide_up_to_the_longest_row_are_of_all_rows():
    model, guide = sequences(every, longest)
    order = LENGTHS.argsort(descending=True)  # the rows that are looked at are short
    data = {"x": STEPS[order], "lens": LENGTHS[order]}
    entry = zoo.from_program(model, data, guide=guide)
    assert any("The guide draws 'z" in n and "x.shape[1]" in n for n in entry.notices)


def test_steps_by_the_shape_of_the_data_have_rows():
    model, guide = sequences(every)
    entry = zoo.from_program(model, {"x": STEPS, "lens": LENGTHS}, guide=guide)
    assert rows_of(entry) == (("x", "lens"), 12)


# -- rows of a guide ------------------------------------------------------------------------------


def trained(**pieces):
    pyro.clear_param_store()
    model, guide = pair(**pieces)
    return zoo.from_program(model, {"x": X}, guide=guide, trained=True)


def test_a_trained_encoder_finds_its_rows():
    entry = trained()
    assert rows_of(entry) == (("x",), N)
    fit = guides.fit(entry, "own", seed=0, progress=False)
    assert [gap.label for gap in benchmarks.gap_report(fit, rows=[1, 4]).data] == ["1", "4"]
    some = guides.transfer(fit, {"x": X[:2]})
    assert some.data.size == 2


def test_a_trained_encoder_of_rows_that_depend_on_each_other_has_none():
    assert rows_of(trained(of=standardized)) == ((), None)
    assert rows_of(trained(seen=lambda x, c: standardized(x))) == ((), None)


def test_a_guide_of_values_that_all_rows_share_gives_no_rows():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    assert rows_of(zoo.from_program(model, {"x": X[:, 0]}, guide=guide)) == ((), None)
