"""Next steps of an assessment: none that the reader cannot take, no richer family without one."""

from types import SimpleNamespace

import pytest

from benchmarks.comparison.assess_next import next_step
from benchmarks.comparison.fit_checks import trust_checks
from zoo.errors import command_line


def step(family, verdict, *, families=("mean_field", "full_rank", "flow"), **known):
    fit = SimpleNamespace(family=family, entry=SimpleNamespace(families=families))
    return next_step(fit, verdict, **{"absent": "", "repaired": False, "missing": (), **known})


def test_a_richer_family_is_named_only_where_there_is_one():
    assert step("mean_field", "too_narrow") == "Try full_rank, or NUTS."
    assert step("mean_field", "too_narrow", families=("mean_field",)) == (
        "Try NUTS: zoo compare MODEL."
    )
    assert step("flow", "shifted") == step("own", "shifted") == "Try NUTS: zoo compare MODEL."
    repaired = "Use the repaired draws (benchmarks.repair(fit))"
    assert step("flow", "shifted", repaired=True) == f"{repaired}."
    assert step("mean_field", "shifted", repaired=True) == f"{repaired}, or try full_rank."


def test_the_reader_of_a_terminal_is_told_a_command():
    with command_line():
        assert step("flow", "shifted", repaired=True) == (
            "Use the repaired draws (zoo compare MODEL --guides flow --repair)."
        )
        assert step("flow", "inconclusive").startswith("More draws settle it: in Python, ")
    assert step("flow", "inconclusive").startswith("More draws settle it: benchmarks.assess(")


def test_other_verdicts_have_a_step_of_their_own():
    assert step("flow", "agrees").startswith("Use it;")
    assert step("flow", "fit_failed", absent="improper").startswith("Give every direction")
    assert step("flow", "fit_failed").startswith("Fit with more steps")
    assert step("flow", "inconclusive", missing=["SMC"]).startswith("Run NUTS to settle it")


def restarts_check():
    stop = SimpleNamespace(status="ok", sentence="It settled.")
    found = trust_checks(SimpleNamespace(stop=stop, restarts=()), None, None)
    return next(t.sentence for t in found if t.name == "restarts")


@pytest.mark.parametrize(
    ("shell", "how"),
    [(False, "run it with restarts=4"), (True, "give zoo fit or zoo compare --restarts 4")],
)
def test_one_start_is_no_check_and_more_are_asked_for_as_the_reader_can(shell, how):
    if shell:
        with command_line():
            sentence = restarts_check()
    else:
        sentence = restarts_check()
    assert sentence == f"One start only; {how} to see whether starts agree."
