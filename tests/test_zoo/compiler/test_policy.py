"""When compiling pays, and with what: the rule at its boundary, and the environment."""

import logging
import math

import pytest
import torch

from zoo.compiler import policy
from zoo.compiler.policy import (
    Work,
    backend,
    check_mode,
    compiler_missing,
    is_recursion,
    pays,
    work_of,
)
from zoo.errors import UnknownNameError


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_three_modes_are_known(mode):
    check_mode(mode)


def test_another_mode_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"value of compile 'of'.*off"):
        check_mode("of")


def test_the_time_of_a_call_is_that_of_its_operations_and_its_numbers():
    """5 us per operation and 2 ns per number."""
    assert Work(100, 1_000_000).seconds == pytest.approx(0.5e-3 + 2e-3)


def test_work_counts_operations_and_all_their_results():
    x = torch.ones(10)
    assert work_of(lambda a: (a + 1).exp().sum(), [x]) == Work(3, 21)
    assert work_of(lambda a, b: torch.stack([a, b]), [x, x]) == Work(1, 20)
    assert work_of(lambda a: torch.sort(a), [x]) == Work(1, 20)  # values and places
    assert work_of(lambda a: a, [x]) == Work(0, 0)


def calls_at_which_it_pays(work, seconds_per_operation):
    """Four runs save 7/8 of the eager time; a graph takes 0.5 s, 300 calls and 1.5 s to make."""
    cost = 0.5 + 300 * work.seconds + 1.5 + seconds_per_operation * work.operations
    return cost / (4 * work.seconds * 7 / 8)


@pytest.mark.parametrize("work", [Work(140, 3000), Work(750, 10_000_000), Work(5000, 500_000)])
def test_compiling_pays_once_four_runs_save_more_than_it_costs(work):
    calls = math.floor(calls_at_which_it_pays(work, 0.017))
    assert [pays(work, calls), pays(work, calls + 1)] == [False, True]
    assert [pays(work, calls, one_point=True), pays(work, calls + 1, one_point=True)] == [
        False,
        True,
    ]


def test_a_long_loop_of_small_tensors_pays_sooner_at_one_point():
    work = Work(25_000, 25_000)
    calls = math.floor(calls_at_which_it_pays(work, 0.001))
    assert [pays(work, calls, one_point=True), pays(work, calls + 1, one_point=True)] == [
        False,
        True,
    ]
    assert not pays(work, calls + 1)


@pytest.mark.parametrize(
    ("work", "answer"),
    [
        (Work(3999, 0), False),
        (Work(4000, 0), True),
        (Work(4000, 32 * 4000), True),
        (Work(4000, 32 * 4000 + 1), False),
    ],
)
def test_an_unrolled_loop_has_thousands_of_operations_on_few_numbers(work, answer):
    assert is_recursion(work) is answer


@pytest.mark.parametrize("word", ["standalone", "aoti", "eager"])
def test_the_environment_decides_the_backend(monkeypatch, word):
    monkeypatch.setenv("ZOO_BACKEND", word)
    monkeypatch.setattr(policy.torch_private, "untested", lambda: "a new torch")
    assert backend() == word


def test_another_backend_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("ZOO_BACKEND", "eagre")
    with pytest.raises(UnknownNameError, match=r"value of ZOO_BACKEND 'eagre'.*eager"):
        backend()


def test_an_untested_torch_takes_the_public_route_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("ZOO_BACKEND", "")
    monkeypatch.setattr(policy, "_said", set())
    monkeypatch.setattr(policy.torch_private, "untested", lambda: "")
    with caplog.at_level(logging.WARNING, logger="zoo"):
        assert backend() == "standalone"
        assert not caplog.records
        monkeypatch.setattr(policy.torch_private, "untested", lambda: "a new torch")
        assert [backend(), backend()] == ["aoti", "aoti"]
    assert [r.getMessage() for r in caplog.records] == [
        "Compiling by torch's public route (slower calls, same results): a new torch;"
        " ZOO_BACKEND=standalone tries it."
    ]


def test_a_compiler_is_looked_for_by_the_variable_or_by_its_usual_names(monkeypatch):
    asked = []
    monkeypatch.setattr(policy.shutil, "which", lambda n: asked.append(n))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler_missing() == "no C++ compiler (g++, clang++, cl) on the PATH"
    assert asked == ["g++", "clang++", "cl"]
    monkeypatch.setenv("CXX", "my-c++")
    assert compiler_missing() == "no C++ compiler (my-c++) on the PATH"
    monkeypatch.setattr(policy.shutil, "which", lambda n: "/usr/bin/x" if n == "cl" else None)
    assert compiler_missing() != ""
    monkeypatch.delenv("CXX")
    assert compiler_missing() == ""
