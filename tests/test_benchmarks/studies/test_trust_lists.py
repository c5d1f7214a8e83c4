"""Which rows the study of trust lists, without measuring any."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.studies.trust import measure


@pytest.mark.parametrize(("quick", "number"), [(True, 10), (False, 140)])
def test_a_quick_study_counts_exact_draws_of_fewer_seeds(quick, number):
    rows = dict(measure._exact(quick))
    assert tuple(rows) == measure.EXACT_ENTRIES
    for name, row in rows.items():
        assert row.func is measure.exact_row
        assert row.args == (name, number)


def entry(**fields):
    known = SimpleNamespace(log_evidence=-3.0)
    return SimpleNamespace(
        **{
            "analytic": object(),
            "learns": False,
            "exact": lambda data: known,
            "load_data": lambda: None,
            "program": lambda data: 2,  # the number of unknowns, for the stub below
            "dtype": torch.float64,
            **fields,
        }
    )


def test_evidences_are_checked_where_a_closed_form_of_few_dimensions_is_known(monkeypatch):
    most = measure.SMC_DIMENSIONS
    entries = {
        "known": entry(),
        "of_zero": entry(exact=lambda data: SimpleNamespace(log_evidence=0.0)),
        "largest": entry(program=lambda data: most),
        "too_large": entry(program=lambda data: most + 1),
        "no_closed_form": entry(analytic=None),
        "of_other_data": entry(exact=lambda data: None),
        "without_evidence": entry(exact=lambda data: SimpleNamespace(log_evidence=None)),
        "learns": entry(learns=True),
        "posteriordb/arma": entry(),
    }
    monkeypatch.setattr(measure.zoo, "names", lambda: list(entries))
    monkeypatch.setattr(measure.zoo, "load", entries.__getitem__)
    monkeypatch.setattr(
        measure, "LogDensity", lambda program, data, dtype: SimpleNamespace(dim=program)
    )
    found = ["known", "of_zero", "largest"]
    assert measure._closed_forms() == found
    rows = dict(measure._evidence(False))
    assert list(rows) == [
        *(f"normal, {dim} dimensions" for dim in measure.DIMENSIONS),
        *(f"{name} {family}" for name in found for family in ("laplace", "mean_field")),
    ]
    assert rows["largest mean_field"].args == ("largest", "mean_field")
    assert rows["normal, 10 dimensions"].args == (10,)


def test_a_quick_study_of_evidences_looks_no_entry_up(monkeypatch):
    monkeypatch.setattr(measure, "_closed_forms", lambda: pytest.fail("looked up"))
    rows = list(dict(measure._evidence(True)))
    assert rows == [
        *(f"normal, {dim} dimensions" for dim in measure.DIMENSIONS[:2]),
        *("coin laplace", "coin mean_field"),
        *("linear_regression laplace", "linear_regression mean_field"),
    ]
