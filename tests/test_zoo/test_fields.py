"""Kinds of fields: what they accept, how it is stored, and how a refusal is worded."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo import fields
from zoo.errors import DataError, UsageError
from zoo.fields import Kind, accepted, check_tensor, checked, coerced, one_of, shape_of

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (fields.TEXT, ["", "a"], [1, None, b"a"]),
        (fields.FLAG, [True, False], [1, 0, None]),
        (fields.NUMBER, [1, 1.5, -2, np.float64(3), float("inf")], [True, "1", NAN, None, 1j]),
        (fields.COUNT, [0, -1, np.int64(3)], [1.0, True, None, "1"]),
        (fields.POSITIVE, [1, 2], [0, -1, 1.0, True]),
        (fields.SEED, [0, 1], [-1, 0.0, False]),
        (fields.FUNCTION, [print, int], [1, None]),
        (fields.MAPPING, [{}, {"a": 1}], [{1: 1}, [("a", 1)], None]),
        (fields.NAMES, [(), ("a",), ["a", "b"]], ["a", (1,), {"a"}, None]),
        (fields.NAME_SET, [(), {"a"}, frozenset({"a"}), ["a"]], ["a", {1}, None]),
        (one_of("a", "b"), ["a", "b"], ["c", "ab", None, 1]),
    ],
)
def test_what_a_kind_accepts(kind, good, bad):
    assert [bool(kind.holds(v)) for v in good] == [True] * len(good)
    assert [bool(kind.holds(v)) for v in bad] == [False] * len(bad)


def test_a_kind_in_words():
    words = {
        "TEXT": "text",
        "FLAG": "True or False",
        "NUMBER": "a number",
        "COUNT": "an integer",
        "POSITIVE": "an integer of at least 1",
        "SEED": "an integer of at least 0",
        "FUNCTION": "a function",
        "MAPPING": "a mapping of names to values",
        "NAMES": "a tuple of texts, such as ('a', 'b')",
        "NAME_SET": "a set of texts, such as frozenset({'a', 'b'})",
    }
    assert {k: getattr(fields, k).accepted for k in words} == words
    assert one_of("a", "b").accepted == "a, b"


def test_a_kind_that_also_accepts_none():
    kind = fields.NAMES | None
    assert kind.accepted == "a tuple of texts, such as ('a', 'b'), or None"
    assert kind.holds(None)
    assert kind.holds(["a"])
    assert not kind.holds("a")
    assert kind.stored(None) is None
    assert kind.stored(["a"]) == ("a",)
    assert fields.TEXT.stored("x") == "x"
    assert fields.NAME_SET.stored(["a", "a"]) == frozenset({"a"})


@dataclass(frozen=True)
class Record:
    names: object = ()
    size: object = 1


def test_fields_are_stored_as_their_kind_says():
    record = Record(names=["a", "b"])
    checked(record, names=fields.NAMES, size=fields.COUNT)
    assert record.names == ("a", "b")


@pytest.mark.parametrize(
    ("extra", "owner"),
    [({}, "Made"), ({"name": "mine"}, "Made 'mine'"), ({"word": "w"}, "Made 'w'"),
     ({"name": 3}, "Made")],
)  # fmt: skip
def test_a_field_that_is_refused_is_named_with_its_owner(extra, owner):
    class Made(SimpleNamespace):
        pass

    with pytest.raises(UsageError) as caught:
        checked(Made(size="a", good=1, **extra), good=fields.COUNT, size=fields.COUNT)
    assert str(caught.value) == f"{owner} has size='a' (str); accepted: an integer."


def test_an_argument_that_is_refused_is_named_with_its_function():
    accepted("f", n=(1, fields.COUNT))
    with pytest.raises(UsageError) as caught:
        accepted("f", n=(1, fields.COUNT), m=(0, fields.POSITIVE))
    assert str(caught.value) == "f got m=0 (int); accepted: an integer of at least 1."


def test_a_long_value_is_cut_to_sixty_characters():
    assert fields._got("x", "a" * 58) == f"x={'a' * 58!r} (str)"
    assert fields._got("x", "a" * 59) == f"x='{'a' * 56}... (str)"


def test_a_tensor_is_named_by_its_shape():
    assert fields._got("x", torch.zeros(100, 8)) == "x=a Tensor of shape (100, 8)"
    assert fields.typed(3) == "3 (int)"


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ("true", False, True),
        ("False", True, False),
        ("1", False, True),
        ("0", True, False),
        (True, False, True),
        ("5", 1, 5),
        ("5.0", 1, 5),
        (7, 1, 7),
        ("-3", 1, -3),
        ("0.5", 1.0, 0.5),
        (2, 1.0, 2.0),
        ("a", "b", "a"),
    ],
)
def test_an_option_is_converted_to_the_type_of_its_default(value, default, expected):
    found = coerced("mine", "k", value, default)
    assert found == expected
    assert type(found) is type(default)


@pytest.mark.parametrize(
    ("value", "default"),
    [
        ("yes", True), ("5.5", 1), ("inf", 1), ("nan", 1), (True, 1), ("x", 1), (None, 1),
        ("x", 1.0), (None, 1.0), (3, "b"), ("x", None), ((1,), (2,)),
    ],
)  # fmt: skip
def test_an_option_of_another_type_is_refused(value, default):
    with pytest.raises(UsageError) as caught:
        coerced("mine", "k", value, default)
    assert str(caught.value) == (
        f"Option k of mine got {value!r}; accepted: a value of type {type(default).__name__}"
        f" (default {default!r})."
    )


# -- tensors -------------------------------------------------------------------------------------


def test_a_shape_in_words():
    assert shape_of(torch.zeros(2, 3)) == "(2, 3)"
    assert shape_of(np.zeros(())) == "()"
    assert shape_of([1]) == "list"


@pytest.mark.parametrize(
    "value",
    [torch.zeros(()), torch.zeros(2, 0), torch.ones(2).bool(), torch.ones(2, dtype=torch.float64)],
)
def test_an_ordinary_tensor_is_accepted(value):
    assert check_tensor("x", value) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            torch.zeros(0, 3),
            "x is empty (shape (0, 3)); a plate of size 0 has no posterior, give at least one"
            " row.",
        ),
        (
            torch.ones(2, dtype=torch.complex64),
            "x has dtype torch.complex64; accepted: float32, float64, integers and bool. Convert"
            " it with .double().",
        ),
        (
            torch.ones(2, dtype=torch.float16),
            "x has dtype torch.float16; accepted: float32, float64, integers and bool. Convert it"
            " with .double().",
        ),
        (
            torch.ones(2, dtype=torch.bfloat16),
            "x has dtype torch.bfloat16; accepted: float32, float64, integers and bool. Convert it"
            " with .double().",
        ),
        (torch.tensor([1.0, NAN, float("inf")]), "x has 2 NaN or infinite of 3 values; drop or"),
        (
            torch.tensor([NAN]),
            "x has 1 NaN or infinite of 1 values; drop or impute those rows first. Entries that a"
            " mask leaves out: fill them with any value, such as 0, and keep the mask.",
        ),
        (
            torch.eye(2).to_sparse(),
            "x is sparse (torch.sparse_coo); give a plain tensor, by .to_dense().",
        ),
    ],
)
def test_a_tensor_that_cannot_be_data_is_refused(value, said):
    with pytest.raises(DataError) as caught:
        check_tensor("x", value)
    assert str(caught.value).startswith(said)


def test_a_kind_of_ones_own():
    even = Kind(accepted="even", holds=lambda v: v % 2 == 0, stored=lambda v: v // 2)
    record = Record(size=8)
    checked(record, size=even)
    assert record.size == 4
