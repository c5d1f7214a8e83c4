"""Data frames: the columns a program takes, as numbers, or a sentence that names the column."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest

import zoo
from zoo.errors import DataError
from zoo.user_models.tables import columns_of, is_frame, numbers_of

FRAME = pd.DataFrame({"x": [1.0, 2.0], "y": [3, 4], "site": ["a", "b"]})


def test_the_columns_are_those_that_the_program_takes():
    assert is_frame(FRAME)
    assert not is_frame(FRAME["x"])
    assert list(columns_of(FRAME, ("y", "x", "z"))) == ["x", "y"]
    assert list(columns_of(FRAME, ())) == ["x", "y", "site"]
    assert columns_of(FRAME, ("y",))["y"].tolist() == [3, 4]


def test_a_frame_without_an_argument_of_the_program_is_refused():
    with pytest.raises(DataError, match=r"columns .*'x'.*none of them is an argument"):
        columns_of(FRAME, ("weight",))


def test_columns_of_two_number_types_are_brought_to_one():
    found = numbers_of("data", FRAME[["x", "y"]])
    assert found.dtype == np.float64
    assert found.tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert numbers_of("y", FRAME["y"]).tolist() == [3, 4]
    mixed = numbers_of("y", pd.Series([1, 2.5, True], dtype=object))
    assert (mixed.dtype, mixed.tolist()) == (np.float64, [1.0, 2.5, 1.0])
    assert numbers_of("y", pd.Series([True, False], dtype=object)).dtype == bool


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pd.Series([1.0, None, np.nan]), "Data 'y' has 2 missing of 3 values"),
        (pd.Series(["a", "b"]), "Data 'y' holds .*such as 'a'"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "Data 'y' holds "),
    ],
    ids=["missing", "text", "dates"],
)
def test_what_is_no_number_is_named(column, says):
    with pytest.raises(DataError, match=says):
        numbers_of("y", column)
    with pytest.raises(DataError, match="Column 'c' of data 'train'"):
        numbers_of("train", pd.DataFrame({"c": column}))


def test_the_frame_that_lacks_a_column_is_named():
    """A test frame without a column was told as the data frame, which had it."""
    with pytest.raises(DataError, match=r"^The model needs 'z', and the data frame has no such"):
        columns_of(FRAME, ("x", "z"), ["z"])

    def model(x, z):
        with pyro.plate("row", len(x)):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("z", dist.Normal(w + x, 1.0), obs=z)

    whole = pd.DataFrame({"x": [1.0, 2.0], "z": [3.0, 4.0]})
    with pytest.raises(DataError, match=r"^The model needs 'z', and the test frame has no such"):
        zoo.from_program(model, whole, test=whole[["x"]])
