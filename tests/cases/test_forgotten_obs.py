"""A forgotten `obs=` compares the prior with itself; data without a likelihood term are named."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from zoo.contract.structure import likelihood
from zoo.contract.subject import Failed, Subject
from zoo.density.likelihood import untouched_data
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError
from zoo.types import Data, ModelEntry, Quantity

X = torch.linspace(-1, 1, 9, dtype=torch.float64)
Y = 2 * X + 0.3


def forgotten(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0))


def half(x, y, z):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        pyro.sample("z", dist.Normal(slope, 1.0))


def counts(y, group, mask, n):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)), pyro.poutine.mask(mask=mask):
        pyro.sample("y", dist.Binomial(n, rate[group] / (1 + rate[group])), obs=y)


def test_a_program_without_likelihood_is_refused_with_the_cure():
    with pytest.raises(ProgramError, match=r"data 'x', 'y' inform nothing; .* pass observed=\(\)"):
        zoo.from_program(forgotten, {"x": X, "y": Y})
    said = zoo.from_program(forgotten, {"x": X, "y": Y}, observed=())
    assert "The program has no likelihood: its posterior is its prior." in said.notices


def test_data_without_a_term_are_named():
    entry = zoo.from_program(half, {"x": X, "y": Y, "z": Y.clone() + 0.5})
    found = [n for n in entry.notices if "touch no likelihood term" in n]
    assert found == [
        "Data 'z' touch no likelihood term: other values leave every observed site as it is; was"
        " an obs= forgotten?"
    ]


@pytest.mark.parametrize("reads", [True, False])
def test_data_that_a_guide_reads_are_no_forgotten_observations(reads):
    """A table that starts at zero hides what is read from it."""

    def model(x, number):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, number):
        table = pyro.param("table", torch.zeros(3))
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(table[number] if reads else table.sum(), 1.0))

    data = {"x": X, "number": torch.arange(9) % 3}
    for given, seen in ((guide, reads), (None, False), (lambda program: guide, reads)):
        notices = zoo.from_program(model, data, guide=given).notices
        assert any("'number' touch no likelihood term" in n for n in notices) is not seen


def test_counts_groups_masks_and_totals_are_seen():
    """Equal values, flags, indices and totals count as data too."""
    data = {
        "y": torch.full((6,), 2.0, dtype=torch.float64),
        "group": torch.tensor([0, 1, 0, 1, 0, 1]),
        "mask": torch.ones(6, dtype=torch.bool),
        "n": torch.full((6,), 5.0, dtype=torch.float64),
    }
    entry = zoo.from_program(counts, data)
    made = entry.load_data()
    assert untouched_data(LogDensity(entry.program(made), made)) == ()
    assert not [n for n in entry.notices if "likelihood" in n]


def test_a_factor_is_a_likelihood():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("f", -((y - m) ** 2).sum())

    assert zoo.from_program(program, {"y": Y}).notices == ()


def test_a_card_says_so():
    def card(**fields):
        return ModelEntry(
            name="prior",
            title="t",
            make_data=lambda seed: Data(train={"x": X, "y": Y}, source="s", licence="l"),
            build=lambda data: forgotten,
            quantities={"slope": Quantity(fn=lambda draws, data: draws["slope"])},
            reference="none",
            **fields,
        )

    with pytest.raises(Failed, match="tag 'no_data'"):
        likelihood(Subject(card()))
    assert "as the card says" in likelihood(Subject(card(tags=frozenset({"no_data"}))))
    assert likelihood(Subject(zoo.load("eight_schools"))).startswith("Every tensor")
