"""Guides whose q of a row depends on the rows beside it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import benchmarks
import guides
import zoo
from zoo.errors import FitError, ProgramError, UsageError

N, D = 40, 3
X = torch.randn(N, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
SUM = X.sum(-1)
SD = (1 + D) ** -0.5  # of the posterior of z; its mean is SUM / 4
LAW = torch.distributions.MultivariateNormal(
    torch.zeros(D, dtype=torch.float64),
    torch.eye(D, dtype=torch.float64) + torch.ones(D, D, dtype=torch.float64),
)


def model(x):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, D), 1.0).to_event(1), obs=x)


def exact_on_all_rows(x):
    """Standardized by the rows it is given, and undone by the numbers of all rows."""
    back = pyro.param("back", SUM.std() / 4)
    shift = pyro.param("shift", SUM.mean() / 4)
    t = x.sum(-1)
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(shift + back * (t - t.mean()) / t.std(), SD))


def entry_of(guide, **options):
    return zoo.from_program(model, {"x": X}, guide=guide, **{"batched": ["x"], **options})


def with_net(net, read):
    def guide(x):
        pyro.module("net", net)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(read(net, x), 1.0))

    return guide


def networks(kind):
    torch.manual_seed(2)
    if kind.startswith("gru"):
        net = nn.GRU(1, 1, batch_first="first" in kind)
        return with_net(net, lambda net, x: net(x[..., None])[0][:, -1, 0])
    norm = nn.BatchNorm1d(D, track_running_stats="running" in kind)
    return with_net(nn.Sequential(norm, nn.Linear(D, 1)), lambda net, x: net(x)[:, 0])


def noisy(x):
    w = pyro.param("w", torch.tensor(1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(w * nn.functional.dropout(x.sum(-1), 0.5), 1.0))


def point(x):
    w = pyro.param("w", torch.tensor(1.0))
    t = x.sum(-1)
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Delta(w * (t - t.mean())))


def by_number(x, index=None):
    loc = pyro.param("loc", torch.linspace(-1.0, 1.0, N))
    with pyro.plate("row", N, subsample=index) as rows:
        pyro.sample("z", dist.Normal(loc[rows], 1.0))


def by_number_and_mean(x, index=None):
    loc = pyro.param("loc", torch.linspace(-1.0, 1.0, N))
    with pyro.plate("row", N, subsample=index) as rows:
        pyro.sample("z", dist.Normal(loc[rows] + x.mean(), 1.0))


@pytest.mark.parametrize(
    ("guide", "tied"),
    [
        (exact_on_all_rows, True),
        (networks("batch"), True),
        (networks("running"), False),
        (networks("gru"), True),
        (networks("gru, batch first"), False),
        (noisy, False),
        (point, True),
        (by_number, False),
        (by_number_and_mean, True),
    ],
)
def test_a_guide_is_tied_if_few_rows_have_another_q(guide, tied):
    own = entry_of(guide).own_guides["own"]
    assert bool(own.tied) is tied
    assert own.amortized is not (tied or guide is by_number)


def test_a_parameter_per_row_is_found_by_its_number_and_not_by_its_place():
    """Minibatches hand it the numbers; two compared rows would get the values of rows 0 and 1."""
    entry_of(by_number, minibatch=10)
    pyro.get_param_store()["loc"] = torch.linspace(-1.0, 1.0, N)
    try:
        with pytest.raises(ProgramError, match=r"from its place among them.*leave judged out"):
            entry_of(by_number, trained=True, judged=[5, 3])
        entry_of(by_number, trained=True)
    finally:
        pyro.clear_param_store()


def test_the_q_of_a_row_is_taken_out_of_that_of_all_rows():
    """The guide is exact on all rows: every row has its closed-form evidence and no gap."""
    entry = entry_of(exact_on_all_rows, test={"x": X[:9]})
    assert "its q is one of all rows" in " ".join(entry.notices)
    fit = guides.fit(entry, "own", seed=0, steps=0)
    report = benchmarks.gap_report(fit, rows=[0, 1, 30])
    for datum, row in zip(report.data, (0, 1, 30), strict=True):
        assert datum.log_evidence_nats == pytest.approx(float(LAW.log_prob(X[row])), abs=1e-4)
        assert datum.kl_nats == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(UsageError, match=r"no q of held-out rows: it computes q of 'z'.*training"):
        benchmarks.gap_report(fit, rows={"test": 2})
    with pytest.raises(FitError, match=r"no q of other rows: it computes q of 'z' at a row from"):
        guides.transfer(fit, {"x": X[:9]})


@pytest.mark.parametrize("option", [{"minibatch": 10}, {"judged": 2}, {"judged": [0, 1]}])
def test_some_rows_of_such_a_guide_are_refused(option):
    (name,) = option
    with pytest.raises(ProgramError, match=rf"computes q of 'z' at a row.*leave {name} out"):
        entry_of(exact_on_all_rows, **option)
    entry_of(networks("running"), **option)
    entry_of(exact_on_all_rows, judged="all")


def test_a_dependence_that_training_made_is_found_by_transfer():
    def guide(x):
        w = pyro.param("w", torch.tensor(0.0))
        with pyro.plate("row", len(x)):
            # no start near this one shows it
            pyro.sample("z", dist.Normal(x.sum(-1) / 4 + (w - 9.0).relu() * x.mean(), SD))

    fit = guides.fit(entry_of(guide), "own", seed=0, steps=0)
    assert guides.transfer(fit, {"x": X[:3]}).elbo.value_nats == pytest.approx(
        float(LAW.log_prob(X[:3]).sum()), abs=1e-6
    )
    with torch.no_grad():
        next(fit.guide.parameters()).fill_(10.0)
    with pytest.raises(FitError, match=r"no q of other rows: it computes q of 'z' at a row from"):
        guides.transfer(fit, {"x": X[:3]})


def zeros(*sizes):
    net = nn.Linear(*sizes)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net


def by_mean(head):
    """Read rows minus their mean; a head of zeros gives every row the same q at the start."""
    return with_net(head, lambda net, x: net(x - x.mean(0))[:, 0])


def by_place_in_a_table():
    table = nn.Embedding(N, 1)
    nn.init.zeros_(table.weight)

    def guide(x):
        pyro.module("table", table)
        with pyro.plate("row", len(x)) as rows:
            pyro.sample("z", dist.Normal(table(rows)[:, 0], SD))

    return guide


def by_slice(x):
    loc = pyro.param("loc", torch.zeros(N))
    scale = pyro.param("scale", torch.full((N,), 0.3), constraint=dist.constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(loc[: len(x)], scale[: len(x)]))


@pytest.mark.parametrize("guide", [by_mean(zeros(D, 1)), by_place_in_a_table(), by_slice])
def test_a_start_of_zeros_does_not_hide_that_rows_have_another_q_among_few(guide):
    """Trained by minibatches such a guide ends hundreds of nats below the best of its family."""
    for option in ({"minibatch": 10}, {"judged": [5, 39]}):
        with pytest.raises(
            ProgramError, match=r"among 2, with other weights than it starts.*not by"
        ):
            entry_of(guide, **option)
    entry = entry_of(guide)
    assert entry.own_guides["own"].tied
    exact = guide is by_slice
    fit = guides.fit(entry, "own", seed=0, steps=600 if exact else 10)
    if exact:
        best = float(LAW.log_prob(X).sum())
        assert best - 1.0 < fit.elbo.value_nats < best + 4.0 * fit.elbo.se


def test_a_head_of_zeros_that_reads_only_its_row_is_accepted():
    head = zeros(D, 1)
    entry = entry_of(with_net(head, lambda net, x: net(x)[:, 0]), minibatch=10)
    assert entry.own_guides["own"].amortized
    assert not head.weight.any()
    fit = guides.fit(entry, "own", seed=0, steps=0)
    assert not any(weight.any() for weight in fit.guide.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 255.0])
def test_an_encoder_of_large_inputs_is_not_taken_for_one_of_other_rows(dtype, size):
    """With other weights its scales may be e^-100, within which log q of own draws is rounding."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(D, 400), nn.ReLU(), nn.Linear(400, 2))

    def guide(x):
        pyro.module("net", net)
        loc, log_scale = net(size * x).unbind(-1)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    with torch.no_grad():
        net[-1].weight.mul_(1.0 / size)
    entry = entry_of(guide, minibatch=10, dtype=dtype)
    assert entry.own_guides["own"].amortized


def test_a_program_whose_decoder_of_zeros_reads_other_rows_is_refused():
    head = zeros(1, D)

    def tied(x):
        pyro.module("head", head)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = head((z - z.mean(-1, keepdim=True))[..., None])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    with pytest.raises(ProgramError, match="the rows depend on each other"):
        zoo.from_program(tied, {"x": X}, minibatch=10)


def test_an_encoder_input_with_statistics_of_the_rows_is_refused():
    with pytest.raises(UsageError, match=r"amortize computes .* from other rows"):
        zoo.from_program(model, {"x": X}, amortize=lambda t: t["x"] - t["x"].mean(0))
    zoo.from_program(model, {"x": X}, amortize=lambda t: t["x"].mean(-1, keepdim=True))
