"""Fits that are read from files: what differs is said in the words of the program's author."""

import json
import zipfile

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import guides
import zoo
from guides.fit_file import load, save
from zoo.errors import FitError, UsageError

X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)


def entry(encoder, decoder, *, width=2, extra=False):
    def program(x):
        pyro.module("decoder", decoder)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        shift = pyro.param("a shift", torch.zeros(width)).sum()
        if extra:
            shift = shift + pyro.param("more", torch.zeros(()))
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(encoder(x) + shift, 1.0).to_event(1))

    return zoo.from_program(program, {"x": X}, guide=guide)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("fits") / "fit"
    decoder = nn.Linear(2, 2)
    nn.init.constant_(decoder.weight, 0.25)
    save(guides.fit(entry(nn.Linear(2, 2), decoder), "own", seed=0, steps=0), place)
    return place


def test_a_fit_of_the_same_networks_is_read(path):
    fresh = entry(nn.Linear(2, 2), nn.Linear(2, 2))
    again = load(path, fresh)
    assert sorted(again.networks) == ["decoder", "encoder"]
    weight = again.networks["decoder"].weight
    assert torch.equal(weight, torch.full((2, 2), 0.25, dtype=torch.float64))


@pytest.mark.parametrize(
    ("other", "noun", "said"),
    [
        (
            lambda: entry(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)),
            "program",
            "the file has 'bias' of the network 'decoder', the program has not",
        ),
        (
            lambda: entry(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)),
            "guide",
            "the file has 'weight' of the network 'encoder', the guide has not",
        ),
        (
            lambda: entry(nn.Linear(2, 2), nn.Linear(2, 2), width=3),
            "guide",
            "pyro.param('a shift') has shape (2,) in the file and (3,) in the guide",
        ),
        (
            lambda: entry(nn.Linear(2, 2), nn.Linear(2, 2), extra=True),
            "guide",
            "the guide has pyro.param('more'), the file has not",
        ),
    ],
)
def test_other_networks_and_parameters_are_named_as_their_author_does(path, other, noun, said):
    with pytest.raises(FitError) as caught:
        load(path, other())
    assert str(caught.value) == (
        f"{path} does not match the {noun} its entry builds today ({said}); load it with the"
        " program and guide it was made with, or fit again."
    )


def test_the_guide_that_a_fit_needs_is_asked_for(path):
    def program(x):
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    with pytest.raises(UsageError, match="my_model has no guide of its own, which the family"):
        guides.fit(zoo.from_program(program, {"x": X[:, 0]}), "own")


# -- files that are no fits ----------------------------------------------------------------------


@pytest.fixture
def damaged(path, tmp_path):
    def make(change):
        with zipfile.ZipFile(path) as archive:
            meta, tensors = json.loads(archive.read("meta.json")), archive.read("tensors.pt")
        change(meta)
        with zipfile.ZipFile(tmp_path / "damaged", "w") as archive:
            archive.writestr("meta.json", json.dumps(meta))
            archive.writestr("tensors.pt", tensors)
        return tmp_path / "damaged"

    return make


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda meta: meta.pop("config"), "it has no 'config'"),
        (lambda meta: meta.pop("options"), "it has no 'options'"),
        (lambda meta: meta["config"].update(further=1), "it has the unknown field 'further'"),
        (lambda meta: meta["stop"].update(further=1), "it has the unknown field 'further'"),
        (lambda meta: meta["stop"].pop("sentence"), "it has no 'sentence'"),
        (lambda meta: meta.update(options=[1]), "its 'options' is [1]"),
        (lambda meta: meta.update(seed="1"), "its 'seed' is '1'"),
        (lambda meta: meta.update(restarts=3), "a record in it has another form"),
        (
            lambda meta: meta["config"].update(steps="x"),
            "FitConfig has steps='x' (str); accepted: an integer",
        ),
    ],
)
def test_a_damaged_record_is_named_without_names_of_the_code(damaged, change, said):
    place = damaged(change)
    with pytest.raises(UsageError) as caught:
        load(place)
    assert str(caught.value) == (
        f"{place} is not a fit or is damaged ({said}); give a file written by guides.save."
    )


def test_other_files_are_no_fits(tmp_path):
    place = tmp_path / "other"
    place.write_text("text")
    with pytest.raises(UsageError, match=r"damaged \(it is no zip file\); give a file"):
        load(place)
    torch.save({"weight": X}, place)
    with pytest.raises(UsageError, match=r"damaged \(it lacks meta.json or tensors.pt\); give"):
        load(place)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("meta.json", "{")
    with pytest.raises(UsageError, match=r"damaged \(it has unreadable meta.json or tensors.pt"):
        load(place)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: load(X), "guides.load got path=a Tensor of shape (6, 2); accepted: a path of a"),
        (lambda: load("fit", "my_model"), "guides.load got entry='my_model' (str); accepted: an"
         " entry, such as"),
        (lambda: load("fit", data={"x": X}), "guides.load got data=a dict with a Tensor of shape"
         " (6, 2); accepted: data of the entry"),
        (lambda: save(X, "fit"), "guides.save got fit=a Tensor of shape (6, 2); accepted: a fit"),
    ],
)  # fmt: skip
def test_arguments_of_another_type_are_described(act, said):
    with pytest.raises(UsageError) as caught:
        act()
    assert str(caught.value).startswith(said)
