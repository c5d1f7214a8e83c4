"""The rows of a program: its plates, the rows that are held out, and those that are compared."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from zoo.density.log_density import LogDensity
from zoo.errors import DataError, ProgramError, UnknownNameError, UsageError
from zoo.types import Data
from zoo.user_models.units import (
    Units,
    _numbers,
    chosen_rows,
    find_units,
    held_out,
    judged_rows,
    refuse_tied_rows,
)

N = 6
X = torch.arange(12.0, dtype=torch.float64).reshape(N, 2)
Y = torch.linspace(-1.0, 1.0, N, dtype=torch.float64)
UNITS = Units(plates=("row",), batched=("x", "y"), size=N)


def test_the_number_of_rows_is_that_of_the_first_tensor_given():
    assert UNITS.given({"x": X[:4], "y": Y}, 9) == 4
    assert UNITS.given({"x": None, "y": Y[:3]}, 9) == 3
    assert UNITS.given({"x": torch.tensor(1.0), "y": 5}, 9) == 9
    assert UNITS.given({"other": X}, 9) == 9


# -- plates --------------------------------------------------------------------------------------


def sizes(units, rows, total, index, *, takes_index):
    seen = {}

    def program(index=None):
        with pyro.plate("row", N, subsample=index if takes_index else None) as i:
            seen["row"] = (len(i), i.tolist())
            pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("other", 3) as i:
            seen["other"] = (len(i), i.tolist())

    with units.plates_of(rows, total, index, takes_index=takes_index):
        trace = pyro.poutine.trace(program).get_trace(index)
    return seen, float(trace.nodes["z"]["scale"])


@pytest.mark.parametrize("takes_index", [True, False])
def test_all_rows_that_are_given_are_the_plate(takes_index):
    seen, scale = sizes(UNITS, 4, 4, None, takes_index=takes_index)
    assert seen == {"row": (4, [0, 1, 2, 3]), "other": (3, [0, 1, 2])}
    assert scale == 1.0


def test_a_minibatch_is_scaled_and_counted_from_zero():
    index = torch.tensor([8, 3])
    seen, scale = sizes(UNITS, 2, 10, index, takes_index=False)
    assert seen["row"] == (2, [0, 1])
    assert scale == 5.0
    seen, scale = sizes(UNITS, 2, 10, index, takes_index=True)
    assert seen["row"] == (2, [8, 3])
    assert scale == 5.0
    assert seen["other"] == (3, [0, 1, 2])


def test_a_plate_that_draws_no_part_keeps_its_own_size():
    """A program that takes an index and has a plate of rows that does not use it."""

    def program(index=None):
        with pyro.plate("row", N) as i:
            return len(i)

    with UNITS.plates_of(2, 10, torch.tensor([8, 3]), takes_index=True):
        assert pyro.poutine.trace(program).get_trace(None).nodes["_RETURN"]["value"] == N


def test_plates_are_put_back():
    messenger = pyro.poutine.subsample_messenger.SubsampleMessenger
    before = messenger.__dict__["_subsample"]
    with pytest.raises(ZeroDivisionError), UNITS.plates_of(1, 1, None, takes_index=True):
        raise ZeroDivisionError
    assert messenger.__dict__["_subsample"] is before


# -- which plate ---------------------------------------------------------------------------------


def traced(program):
    return pyro.poutine.trace(program).get_trace()


def table():
    """Outer rows, inner columns; a latent value per group."""
    with pyro.plate("group", 3):
        pyro.sample("g", dist.Normal(0.0, 1.0))
    with pyro.plate("col", 2, dim=-1), pyro.plate("row", N, dim=-2):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=X)


def test_the_rows_are_the_outermost_plate_of_the_observed_sites():
    tensors = {"x": X, "y": Y, "g": torch.zeros(3), "pair": torch.zeros(2), "n": 5}
    found = find_units(traced(table), tensors, ())
    assert found == Units(plates=("row",), batched=("x", "y"), size=N)
    named = find_units(traced(table), tensors, ("y",))
    assert named == Units(plates=("row",), batched=("y",), size=N)


def test_a_plate_of_latent_sites_serves_where_no_observed_one_does():
    tensors = {"g": torch.zeros(3)}
    assert find_units(traced(table), tensors, ()) == Units(
        plates=("group",), batched=("g",), size=3
    )
    assert find_units(traced(table), tensors, ("g",)).plates == ("group",)


def test_without_a_plate_of_its_length_a_tensor_has_no_rows():
    assert find_units(traced(table), {"x": torch.zeros(7)}, ()) is None
    assert find_units(traced(table), {"n": 3, "s": torch.tensor(3.0)}, ()) is None
    assert find_units(traced(table), {"x": X, "w": torch.zeros(7)}, ("w",)) is None
    assert find_units(traced(table), {"x": X}, ("gone",)).size == N


def test_every_plate_of_that_size_is_one_of_the_rows():
    def program():
        with pyro.plate("first", N):
            pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("second", N):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=Y)
        with pyro.plate("inner", N, dim=-1), pyro.plate("outer", N, dim=-2):
            pyro.sample("b", dist.Normal(0.0, 1.0))

    found = find_units(traced(program), {"y": Y}, ())
    assert found.plates == ("first", "outer", "second")


# -- rows that depend on each other --------------------------------------------------------------


def tied(body):
    def program(y, index=None):
        with pyro.plate("row", N, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            body(z, y)

    return LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=N))


def test_rows_of_their_own_pass():
    density = tied(lambda z, y: pyro.sample("y", dist.Normal(z, 1.0), obs=y))
    assert refuse_tied_rows(density) is None


def test_rows_that_depend_on_each_other_are_refused():
    density = tied(lambda z, y: pyro.sample("y", dist.Normal(z, 1.0), obs=y - y.mean()))
    with pytest.raises(ProgramError) as caught:
        refuse_tied_rows(density)
    message = str(caught.value)
    assert message.startswith("On all 6 rows the log density is -")
    assert message.endswith(
        ": the rows depend on each other, or a term stands outside their plate; write"
        " pyro.plate(name, 6, subsample=index) around every term of a row, and name the data with"
        " one value per row by batched=."
    )


def test_a_program_that_needs_all_its_rows_is_refused():
    def body(z, y):
        if len(y) != N:
            raise ValueError("all rows")
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ProgramError) as caught:
        refuse_tied_rows(tied(body))
    assert str(caught.value) == (
        "The program cannot run on 2 of its 6 rows (all rows); take every size from the data, name"
        " every argument with one value per row by batched= (it is ['y']), and write"
        " pyro.plate(name, len(x)), or pyro.plate(name, 6, subsample=index) with index=None among"
        " its arguments."
    )


def test_a_density_of_zero_or_one_row_says_nothing():
    def nowhere(z, y):
        pyro.factor("f", torch.where(z.abs() > 9, 0.0, -torch.inf) - y.mean())

    assert refuse_tied_rows(tied(nowhere)) is None

    def program(y, index=None):
        with pyro.plate("row", 1, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    data = Data(train={"y": Y[:1]}, observed=("y",), batched=("y",), size=1)
    assert refuse_tied_rows(LogDensity(program, data)) is None


def test_a_discrete_site_of_all_rows_is_no_reason_to_refuse():
    """Its rows are tied by design: minibatches of such a program do not average."""

    def program(y, index=None):
        k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", N, subsample=index):
            pyro.sample("y", dist.Normal(m + 3 * k, 1.0), obs=y)

    data = Data(train={"y": Y}, observed=("y",), batched=("y",), size=N)
    assert refuse_tied_rows(LogDensity(program, data)) is None


# -- held-out rows -------------------------------------------------------------------------------

TRAIN = {"x": X, "y": Y, "k": 3}


def test_held_out_rows_stand_in_and_the_rest_is_that_of_the_training_data():
    test = {"x": X[:2], "y": Y[:2]}
    found = held_out(test, TRAIN, UNITS)
    assert found == {**test, "k": 3}
    assert held_out({**test, "k": 4}, TRAIN, UNITS)["k"] == 4


@pytest.mark.parametrize(
    ("test", "kind", "said"),
    [
        ({"z": X}, UnknownNameError, "Unknown held-out data 'z'"),
        (
            {"x": X},
            DataError,
            "test has ['x'] but no 'y', which has one value per row; give the held-out rows of"
            " every such argument.",
        ),
        (
            {"x": X[:, :1], "y": Y},
            DataError,
            "test['x'] has shape (6, 1); accepted: rows like those of the training data, (n, 2).",
        ),
        (
            {"x": 3, "y": Y},
            DataError,
            "test['x'] is 3 (int); accepted: rows like those of the training data, (n, 2).",
        ),
        (
            {"x": X, "y": torch.tensor(1.0)},
            DataError,
            "test['y'] has shape (); accepted: rows like those of the training data, (n,).",
        ),
        (
            {"x": X[:2], "y": Y[:3]},
            DataError,
            "The held-out arguments have [2, 3] rows; give one number.",
        ),
    ],
)
def test_held_out_rows_that_do_not_fit_are_refused(test, kind, said):
    with pytest.raises(kind) as caught:
        held_out(test, TRAIN, UNITS)
    assert str(caught.value).startswith(said)


# -- compared rows -------------------------------------------------------------------------------


def data(test=True, **fields):
    held = {"x": X[:4] + 100, "y": Y[:4] + 100, "k": 3} if test else None
    return Data(
        train=TRAIN, test=held, observed=("y",), batched=("x", "y"), size=N, source="s", **fields
    )


def compared(judged, given=None, units=UNITS, learns=False):
    given = data() if given is None else given
    found = judged_rows(judged, given, units, learns=learns)
    return found if found is None else found(given)


def test_a_number_of_rows_is_spread_over_both_parts():
    found = compared(2)
    assert found.train["y"].tolist() == [-1.0, 1.0, 99.0, pytest.approx(100.2)]
    assert found.train["x"].shape == (4, 2)
    assert found.train["k"] == 3
    assert (found.size, found.observed, found.batched) == (4, ("y",), ("x", "y"))
    assert found.test is None
    assert found.source == "s"
    assert found.coords["row"] == ["0", "5", "0 held out", "3 held out"]
    assert compared(3, data(test=False)).coords["row"] == ["0", "2", "5"]
    assert compared(99, data(test=False)).size == N


def test_row_numbers_are_those_of_the_training_data():
    found = compared([4, 1])
    assert found.train["y"].tolist() == [Y[4], Y[1]]
    assert found.coords["row"] == ["4", "1"]
    assert compared({"test": [2]}).train["y"].tolist() == [Y[2] + 100]
    both = compared({"train": 1, "test": (0, 3)})
    assert both.coords["row"] == ["0", "0 held out", "3 held out"]


def test_known_names_of_rows_are_kept_for_the_training_data():
    named = data(coords={"row": list("abcdef"), "more": [1]}, dims={"z": ("row",)})
    found = compared({"train": [5], "test": [1]}, named)
    assert found.coords == {"row": ["f", "1 held out"], "more": [1]}
    assert found.dims == {"z": ("row",)}


def test_all_rows_are_compared_unless_the_program_learns_and_has_many():
    assert compared("all") is None
    assert compared(None) is None
    assert compared(None, learns=True) is None
    many = Units(plates=("row",), batched=("y",), size=65)
    large = Data(train={"y": torch.zeros(65)}, observed=("y",), batched=("y",), size=65)
    assert compared(None, large, many, learns=True).size == 10
    assert compared(None, large, many, learns=False) is None
    assert compared("all", large, many, learns=True) is None
    few = Units(plates=("row",), batched=("y",), size=64)
    assert compared(None, large, few, learns=True) is None


def test_a_function_chooses_rows_itself():
    def own(given):
        return given

    assert judged_rows(own, data(), UNITS, learns=False) is own


@pytest.mark.parametrize(
    ("judged", "kind", "said"),
    [
        (
            "some",
            UsageError,
            "judged is 'some'; accepted: a number of rows, row numbers, a dict of them for 'train'"
            " and 'test', or 'all'.",
        ),
        ({"rest": 1}, UnknownNameError, "Unknown part of judged 'rest'"),
        (0, UsageError, "judged is 0; accepted: at least 1 row."),
        *(
            (rows, UsageError, f"judged has the rows {words} of train; accepted: a number of rows,"
             " or different row numbers from 0 to 5.")
            for rows, words in [
                ([], "[]"), ([1, 1], "[1, 1]"), ([6], "[6]"), ([-1], "[-1]"), (2.5, "2.5"),
                (True, "True"), ([True], "[True]"), (X, "a Tensor of shape (6, 2)"),
                (range(9), "range(0, 9)"), ({0}, "{0}"),
            ]
        ),
        ({"test": "01"}, UsageError, "judged has the rows '01' of test; accepted: a number"),
        ({"test": [4]}, UsageError, "judged has the rows [4] of test; accepted: a number of rows,"
         " or different row numbers from 0 to 3."),
    ],
)  # fmt: skip
def test_rows_that_do_not_exist_are_refused(judged, kind, said):
    with pytest.raises(kind) as caught:
        compared(judged)
    assert str(caught.value).startswith(said)


def test_held_out_rows_need_held_out_data():
    with pytest.raises(UsageError) as caught:
        compared({"test": 1}, data(test=False))
    assert str(caught.value) == (
        "judged names held-out rows, but no test= was given; pass test=...."
    )


def test_rows_are_spread_evenly():
    assert _numbers(3, {"y": Y}, "train", UNITS) == (0, 2, 5)
    assert _numbers(1, {"y": Y}, "train", UNITS) == (0,)
    assert _numbers(7, {"y": Y}, "train", UNITS) == tuple(range(N))
    assert _numbers([3, 0], {}, "train", UNITS) == (3, 0)


@pytest.mark.parametrize(
    "rows", [(4, 1), range(4, 0, -3), torch.tensor([4, 1]), np.array([4, 1]), [np.int64(4), 1]]
)
def test_row_numbers_come_in_any_kind_of_sequence(rows):
    assert chosen_rows(rows, 5, "rows") == (4, 1)
    assert all(type(row) is int for row in chosen_rows(rows, 5, "rows"))
    assert chosen_rows(np.int64(2), 5, "rows") == (0, 4)
