"""What the rows of a program give its entry: notices of numbers that exceed the rows."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from zoo.errors import UsageError

X = torch.linspace(-1.0, 1.0, 12)


def program(x):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def notices(**given):
    return [
        n for n in zoo.from_program(program, {"x": X}, **given).notices if "more than the" in n
    ]


def test_more_rows_per_step_than_there_are_is_said():
    assert notices(minibatch=13) == [
        "minibatch=13 is more than the 12 rows there are, so that every step reads all of them."
    ]
    assert notices(minibatch=12) == []


def test_more_compared_rows_than_there_are_is_said():
    said = "judged={} is more than the {} rows there are, so that all of them are compared."
    assert notices(judged=13) == [said.format(13, "12 training")]
    assert notices(judged=12) == []
    assert notices(judged=5, test={"x": X[:4]}) == [said.format(5, "4 held-out")]
    both = {"train": 12, "test": 5}
    assert notices(judged=both, test={"x": X[:4]}) == [said.format(5, "4 held-out")]
    assert notices(judged=[0, 11]) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"minibatch": 0}, "minibatch=0 (int); accepted: an integer of at least 1, or None."),
        ({"minibatch": 2.5}, "minibatch=2.5 (float); accepted: an integer of at least 1, or"),
        ({"batched": "x"}, "batched='x' (str); accepted: a tuple of texts, such as ('a', 'b')."),
        ({"observed": X}, "observed=a Tensor of shape (12,); accepted: a tuple of texts, such as"),
        ({"families": "own"}, "families='own' (str); accepted: a tuple of texts"),
        ({"training": [1]}, "training=[1] (list); accepted: a mapping of names to values, or"),
        ({"dims": X}, "dims=a Tensor of shape (12,); accepted: a mapping of names to values"),
        ({"coords": X}, "coords=a Tensor of shape (12,); accepted: a mapping of names to values"),
        ({"name": 3}, "name=3 (int); accepted: text."),
        ({"title": 3}, "title=3 (int); accepted: text, or None."),
        ({"trained": 1}, "trained=1 (int); accepted: True or False."),
        ({"quantities": X}, "quantities=a Tensor of shape (12,); accepted: a mapping of names to"),
        ({"amortize": X}, "amortize=a Tensor of shape (12,); accepted: the name of an argument, a"
         " tuple of names, or a function of the arguments, or None."),
        ({"dtype": 64}, "dtype=64 (int); accepted: a torch dtype, such as torch.float64."),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_named_as_its_caller_wrote_it(given, said):
    with pytest.raises(UsageError) as caught:
        zoo.from_program(program, {"x": X}, **given)
    assert str(caught.value).startswith(f"from_program got {said}")


def test_a_function_that_returns_no_data_is_named():
    with pytest.raises(UsageError) as caught:
        zoo.from_program(program, {"x": X}, judged=lambda data: 3)
    assert str(caught.value) == (
        "judged returned 3 (int); accepted: a function Data -> Data that returns the compared"
        " rows, or their numbers."
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"amortize": lambda x, mask: x},
            "amortize is a function of 'x', 'mask'; accepted: a function of one argument, a dict"
            " of the program's arguments, such as lambda data: data['x'].",
        ),
        (
            {"amortize": lambda: X},
            "amortize is a function of nothing; accepted: a function of one argument, a dict of"
            " the program's arguments, such as lambda data: data['x'].",
        ),
        (
            {"judged": lambda data, x: data},
            "judged is a function of 'data', 'x'; accepted: a function of one argument, the"
            " Data, such as lambda data: data.",
        ),
    ],
)
def test_a_function_of_other_arguments_is_told_how_it_is_called(given, said):
    with pytest.raises(UsageError) as caught:
        zoo.from_program(program, {"x": X}, **given)
    assert str(caught.value) == said
    zoo.from_program(program, {"x": X}, amortize=lambda data, power=2: data["x"][:, None] ** power)
