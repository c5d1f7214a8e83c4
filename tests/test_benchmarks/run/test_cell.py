"""Cells: an encoder is moved to the compared units; failed chains are no truth."""

from types import SimpleNamespace

import guides
from benchmarks.run import methods
from benchmarks.run.evaluate import _Evaluation
from benchmarks.run.plan import Plan
from benchmarks.run.prepare import prepare

SHORT = {"steps": 20, "patience": 4, "anneal": 8, "compile": "off", "batch_size": 32}


def test_draws_of_an_encoder_are_those_of_the_compared_units():
    plan = Plan(entries=("vae[rows=150,hidden=6,layers=1]",), guides=("amortized",), nuts=False)
    prepared = prepare(plan, plan.entries[0])
    assert (prepared.training.size, prepared.data.size) == (120, 20)
    fit = methods.fitted(
        prepared.entry,
        "amortized",
        prepared.data,
        SHORT,
        seed=0,
        given=None,
        trains=True,
        training=prepared.training,
    )
    assert fit.data.size == 20
    assert guides.draw(fit, 30).draws["z"].shape == (30, 20, 2)


def test_chains_of_a_failed_row_are_not_the_truth():
    """The first NUTS row ended with an error, the second is good: the second one is used."""
    rows = [SimpleNamespace(name=f"nuts {i}", method="nuts") for i in range(3)]
    rows.insert(0, SimpleNamespace(name="laplace", method="laplace"))

    def chains(*statuses):
        names = [r.name for r in rows]
        known = SimpleNamespace(
            present=lambda key: rows,
            contents=dict(zip(names, ({"status": s} for s in statuses), strict=True)),
            posteriors={name: name for name in names},
        )
        return _Evaluation.row(known, "entry", "nuts")

    assert chains("ok", "ok", "ok", "ok") == "nuts 0"
    assert chains("ok", "error", "ok", "ok") == "nuts 1"
    assert chains("ok", "killed", "timeout", "unusable") == "nuts 2"
    assert chains("ok", "error", "not_converged", "ok") == "nuts 1"
    assert chains("ok", "error", "killed", "timeout") is None
