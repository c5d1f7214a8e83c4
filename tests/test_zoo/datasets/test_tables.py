"""Data tables: recorded digests, row counts, and agreement with copies in scikit-learn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from zoo import datasets
from zoo.errors import DataError, UnknownNameError
from zoo.models.conjugate import coin
from zoo.models.hierarchical import eight_schools

FOLDER = Path(datasets.__file__).parent


@pytest.mark.parametrize("name", sorted(datasets.PROVENANCE))
def test_a_table_has_its_recorded_digest_and_rows(name: str) -> None:
    provenance = datasets.PROVENANCE[name]
    content = (FOLDER / f"{name}.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == provenance.sha256
    assert content.count(b"\n") == provenance.rows + 1
    assert datasets.read(name).values.shape[0] == provenance.rows
    assert provenance.sha256 in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert provenance.source
    assert provenance.licence


def test_every_table_has_provenance() -> None:
    assert {p.stem for p in FOLDER.glob("*.csv")} == set(datasets.PROVENANCE)


def test_tables_are_the_ones_of_scikit_learn() -> None:
    diabetes, cancer, iris, wine = (
        load_diabetes(scaled=False),
        load_breast_cancer(),
        load_iris(),
        load_wine(),
    )
    assert np.array_equal(
        datasets.read("diabetes").values.numpy(), np.column_stack([diabetes.data, diabetes.target])
    )
    assert np.array_equal(
        datasets.read("breast_cancer").values.numpy(),
        np.column_stack([cancer.data, 1 - cancer.target]),
    )
    assert np.array_equal(
        datasets.read("iris").values.numpy(), np.column_stack([iris.data, iris.target])
    )
    assert np.array_equal(
        datasets.read("wine").values.numpy(), np.column_stack([wine.data, wine.target])
    )


def test_an_altered_table_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (FOLDER / "iris.csv").read_text(encoding="utf-8")
    (tmp_path / "iris.csv").write_text(text.replace("5.1", "5.2", 1), encoding="utf-8")
    monkeypatch.setattr(datasets, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="reinstall"):
        datasets.read("iris")


def test_windows_line_ends_are_the_same_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "iris.csv").write_bytes((FOLDER / "iris.csv").read_bytes().replace(b"\n", b"\r\n"))
    expected = datasets.read("iris").values
    monkeypatch.setattr(datasets, "files", lambda package: tmp_path)
    assert np.array_equal(datasets.read("iris").values.numpy(), expected.numpy())


def test_unknown_tables_and_columns_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'iris'"):
        datasets.read("irys")
    with pytest.raises(UnknownNameError, match="did you mean 'petal_length'"):
        datasets.read("iris").column("petal_lenght")


def test_constants_are_the_published_ones() -> None:
    # BDA3 table 5.2 and section 2.4; sums catch a swapped or mistyped digit.
    assert (coin.GIRLS, coin.BIRTHS) == (437, 980)
    assert eight_schools.EFFECTS == (28, 8, -3, 7, -1, 1, 18, 12)
    assert eight_schools.ERRORS == (15, 10, 16, 11, 9, 11, 10, 18)
