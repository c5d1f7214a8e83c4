"""What a program raises at far points is its own affair; a fault of this project is not hidden."""

import pytest
import torch

from zoo.density.faults import as_program_error, is_author, unless_it_raises
from zoo.errors import ProgramError, UnknownNameError, UsageError
from zoo.truth.grid import GaussianLikelihood


def test_a_program_may_fail_at_far_points():
    def fails():
        raise IndexError("beyond the table")

    def refused():
        raise ProgramError("the density is finite nowhere.")

    assert unless_it_raises(lambda: (1,), ()) == (1,)
    assert unless_it_raises(fails, ()) == ()
    assert unless_it_raises(refused, "") == ""


def test_a_fault_of_this_project_is_raised():
    with pytest.raises(AttributeError):
        unless_it_raises(lambda: GaussianLikelihood(None, 1.0).prepare(None), ())


def raised(function):
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def test_a_name_that_is_missing_is_no_matter_of_types():
    """The name may be that of a dtype, as where a list is taken for a tensor."""
    error = raised(lambda: [1.0].dtype)
    said = str(as_program_error(error, "run on its data", "guide"))
    assert said.startswith("The guide cannot be run on its data (AttributeError), in `")
    assert said.endswith("'list' object has no attribute 'dtype'; fix the guide.")
    error = raised(lambda: torch.ones(2, dtype=torch.int64) @ torch.ones(2))
    assert "; give data and constants one type: floats" in str(as_program_error(error))


def test_the_author_is_neither_this_project_nor_a_library():
    assert is_author(__file__)
    assert not is_author(torch.__file__)
    assert not is_author(unless_it_raises.__code__.co_filename)


def test_a_call_without_its_arguments_is_no_fault_of_a_program():
    """`benchmarks.compare(posterior)` was told to fix the program."""
    import benchmarks
    import guides

    for call in (benchmarks.compare, benchmarks.run_nuts, guides.fit, guides.draw):
        with pytest.raises(UsageError, match=r"missing .* argument.*; accepted: "):
            call()
    with pytest.raises(UnknownNameError, match="argument of compare 'ref'"):
        benchmarks.compare(None, ref=3)
