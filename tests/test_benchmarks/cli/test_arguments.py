"""What options accept, what slips are told, and what a shell completes."""

import pytest

from benchmarks.cli import arguments
from benchmarks.cli import process as cli
from benchmarks.cli.arguments import choices, seconds_of
from benchmarks.run.results import results_frame
from benchmarks.speed.targets import TARGETS
from benchmarks.studies.registry import STUDIES
from guides.registry import FAMILIES, check_family
from zoo.errors import UsageError
from zoo.registry import load

TIMES = "accepted: a time such as 60, 60s, 2m or 1h"


def refused(words, capsys):
    """Return the one line of a command that is refused."""
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()[-1:]
    return line


def test_times_have_a_unit_or_none():
    texts = ("60", "60s", "2m", "1.5h", None)
    assert [seconds_of(t, "--budget") for t in texts] == [60, 60, 120, 5400, None]
    assert seconds_of("1", "--timeout", least=1) == 1
    for wrong in ("-3s", "0", "soon", "s"):
        with pytest.raises(UsageError, match=f"^--budget got '{wrong}'; {TIMES}\\.$"):
            seconds_of(wrong, "--budget")
    with pytest.raises(UsageError, match=f"^--timeout got '0.5s'; {TIMES}, at least 1s\\.$"):
        seconds_of("0.5s", "--timeout", least=1)


def test_both_times_take_both_forms(monkeypatch, capsys):
    """`--timeout 10s` was refused as no number, while `--budget` wanted the unit."""
    heard = []
    monkeypatch.setattr(
        "benchmarks.cli.compare.compare", lambda *given: heard.append(given[-1]) or 0
    )
    for text in ("10", "10s", "1m"):
        assert cli.run(["compare", "coin", "--timeout", text]) == 0
    assert heard == [10, 10, 60]
    assert TIMES in refused(["compare", "coin", "--timeout", "soon"], capsys)
    assert TIMES in refused(["trust", "coin", "--budget", "soon"], capsys)


def test_a_family_in_the_place_of_an_entry_is_told(capsys):
    line = refused(["compare", "coin", "--guides", "mean_field", "full_rank"], capsys)
    assert line.startswith("zoo: 'full_rank' is a guide family, where an entry is expected;")
    assert line.endswith("separated by commas without blanks: --guides mean_field,full_rank.")


def test_several_entries_are_separated_by_blanks(capsys):
    line = refused(["compare", "coin,funnel"], capsys)
    assert line.endswith("Separate entries by blanks: coin funnel.")
    assert "'COIN' is not accepted (did you mean 'coin'?): use " in refused(
        ["compare", "COIN"], capsys
    )
    with pytest.raises(UsageError, match=r"Load them one by one: zoo\.load\('coin'\)\.$"):
        load("coin, funnel")


def test_nuts_and_several_families_are_no_family(capsys):
    line = refused(["compare", "coin", "--guides", "mean_field,nuts", "--out", "x"], capsys)
    assert line.startswith("zoo: 'nuts' is no guide family: zoo compare and compare_program run")
    line = refused(["fit", "coin", "--guide", "mean_field,full_rank"], capsys)
    assert line == (
        "zoo: Got guide family 'mean_field,full_rank'; accepted: one family, such as 'mean_field'."
        " Several are compared by zoo compare --guides A,B."
    )


def test_families_that_are_accepted_are_all_named():
    entry = load("funnel_centered")
    with pytest.raises(UsageError) as caught:
        check_family("amortized", entry)
    assert str(caught.value).endswith(
        "accepted here: mean_field, full_rank, low_rank, laplace, as the entry lists, and others"
        " without an encoder, such as flow and batch_and_match."
    )
    with pytest.raises(UsageError) as caught:
        check_family("gaussian", entry)
    assert all(name in str(caught.value) for name in FAMILIES)


def test_a_shell_completes_words_studies_and_timed_entries():
    assert choices("auto", "on", "off")("o") == ["on", "off"]
    assert set(arguments.studies("")) == set(STUDIES) - set(STUDIES.plugins)
    assert arguments.studies("vae_") == ["vae_collapse"]
    assert arguments.timed("") == [*TARGETS, "growth", "commands"]
    assert arguments.timed("radon,eight") == ["radon,eight_schools"]


def test_a_file_of_a_run_is_told_the_folder_above_it(tmp_path, capsys):
    (tmp_path / "cells").mkdir()
    for name in ("plan.toml", "report.html", "cells/cell.json"):
        (tmp_path / name).write_text("")
    for name in ("report.html", "cells/cell.json"):
        said = f"zoo: {str(tmp_path / name)!r} is a file; give {str(tmp_path)!r}."
        assert refused(["report", str(tmp_path / name)], capsys) == said
        with pytest.raises(UsageError, match="is a file; give "):
            results_frame(tmp_path / name)
    (tmp_path / "plan.toml").unlink()
    line = refused(["report", str(tmp_path / "report.html")], capsys)
    assert line.endswith("is a file; give the folder of a run made by `zoo compare`.")
