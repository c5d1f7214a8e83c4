"""Arguments with tensors inside containers and objects, as flat names and back."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import DataError
from zoo.user_models import nested as module
from zoo.user_models.nested import Nested, flatten

Pair = namedtuple("Pair", "a b")
A, B, C = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])


def flat(**arguments):
    asked = []

    def convert(name, value):
        asked.append(name)
        return value

    found, how = flatten(arguments, convert)
    assert asked == list(found)
    return found, how


def test_plain_arguments_are_their_own_names():
    found, how = flat(x=A, n=3, text="a", array=np.ones(2), numbers=[1, 2], none=None)
    assert list(found) == ["x", "n", "text", "array", "numbers", "none"]
    assert how.templates == {}
    assert how.assemble({"x": B}) == {"x": B}


def test_scalars_in_a_list_are_one_value():
    found, how = flat(x=[torch.tensor(1.0), torch.tensor(2.0)])
    assert list(found) == ["x"]
    assert how.templates == {}
    found, _ = flat(x=[torch.tensor(1.0), A])
    assert list(found) == ["x.0", "x.1"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"x": A, "y": {"z": B}, "n": 3}, ["data.x", "data.y.z"]),
        ([A, [B, 4], "t"], ["data.0", "data.1.0"]),
        ((A, B), ["data.0", "data.1"]),
        (Pair(A, {"k": B}), ["data.0", "data.1.k"]),
        (SimpleNamespace(x=A, inner=[B], n=3), ["data.x", "data.inner.0"]),
    ],
)
def test_containers_are_put_together_again_with_other_tensors(value, names):
    found, how = flat(data=value, k=5)
    assert list(found) == [*names, "k"]
    assert [v.tolist() for v in list(found.values())[:2]] == [[1.0], [2.0]]
    made = how.assemble({names[0]: C, names[1]: A, "k": 6, "index": None})
    assert set(made) == {"data", "k", "index"}
    assert made["k"] == 6
    out = made["data"]
    assert type(out) is type(value)
    again, _ = flat(data=out)
    assert [v.tolist() for v in again.values()] == [[3.0], [1.0]]
    removed, _ = flat(data=how.assemble({names[1]: A})["data"])
    assert list(removed) == [names[1]], "a removed leaf is None"


def test_what_holds_no_tensor_stays_in_its_place():
    _, how = flat(data={"x": A, "n": 3, "words": ["a"], "pair": (1, 2)})
    out = how.assemble({"data.x": B})["data"]
    assert out == {"x": B, "n": 3, "words": ["a"], "pair": (1, 2)}


def test_an_object_is_copied_and_its_other_attributes_are_kept():
    value = SimpleNamespace(x=A, name="mine", rows=np.ones(3), more={"y": B})
    found, how = flat(data=value)
    assert list(found) == ["data.x", "data.more.y"], "its arrays are its own"
    out = how.assemble({"data.x": C, "data.more.y": C})["data"]
    assert out is not value
    assert (out.name, float(out.x), float(out.more["y"])) == ("mine", 3.0, 3.0)
    assert float(value.x) == 1.0


def test_networks_and_distributions_are_no_containers():
    net = nn.Linear(1, 1)
    law = torch.distributions.Normal(A, 1.0)
    found, how = flat(net=net, law=law)
    assert list(found) == ["net", "law"]
    assert how.templates == {}


@pytest.mark.parametrize("name", ["self", "fn"])
def test_names_that_handlers_take_get_another(name):
    found, how = flat(**{name: A, "x": B})
    assert list(found) == [f"{name}_", "x"]
    assert how.assemble({f"{name}_": C, "x": B}) == {name: C, "x": B}


def test_two_values_of_one_flat_name_are_refused():
    with pytest.raises(DataError) as caught:
        flatten({"data.x": A, "data": {"x": B}}, lambda name, value: value)
    assert str(caught.value) == "Data has two values called 'data.x'; rename one of them."


def deep(levels):
    value = A
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(("levels", "found"), [(8, True), (9, True), (10, False)])
def test_tensors_deeper_than_so_many_levels_are_not_looked_for(levels, found):
    assert module._holds(deep(levels)) is found


def test_a_tensor_nine_levels_deep_is_still_an_argument():
    found, how = flat(data=deep(8))
    assert list(found) == ["data" + ".0" * 8]
    out = how.assemble({"data" + ".0" * 8: C})["data"]
    for _ in range(8):
        (out,) = out
    assert out is C


def test_an_object_that_holds_itself_ends():
    value = SimpleNamespace(x=A)
    value.inner = [value]
    assert module._holds(value) is True
    empty = SimpleNamespace()
    empty.inner = [empty]
    assert module._holds(empty) is False


def test_without_templates_the_arguments_are_a_copy():
    given = {"x": A}
    made = Nested().assemble(given)
    assert made == given
    assert made is not given
