"""An existing Pyro model in one call: a table, an escaped notebook table, and its scores."""

import html.parser

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, init_to_value
from support.short_runs import short_fits

import benchmarks
import guides
import zoo
from zoo.errors import UnknownNameError, UsageError


def model(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x, scale), obs=y)


X = torch.linspace(-1, 1, 20, dtype=torch.float64)
DATA = {"x": X, "y": 2 * X + 0.1 * torch.cos(9 * X)}


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def test_the_scorecard_of_a_plain_model():
    title = "<script>alert(1)</script> & co"
    card = benchmarks.compare_program(
        model, DATA, families=["laplace"], nuts=False, trust=False, quick=True, title=title
    )
    assert card.verdicts == {"laplace": "no_reference"}
    assert "laplace" in str(card)
    assert repr(card) == str(card)
    page = card._repr_html_()
    tags = Tags()
    tags.feed(page)
    assert tags.seen == {"table", "caption", "thead", "tbody", "tr", "th", "td", "b"}
    assert "&lt;script&gt;" in page
    frame = card.frame()
    assert frame[["method", "label", "component"]].to_numpy().tolist() == [
        ["laplace", "slope", "slope"],
        ["laplace", "log scale", "scale"],
    ]
    assert frame["mean_error"].isna().all()  # there is no truth
    assert frame["reference_median"].isna().all()
    assert card.comparisons["laplace"].posterior.sample_shape == (2000,)


@pytest.mark.usefixtures("undrawn")
def test_a_point_guide_is_called_one_in_every_face(tmp_path, monkeypatch):
    """AutoDelta on 30 targets of sd 1: the sd of the mean is 0.1825, the guide's is 0."""

    def targets(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        with pyro.plate("row", 30):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    short_fits(monkeypatch, 240, 20)

    def near(program):
        return AutoDelta(program, init_loc_fn=init_to_value(values={"mean": torch.tensor(0.9)}))

    y = 1 + torch.sin(torch.arange(30.0, dtype=torch.float64))
    options = {"guide": near, "families": ["own"], "quick": True, "out": tmp_path / "run"}
    card = benchmarks.compare_program(targets, {"y": y}, nuts=False, trust=False, **options)
    found = card.comparisons["own"]
    assert [t.passed for t in found.trust] == [False, None, None]
    assert "0 of 1 trust checks pass. A point, no spread, in mean" in found.sentence
    assert "a point, no spread, in mean" in str(card)
    assert (found.pareto_k, found.elbo) == (None, None)
    (cell,) = card.result.cells
    assert (cell["pareto_k"], cell["elbo"], cell["log_evidence"]) == (None, None, None)
    assert "k-hat 0.00" not in str(card)
    for page in ("report.md", "report.html"):
        text = (tmp_path / "run" / page).read_text()
        assert "A point, no spread, in mean" in text
        assert "k-hat 0.00" not in text


def test_an_unknown_family_or_a_bare_word_is_refused():
    with pytest.raises(UnknownNameError, match=r"did you mean 'laplace'"):
        benchmarks.compare_program(model, DATA, families=["laplce"])
    with pytest.raises(UsageError, match=r"accepted: a list such as"):
        benchmarks.compare_program(model, DATA, families="laplace")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"families": []}, r"families=\[\] \(list\); accepted: a list such as"),
        ({"seed": -1}, r"seed=-1 \(int\); accepted: an integer of at least 0"),
        ({"seed": [1, 2]}, r"seed=\[1, 2\] \(list\); accepted: an integer"),
        ({"jobs": 0}, "jobs=0 .*; accepted: an integer of at least 1"),
        ({"restarts": 1.5}, "restarts=1.5 .*; accepted: an integer of at least 1"),
        ({"quick": "yes"}, "quick='yes' .*; accepted: True or False"),
        (
            {"steps": 0},
            r"accepted: .*\. Settings of a fit are given as training={'steps': \.\.\.}\.$",
        ),
        ({"steep": 0}, r"Unknown argument of compare_program 'steep'.*\(\d+ in all\)\.$"),
        ({"seeds": [1, 2]}, "Unknown argument of compare_program 'seeds' .did you mean 'seed'"),
        ({"famillies": ["laplace"]}, "'famillies' .did you mean 'families'"),
    ],
)
def test_a_wrong_argument_is_named_before_the_model_is_run(given, says):
    def untouched(y):
        raise AssertionError("it was run")

    with pytest.raises(UsageError, match=says):
        benchmarks.compare_program(untouched, DATA, **given)


def test_functions_of_fits_refuse_wrong_arguments_by_name():
    entry = zoo.load("coin")
    with pytest.raises(UsageError, match=r"guides.fit got entry='coin' \(str\); .*zoo.load"):
        guides.fit("coin", "laplace")
    for seed in (-1, 1.5, True):
        with pytest.raises(UsageError, match=f"guides.fit got seed={seed} .*at least 0"):
            guides.fit(entry, "laplace", seed=seed)
    fit = guides.fit(entry, "laplace")
    with pytest.raises(UsageError, match=r"guides.draw got n=2.5 \(float\)"):
        guides.draw(fit, 2.5)
    with pytest.raises(UsageError, match=r"assess got seed=None"):
        benchmarks.assess(fit, seed=None)
    with pytest.raises(UsageError, match=r"run_nuts got entry='coin'"):
        benchmarks.run_nuts("coin")
    with pytest.raises(UsageError, match=r"The reference is 3 \(int\); accepted: a Reference"):
        benchmarks.compare(guides.draw(fit, 200), 3)


@pytest.mark.usefixtures("undrawn")
def test_a_run_can_be_kept_and_read_as_a_table(tmp_path):
    options = {
        "families": ["laplace"],
        "nuts": False,
        "trust": False,
        "quick": True,
        "out": tmp_path / "run",
    }
    first = benchmarks.compare_program(model, DATA, **options)
    again = benchmarks.compare_program(model, DATA, **options)
    assert again.result.cells == first.result.cells
    assert (tmp_path / "run" / "report.html").exists()
    assert list(benchmarks.results_frame(tmp_path / "run")["entry"]) == ["my_model"]
