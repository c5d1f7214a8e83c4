"""The names of a program's data, inside handlers, decorators and modules."""

import functools

import pyro
import pytest
from torch import nn

from zoo.user_models.signature import Signature


def plain(x, y=None, *rest, index=None, **more):
    return x, y, index, more


def ahead(a, b, /, c, d=4):
    return a, b, c, d


class Module(nn.Module):
    def forward(self, x, index=None):
        return x, index


class Bound:
    def method(self, x, y=2):
        return x, y

    @functools.lru_cache  # noqa: B019
    def cached(self, x):
        return x


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def test_names_defaults_and_open_ends():
    found = Signature.of(plain)
    assert found.names == ("x", "y", "index")
    assert found.required == {"x"}
    assert found.positional == frozenset()
    assert found.open_ended is True
    assert found.takes_index is True
    found = Signature.of(ahead)
    assert found.names == ("a", "b", "c", "d")
    assert found.required == {"a", "b", "c"}
    assert found.positional == {"a", "b"}
    assert (found.open_ended, found.takes_index) == (False, False)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Module(), ("x", "index")),
        (Bound().method, ("x", "y")),
        (functools.partial(plain, 1), ("y", "index")),
        (functools.partial(decorated(ahead), d=5), ("a", "b", "c", "d")),
        (decorated(plain), ("x", "y", "index")),
        (decorated(decorated(ahead)), ("a", "b", "c", "d")),
        (pyro.poutine.scale(plain, scale=2.0), ("x", "y", "index")),
        (pyro.poutine.scale(pyro.poutine.mask(Module(), mask=True), scale=2.0), ("x", "index")),
        (pyro.poutine.condition(decorated(plain), data={}), ("x", "y", "index")),
        (Bound().cached, ("x",)),
    ],
)
def test_the_names_are_those_of_what_is_inside(model, names):
    assert Signature.of(model).names == names


def test_a_stated_signature_is_believed():
    import inspect

    def star(*args, **kwargs):
        return args

    star.__wrapped__ = plain
    star.__signature__ = inspect.signature(ahead)
    assert Signature.of(star).names == ("a", "b", "c", "d")


def test_a_callable_without_a_signature_takes_anything():
    found = Signature.of(dict.fromkeys)
    if found.names == ():
        assert found.open_ended is True
    assert Signature.of(type) == Signature((), frozenset(), frozenset(), True)


def test_a_removed_required_argument_is_none():
    assert Signature.of(plain).call(plain, {}) == (None, None, None, {})
    assert Signature.of(plain).call(plain, {"x": 1, "z": 5}) == (1, None, None, {"z": 5})


def test_arguments_by_position_are_given_so():
    found = Signature.of(ahead)
    assert found.call(ahead, {"b": 2, "a": 1, "c": 3}) == (1, 2, 3, 4)
    assert found.call(ahead, {"c": 3, "d": 9}) == (None, None, 3, 9)


def test_an_index_goes_to_programs_that_take_one():
    assert Signature.of(plain).call(plain, {"x": 1, "index": 7})[2] == 7
    assert Signature.of(ahead).call(ahead, {"a": 1, "b": 2, "c": 3, "index": 7}) == (1, 2, 3, 4)

    def counts(x, index="all"):
        return index

    assert Signature.of(counts).call(counts, {"x": 1, "index": None}) == "all"
    assert Signature.of(counts).call(counts, {"x": 1, "index": 0}) == 0

    def needs(x, index):
        return index

    assert Signature.of(needs).call(needs, {"x": 1, "index": None}) is None
