"""What a program raises at far points is its own affair; a fault of this project is not hidden."""

import pytest

from zoo.density.faults import unless_it_raises
from zoo.errors import ProgramError
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
