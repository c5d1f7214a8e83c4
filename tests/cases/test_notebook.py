"""A notebook: one table per cell, short texts for large objects, progress while it waits.

`card` was shown twice: in a notebook rich prints a table itself, and returns an empty text.
"""

import dataclasses
import re
import sys
import types

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.short_runs import leave_undrawn

import benchmarks
import guides
import zoo
from benchmarks.cli.console import print_table
from benchmarks.report import render_html
from benchmarks.run.scorecard import Scorecard
from benchmarks.verdicts import verdict_of
from zoo.types import Data

X = torch.linspace(-1, 1, 20, dtype=torch.float64)
DATA = {"x": X, "y": 2 * X + 0.1 * torch.cos(9 * X)}
WALL = 400  # characters


def model(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x, scale), obs=y)


@pytest.fixture(scope="module", autouse=True)
def pictureless():
    with pytest.MonkeyPatch.context() as patch:
        leave_undrawn(patch)
        yield


@pytest.fixture(scope="module")
def card(pictureless):
    return benchmarks.compare_program(model, DATA, families=["laplace"], quick=True, jobs=1)


@pytest.fixture
def notebook(monkeypatch):
    """Let rich believe that it runs in a notebook, and collect what it displays by itself."""
    shown = []
    display = types.ModuleType("IPython.display")
    display.display = lambda *things, **options: shown.extend(things)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    return shown


def test_a_notebook_gets_the_table_once(card, notebook, capsys):
    text = str(card)
    print_table(["name"], [["value"]])
    assert notebook == []
    assert "laplace" in text
    assert "value" in capsys.readouterr().out


def test_the_chains_that_are_the_truth_are_called_so(card):
    assert card.verdicts["nuts"] == "no_reference"  # the word of files
    page = card._repr_html_()
    assert "is the reference" in page
    assert "no_reference" not in page
    read = re.sub(r"<style>.*?</style>|<[^>]*>", " ", render_html(card.result.report), flags=re.S)
    assert "is the reference" in read
    assert "no_reference" not in read


@pytest.mark.usefixtures("brief")
def test_progress_calls_the_chains_that_are_the_truth_so(capsys):
    options = {"families": ["laplace"], "quick": True, "jobs": 1}
    benchmarks.compare_program(model, DATA, **options)
    assert "my_model nuts compared: the reference of the others" in capsys.readouterr().err


def test_a_page_has_the_sign_where_plain_text_has_its_letters(card):
    """A notebook's table showed `+-`, and the provenance of a report `+/-`, beside `±`."""
    said = "is off by -0.31 +- 0.02 sd"
    (entry,) = card.result.report.entries

    def saying(c):
        posterior = dataclasses.replace(c.posterior, notes=(said, "it fell by 0.1 +/- 0.2 nats"))
        return dataclasses.replace(c, sentence=said, posterior=posterior)

    reference = dataclasses.replace(entry.reference, usable=False, reason=said)
    rows = [saying(c) for c in entry.comparisons]
    changed = dataclasses.replace(entry, comparisons=rows, reference=reference)
    report = dataclasses.replace(card.result.report, entries=[changed])
    noted = Scorecard(result=dataclasses.replace(card.result, report=report))
    for page in (noted._repr_html_(), render_html(report)):
        assert "is off by \N{MINUS SIGN}0.31 ± 0.02 sd" in page
        assert "+-" not in page
        assert "+/-" not in page
    assert said in noted.comparisons["laplace"].sentence


def test_the_frame_has_estimates_in_the_units_of_the_sites(card):
    """The report showed them, the data frame only errors in sds of the reference."""
    frame = card.frame().set_index(["method", "component"])
    assert set(frame.index) == {(m, c) for m in ("laplace", "nuts") for c in ("slope", "scale")}
    assert list(frame["label"]) == ["slope", "log scale"] * 2
    columns = ["q05", "median", "q95"]
    for method, c in card.comparisons.items():
        for site in ("slope", "scale"):
            expected = np.quantile(c.posterior.draws[site].numpy(), (0.05, 0.5, 0.95))
            # of the logarithm, interpolated between two draws
            assert frame.loc[(method, site), columns].to_list() == pytest.approx(
                expected, rel=1e-3
            )
            truth = frame.loc[("nuts", site), columns].to_list()
            found = frame.loc[(method, site), [f"reference_{c}" for c in columns]].to_list()
            assert found == truth
    (score,) = (s for s in card.comparisons["laplace"].scores if s.label == "slope")
    assert frame.loc[("laplace", "slope"), "mean_error"] == score.mean_error


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_verdict_is_legible_in_light_and_dark_notebooks(card):
    """Its word has a background of its own, so the contrast does not depend on the page."""
    page = card._repr_html_()
    for comparison in card.comparisons.values():
        light = verdict_of(comparison.verdict).light
        assert f"background:{light.tint};color:{light.text}" in page
        low, high = sorted((luminance(light.tint), luminance(light.text)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_no_object_prints_a_wall(card):
    entry = zoo.load("eight_schools")
    (report,) = card.result.report.entries
    found = card.comparisons["laplace"]
    objects = [
        card.result,
        card.result.report,
        report,
        found,
        found.posterior,
        found.fit,
        report.reference,
        report.data,
        entry,
        entry.load_data(),
        Data(train={"y": torch.zeros(100_000)}),
        guides.draw(found.fit, 10),
    ]
    for thing in objects:
        assert type(thing).__name__ in repr(thing)
        assert len(repr(thing)) <= WALL, repr(thing)
    assert len(repr(card.comparisons)) <= 3 * WALL
    assert len(repr(card)) <= 10 * WALL
    assert (
        repr(found.posterior) == "Posterior(my_model, laplace: 2000 draws of slope (), scale ())"
    )
    assert repr(report.data) == "Data(x (20,), y (20,); observed: y)"


def test_progress_is_printed_unless_it_is_switched_off(capsys):
    options = {"families": ["laplace"], "nuts": False, "trust": False, "quick": True, "jobs": 1}
    benchmarks.compare_program(model, DATA, **options)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 1 cells to run; about" in err
    assert "[1/1] my_model laplace: ok" in err
    benchmarks.compare_program(model, DATA, **options, progress=False)
    assert capsys.readouterr() == ("", "")
