"""Pictures of the fits: what they are called, and the texts around them."""

from types import SimpleNamespace

import pytest

from benchmarks.report.sections import fitting
from benchmarks.types import ParetoK


def view(*, status="ok", restarts=1, judged=None):
    fit = SimpleNamespace(
        losses=[5.0, 4.0, 3.0], stop=SimpleNamespace(status=status), restarts=(0,) * restarts
    )
    weights = ParetoK(
        value=0.456, threshold=0.7, draws=1000, importance_ess=10.0, reweighted={"mu": (0.3, 0.02)}
    )
    report = SimpleNamespace(
        summaries=lambda: {"laplace": fit, "unmarked": fit},
        entry=SimpleNamespace(key="eight_schools", judged=judged),
    )
    return SimpleNamespace(
        report=report, marks={"laplace": "o"}, by_name={"l": SimpleNamespace(pareto_k=weights)}
    )


@pytest.fixture
def drawn(monkeypatch):
    """Draw nothing: a picture is what it is called with."""
    for name in ("losses", "pareto", "reweighting"):
        monkeypatch.setattr(fitting.figures_fit, name, lambda *given, name=name: name)
    monkeypatch.setattr(fitting, "picture", lambda *given: given)


@pytest.mark.usefixtures("drawn")
def test_every_picture_of_the_fits_has_its_own_values_in_its_text():
    losses, khat, moved = fitting.pictures(view())
    assert losses[:3] == (
        "losses",
        "e-eight_schools-l",
        "Losses of the fits of eight_schools against optimizer step: laplace 4.000 nats at"
        " step 3.",
    )
    assert khat[:3] == (
        "pareto",
        "e-eight_schools-k",
        "Pareto k-hat of each method on eight_schools against its threshold: l 0.46 (at most"
        " 0.70).",
    )
    assert moved[:3] == (
        "reweighting",
        "e-eight_schools-w",
        "Mean errors on eight_schools before and after reweighting: l mu +0.30 to +0.020.",
    )


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(
    ("fields", "caption"),
    [
        (
            {},
            "Smoothed minus ELBO, above the lowest of all methods. The marker is where a fit"
            " stopped.",
        ),
        (
            {"judged": object(), "status": "not_converged", "restarts": 2},
            "Smoothed minus ELBO, above its own lowest: some guides are fitted to all units. The"
            " marker is where a fit stopped. Did not converge: laplace. Dashes at the right edge:"
            " the final values of all restarts.",
        ),
    ],
)
def test_the_caption_of_the_losses_says_what_they_are_above_and_which_fits_ended_early(
    fields, caption
):
    assert fitting.pictures(view(**fields))[0][4] == caption


def test_what_cannot_be_drawn_is_left_out(monkeypatch):
    for name in ("losses", "pareto", "reweighting"):
        monkeypatch.setattr(fitting.figures_fit, name, lambda *given: None)
    assert fitting.pictures(view()) == []
