"""What torch, Pyro or the author raises reaches a user as one sentence with a cure."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import benchmarks
import guides
import zoo
from zoo.density.faults import program_faults
from zoo.errors import DataError, ProgramError, UsageError, ZooError, one_line
from zoo.types import Quantity

Y = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)


def shapes(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(torch.ones(6, 2) @ w, 1.0), obs=y)


def sizes(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 5):
        pyro.sample("y", dist.Normal(w + 0 * y, 1.0), obs=y)


def table(y):
    """Fails away from zero only."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    if x.abs() > 1.6:
        raise IndexError("beyond the table")
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(x, 3.0), obs=y)


def plain(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def missing(y):
    plain(y)
    return {}["nothing"]


def failing_guide(y):
    """Fails once its parameter has moved."""
    loc = pyro.param("loc", torch.tensor(0.5))
    if loc.item() != 0.5:
        torch.zeros(2) @ torch.zeros(3)
    pyro.sample("x", dist.Normal(loc, 1.0))


def load(program):
    return zoo.from_program(program, {"y": Y})


def compare_with(fn):
    entry = load(plain)
    entry = dataclasses.replace(entry, quantities={"q": Quantity(fn=fn, dims=())})
    draws = guides.draw(guides.fit(entry, "laplace"), 200)
    return benchmarks.compare(draws, dataclasses.replace(draws, method="exact"))


CASES = {
    "loading, shapes": (
        lambda: load(shapes),
        ("test_one_sentence.py:", "torch.ones(6, 2) @ w", "shapes of data"),
    ),
    "loading, plate": (lambda: load(sizes), ("site y", "plate('rows')", "shapes of data")),
    "loading, Python": (lambda: load(missing), ("KeyError", '{}["nothing"]')),
    "fitting, guide": (
        lambda: guides.fit(zoo.from_program(plain, {"y": Y}, guide=failing_guide), "own"),
        ("cannot be fitted", "torch.zeros(2) @ torch.zeros(3)"),
    ),
    "NUTS": (
        lambda: benchmarks.run_nuts(load(table), tune=100, draws=100, min_ess=0, compile="off"),
        ("NUTS", 'raise IndexError("beyond the table")'),
    ),
    "comparing": (
        lambda: compare_with(lambda draws, data: draws["x"] @ torch.zeros(3).double()),
        ("compared on its quantities", 'draws["x"] @ torch.zeros(3)'),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_raw_exception_becomes_one_sentence(name):
    call, parts = CASES[name]
    with pytest.raises(ZooError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in parts), text
    assert len(text) < 900


def test_faults_of_the_project_itself_stay_as_they_are():
    with pytest.raises(AttributeError), program_faults("run"):
        zoo.nothing  # noqa: B018 - raised by code of ours


def test_a_request_to_report_elsewhere_is_left_out():
    told = RuntimeError(
        "INTERNAL ASSERT FAILED at x.cpp:3, please report a bug to PyTorch. Bad size.\n"
        "Trace Shapes:\n a\n"
    )
    assert "report" not in one_line(told)
    assert one_line(told).endswith("Bad size")
    wish = "Batching rule not implemented for aten::x; please file an issue."
    assert one_line(RuntimeError(wish)) == "Batching rule not implemented for aten::x"
    assert len(one_line(RuntimeError("x" * 5000))) == 240


def test_a_sentence_of_the_project_is_not_wrapped():
    with pytest.raises(ProgramError, match=r"^as it is$"), program_faults("run"):
        raise ProgramError("as it is")


def test_a_loader_of_batches_is_no_data():
    loader = DataLoader(TensorDataset(Y), batch_size=2)
    with pytest.raises(DataError) as caught:
        zoo.from_program(sizes, {"y": loader})
    assert str(caught.value) == (
        "Data 'y' is a DataLoader; give the tensors of all its rows, such as"
        " torch.cat([batch[0] for batch in loader]); minibatch= then takes the batches."
    )
    with pytest.raises(UsageError, match=r"data is a DataLoader; .* minibatch= takes the batches"):
        zoo.from_program(sizes, loader)
