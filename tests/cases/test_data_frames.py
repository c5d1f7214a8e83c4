"""Data frames as data: columns by name, and errors that name the column and what it holds."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import guides
import zoo
from zoo.errors import DataError, ProgramError, UsageError, listed
from zoo.types import Data

FRAME = pd.DataFrame(
    {
        "school": ["Choate", "Deerfield", "Exeter", "Andover"],
        "day": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"]),
        "ses": [0.1, -0.3, 0.6, 0.2],
        "size": [3, 5, 7, 9],
        "public": [True, False, True, True],
        "y": [1.0, 2.0, 4.0, 3.0],
    }
)


def model(ses, size, public, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Normal(slope * ses + 0.1 * size + public, 1.0), obs=y)


def matrix(x, y):
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Normal(x @ weight, 1.0), obs=y)


def test_a_frame_gives_the_columns_the_model_takes():
    entry = zoo.from_program(model, FRAME)
    train = entry.load_data().train
    assert set(train) == {"ses", "size", "public", "y"}
    assert torch.equal(train["ses"], torch.tensor([0.1, -0.3, 0.6, 0.2], dtype=torch.float64))
    assert torch.equal(train["size"], torch.tensor([3, 5, 7, 9]))
    assert train["public"].dtype == torch.bool
    with pytest.raises(DataError, match=r"columns 'a', 'b', and none of them .*'ses', 'size'"):
        zoo.from_program(model, pd.DataFrame({"a": [1.0], "b": [2.0]}))
    with pytest.raises(UsageError, match=r"The model needs 'size', 'public', and the data frame"):
        zoo.from_program(model, FRAME[["ses", "y"]])


def test_columns_of_different_number_types_are_one_matrix():
    """pandas makes objects of floats beside booleans."""
    columns = FRAME[["ses", "size", "public"]]
    assert columns.to_numpy().dtype == object
    train = zoo.from_program(matrix, {"x": columns, "y": FRAME["y"]}).load_data().train
    expected = np.column_stack([FRAME["ses"], FRAME["size"], FRAME["public"]])
    assert np.array_equal(train["x"].numpy(), expected)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["ses", "school"], r"Column 'school' of data 'x' holds text.*'Choate'.*x\['school'\]"),
        (["ses", "day"], r"Column 'day' of data 'x' holds dates"),
    ],
)
def test_a_column_that_is_no_number_is_named(columns, says):
    with pytest.raises(DataError, match=says):
        zoo.from_program(matrix, {"x": FRAME[columns], "y": FRAME["y"]})


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([0.1, None, 0.6, 0.2]),
        pd.Series([1, None, 3, 4], dtype="Int64"),
        pd.Series(["a", None, "b", "c"]),
    ],
    ids=["float", "nullable", "text"],
)
def test_missing_values_are_named_with_their_column(column):
    frame = FRAME[["size"]].assign(ses=column)
    with pytest.raises(DataError, match="Column 'ses' of data 'x' has 1 missing of 4 values"):
        zoo.from_program(matrix, {"x": frame, "y": FRAME["y"]})
    with pytest.raises(DataError, match="Data 'ses' has 1 missing of 4 values"):
        zoo.from_program(model, FRAME.assign(ses=column))


def test_a_text_series_gets_its_cure():
    codes = pd.factorize(FRAME["school"])[0]
    with pytest.raises(
        DataError, match=r"Data 'ses' holds text.*pandas\.factorize\(data\['ses'\]\)"
    ):
        zoo.from_program(model, FRAME.assign(ses=FRAME["school"]))
    entry = zoo.from_program(model, FRAME.assign(ses=codes))
    assert torch.equal(entry.load_data().train["ses"], torch.arange(4))


def test_two_columns_of_one_name_are_refused():
    """They became four: pandas gives both for their name, and each was taken twice."""
    frame = FRAME[["ses", "size"]].set_axis(["ses", "ses"], axis=1)
    with pytest.raises(DataError, match="Data 'x' has several columns 'ses'"):
        zoo.from_program(matrix, {"x": frame, "y": FRAME["y"]})
    with pytest.raises(DataError, match="Data 'data' has several columns 'ses'"):
        zoo.from_program(model, FRAME.set_axis([*"abc", "ses", "ses", "y"], axis=1))


def test_dates_are_no_categories():
    days = pd.to_datetime(["2026-01-01", "2026-01-03", "2026-01-04", "2026-02-01"])
    with pytest.raises(DataError, match=r"holds dates.*\(data\['ses'\] - .*\)\.dt\.days") as found:
        zoo.from_program(model, FRAME.assign(ses=days))
    assert "factorize" not in str(found.value)
    assert (pd.Series(days) - pd.Series(days).min()).dt.days.tolist() == [0, 2, 3, 31]


def test_a_column_that_is_missing_is_named_where_nothing_is_observed():
    def regression(size, weight=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(size)):
            pyro.sample("weight", dist.Normal(slope * size, 1.0), obs=weight)

    with pytest.raises(ProgramError, match="The data have no 'weight', which kept the default"):
        zoo.from_program(regression, FRAME[["size"]])


def test_errors_name_the_data_as_the_user_does():
    """`train['ses']` is a word of ours: the user gave a dict with `ses`."""
    bad = torch.tensor([0.1, float("nan")])
    with pytest.raises(DataError, match=r"^Data 'ses' has 1 NaN or infinite of 2 values"):
        Data(train={"ses": bad})
    with pytest.raises(DataError, match=r"^Held-out data 'ses' has 1 NaN"):
        Data(train={"ses": torch.zeros(2)}, test={"ses": bad})
    with pytest.raises(DataError, match=r"^Data 'ses' is empty"):
        Data(train={"ses": torch.zeros(0)})
    with pytest.raises(DataError, match=r"^Data 'ses' has dtype torch\.complex64"):
        Data(train={"ses": torch.zeros(2, dtype=torch.complex64)})


WIDE = pd.DataFrame(
    np.random.default_rng(0).normal(size=(20, 60)), columns=[f"gene_{i:02d}" for i in range(60)]
).assign(y=np.linspace(-1, 1, 20))
FEW = "'gene_00', 'gene_01', 'gene_02', 'gene_03', 'gene_04' and 55 more"


def any_columns(y, **columns):
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Normal(weight, 1.0), obs=y)


def prior_only(y, **columns):
    pyro.sample("weight", dist.Normal(0.0, 1.0))


def test_a_wide_frame_is_told_of_in_a_few_columns():
    """Sixty columns were listed one by one."""
    with pytest.raises(UsageError) as found:
        zoo.from_program(matrix, WIDE.assign(city="Ulm"))
    said = str(found.value)
    assert "no such column; no argument takes its columns" in said
    assert FEW.replace("55", "56") in said  # and the column of text
    assert "{'x': frame[[...]], 'y': ...}" in said
    with pytest.raises(DataError, match=f"the columns {FEW.replace('55', '56')}, and none of"):
        zoo.from_program(lambda a, b: None, WIDE)
    with pytest.raises(ProgramError, match=f"data {FEW.replace('55', '56')} inform nothing"):
        zoo.from_program(prior_only, WIDE)
    entry = zoo.from_program(any_columns, WIDE)
    (notice,) = entry.notices
    assert notice.startswith(f"Data {FEW} touch no likelihood term")
    with pytest.raises(DataError, match=r"Data 'city' holds text.*pandas\.factorize"):
        zoo.from_program(any_columns, WIDE.assign(city="Ulm"))
    assert "and 56 more; observed: y)" in repr(entry.load_data())
    assert len(repr(entry.load_data())) < 200


def test_a_list_names_a_few_and_counts_the_rest():
    assert listed("abc") == "'a', 'b', 'c'"
    assert listed("abcdef") == "'a', 'b', 'c', 'd', 'e', 'f'"  # "and 1 more" is no shorter
    assert listed("abcdefg", quoted=False) == "a, b, c, d, e and 2 more"
    assert listed(()) == ""


X = pd.DataFrame(np.random.default_rng(1).normal(size=(15, 5)), columns=list("abcde"))
Y = np.linspace(-1, 1, 15)
GROUP = np.arange(15) % 5


def normal(mean, y):
    with pyro.plate("row", len(y)):
        pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)


def in_a_plate(name, fn):
    with pyro.plate(name, 5):
        return pyro.sample(f"of_{name}", fn)


def plated(x, y):
    normal(x @ in_a_plate("column", dist.Normal(0.0, 1.0)), y)


def grouped(x, y, group):
    effect = in_a_plate("group", dist.Normal(0.0, 1.0))
    normal(x @ in_a_plate("column", dist.Normal(0.0, 1.0)) + effect[group], y)


def horseshoe(x, y):
    with pyro.plate("column", 5):
        local = pyro.sample("local", dist.HalfCauchy(1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    normal(x @ (z * local), y)


def stacked(y, **columns):
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    normal(torch.stack(list(columns.values()), -1) @ weight, y)


def in_a_dict(data):
    matrix(**data)


def reversed_columns(x, y):
    matrix(x.flip(-1), y)


def standardized(x, y):
    matrix((x - x.mean(0)) / x.std(0), y)


def of_both(x, z, y):
    normal(x @ in_a_plate("column", dist.Normal(0.0, 1.0)) + z.sum(-1), y)


def of_rows(x, y):
    with pyro.plate("row", len(y)):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(level + x.sum(-1), 1.0), obs=y)


@pytest.mark.parametrize(
    ("program", "data", "dim"),
    [
        (matrix, {"x": X, "y": Y}, "weight_dim_0"),
        (matrix, (X.assign(a=0.0), Y), "weight_dim_0"),  # a column of zeros says nothing
        (plated, {"x": X, "y": Y}, "column"),
        (grouped, {"x": X, "y": Y, "group": GROUP}, "column"),
        (horseshoe, {"x": X, "y": Y}, "column"),
        (stacked, X.assign(y=Y), "weight_dim_0"),
        (in_a_dict, {"data": {"x": X, "y": Y}}, "weight_dim_0"),
        (of_both, {"x": X, "z": X.rename(columns=str.upper), "y": Y}, "column"),
        (matrix, {"x": X.to_numpy(), "y": Y}, ""),
        # not certain: another order, columns that cannot be zero, a value of each row
        (reversed_columns, {"x": X, "y": Y}, ""),
        (standardized, {"x": X, "y": Y}, ""),
        (of_rows, {"x": X[:5], "y": Y[:5]}, ""),
    ],
)
def test_coefficients_are_named_by_the_columns_they_act_through(program, data, dim):
    """A vector over groups or rows may be as long as the columns are many."""
    entry = zoo.from_program(program, data)
    assert dict(entry.load_data().coords) == ({dim: tuple("abcde")} if dim else {})


def test_names_of_the_caller_are_kept():
    given = {"x": X, "y": Y}
    entry = zoo.from_program(matrix, given, coords={"weight_dim_0": list("vwxyz")})
    assert entry.load_data().coords["weight_dim_0"] == list("vwxyz")
    entry = zoo.from_program(matrix, given, dims={"weight": ("gene",)})
    assert dict(entry.load_data().coords) == {"gene": tuple("abcde")}
    fit = guides.fit(entry, "laplace")
    frame = benchmarks.to_arviz(guides.draw(fit, 500)).posterior["weight"]
    assert list(frame.coords["gene"].values) == list("abcde")
