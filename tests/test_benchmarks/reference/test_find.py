"""Which ground truths are known before anything is run."""

from dataclasses import replace

import pytest

import zoo
from benchmarks.reference import find


@pytest.mark.parametrize(
    ("name", "data_seed", "known"),
    [
        ("eight_schools", 0, True),
        ("eight_schools_centered", 0, True),  # that of another form
        ("eight_schools", 1, False),  # stored for the default data
        ("linear_regression", 0, True),
        ("linear_regression", 1, True),  # in closed form for any data
        ("coin", 1, True),
    ],
)
def test_a_truth_is_known_for_the_data_it_belongs_to(name, data_seed, known):
    assert find.known(zoo.load(name), data_seed) is known


def test_without_a_file_nothing_is_known(monkeypatch):
    monkeypatch.setattr("zoo.truth.stored.exists", lambda key, folder=None: False)
    assert find.known(zoo.load("eight_schools"), 0) is False
    assert find.known(zoo.load("eight_schools"), 1) is False


def test_entries_that_ask_chains_for_their_truth_have_none():
    entry = replace(zoo.load("coin"), reference="nuts", analytic=None)
    assert find.known(entry, 0) is False


def test_a_program_that_learns_has_a_truth_if_one_can_be_computed():
    assert find.known(zoo.load("vae"), 0) is True
    assert find.takes_long(zoo.load("vae")) is True
    learned = replace(zoo.load("coin"), reference="nuts", analytic=None, learns=True)
    assert find.takes_long(learned) is False
    assert find.known(learned, 0) is False
