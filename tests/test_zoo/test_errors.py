import inspect

import pytest

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
