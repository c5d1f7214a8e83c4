import inspect
import pickle

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from zoo import errors


def kinds():
    return [
        e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.ZooError)
    ]


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_an_exit_code_and_is_public(kind):
    assert kind.exit_code in (1, 2, 3)
    assert kind.__name__ in errors.__all__
    assert issubclass(kind, errors.UsageError) == (kind.exit_code == 2)


def test_unknown_names_guess_only_when_near():
    near = errors.UnknownNameError(
        "family", "meanfield", ["mean_field", "laplace"], hint="See `zoo show`."
    )
    assert (
        str(near) == "Unknown family 'meanfield' (did you mean 'mean_field'?); accepted: laplace,"
        " mean_field. See `zoo show`."
    )
    assert "did you mean" not in str(errors.UnknownNameError("family", "qqq", ["laplace"]))
    assert "accepted: none" in str(errors.UnknownNameError("family", "qqq", []))
    assert "(30 in all)" in str(errors.UnknownNameError("site", "q", [f"s{i}" for i in range(30)]))


def test_an_argument_is_spelled_as_its_caller_writes_it():
    assert errors.spelled("out=", "--out") == "out="
    with errors.command_line():
        assert errors.spelled("out=", "--out") == "--out"
    assert errors.spelled("out=", "--out") == "out="


def test_text_of_others_moves_no_cursor():
    assert (
        errors.printable("a\x1b[31mRED\x1b]0;owned\x07\tb\nc \u00e9\u2009x")
        == "a\ufffd[31mRED\ufffd]0;owned\ufffd\tb\nc \u00e9\u2009x"
    )


class Table:
    shape = (2, 3)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "'x'"),
        (None, "None"),
        (torch.zeros(100, 8), "a Tensor of shape (100, 8)"),
        (torch.tensor(2.0), "tensor(2.)"),
        (np.zeros(5), "a ndarray of shape (5,)"),
        (Table(), "a Table of shape (2, 3)"),
        ((torch.zeros(9), "a"), "a tuple with a Tensor of shape (9,), 'a'"),
        ({"x": np.zeros((2, 2))}, "a dict with a ndarray of shape (2, 2)"),
        ([torch.zeros(1)] * 4, "a list with a Tensor of shape (1,), a Tensor of shape (1,) and 2"
         " more"),
        ([1, 2], "[1, 2]"),
        ("y" * 70, "'" + "y" * 56 + "..."),
        (nn.Sequential(nn.Identity()), "Sequential( (0): Identity() )"),
        (dist.Normal(0.0, 1.0), "Normal(loc: 0.0, scale: 1.0)"),
    ],
)  # fmt: skip
def test_a_value_in_a_few_words_shows_no_numbers_of_a_tensor(value, words):
    assert errors.described(value) == words


def test_an_unknown_name_that_is_no_text_is_described():
    error = errors.UnknownNameError("argument", torch.zeros(3, 2), ["x"])
    assert str(error) == "Unknown argument a Tensor of shape (3, 2); accepted: x."


def test_an_unknown_key_is_both_errors_with_its_sentence():
    error = errors.UnknownKeyError("network", "decodr", ["decoder"])
    assert isinstance(error, KeyError)
    assert isinstance(error, errors.UsageError)
    sentence = "Unknown network 'decodr' (did you mean 'decoder'?); accepted: decoder."
    assert str(error) == sentence
    assert str(pickle.loads(pickle.dumps(error))) == sentence


def test_numbers_of_a_tensor_in_an_error_of_others_are_left_out():
    with pytest.raises(ValueError, match="support") as caught:
        dist.Bernoulli(0.5).log_prob(torch.linspace(2.0, 3.0, 50))
    said = errors.one_line(caught.value)
    assert said.endswith("but found invalid values: tensor([...])")
    assert errors.one_line(ValueError("value tensor([1., 2.], dtype=torch.float64) here.")) == (
        "value tensor([1., 2.], dtype=torch.float64) here"
    )
    rows = torch.ones(9, 9, requires_grad=True, dtype=torch.float64)
    assert errors.one_line(ValueError(f"loc: {rows}, and more")) == (
        "loc: tensor([...]), and more"
    )
