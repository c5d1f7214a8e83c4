"""Model files as users write them, and how a request for one is refused."""

import pytest

import zoo
from zoo.errors import UsageError

MODEL = """
import pyro, pyro.distributions as dist, torch
from zoo import Data, ModelEntry, Quantity
from zoo.quantities import site
def build(data, k=1):
    def program(y=None):
        return pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
    return program
def make_data(seed, k=1):
    return Data(train={"y": torch.zeros(())}, observed=("y",))
def entry(name):
    return ModelEntry(name=name, title="t", make_data=make_data, build=build,
        quantities={"z": Quantity(fn=site("z"))}, reference="nuts", options={"k": 1})
"""


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(MODEL + text if "ENTR" in text else text, encoding="utf-8")
    return path


def refused(request_, match, kind=UsageError):
    with pytest.raises(kind, match=match) as caught:
        zoo.load(str(request_))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
