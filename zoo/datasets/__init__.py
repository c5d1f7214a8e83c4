"""Small data tables kept in this package, each with its source, licence, number of rows and SHA-256.

Nothing is downloaded at run time. `README.md` in this folder tells the story of each table in words.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

import torch
from torch import Tensor

from zoo.errors import DataError, UnknownNameError

__all__ = ["PROVENANCE", "Provenance", "Table", "read", "standardize"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a table comes from, under which terms, and how to recognize it."""

    source: str
    licence: str
    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of numbers: `values[row, column]` in float64, with the names of its columns."""

    columns: tuple[str, ...]
    values: Tensor
    provenance: Provenance

    def column(self, name: str) -> Tensor:
        """Return one column `[row]`."""
        if name not in self.columns:
            raise UnknownNameError("column", name, self.columns)
        return self.values[:, self.columns.index(name)]

    def select(self, names: Sequence[str]) -> Tensor:
        """Return several columns `[row, len(names)]`."""
        return torch.stack([self.column(name) for name in names], -1)


PROVENANCE: Mapping[str, Provenance] = MappingProxyType(
    {
        "breast_cancer": Provenance(
            source="Breast Cancer Wisconsin (Diagnostic), Wolberg, Mangasarian, Street and Street (1993), UCI Machine Learning "
            "Repository, doi:10.24432/C5DW2B; the copy of scikit-learn 1.9.1",
            licence="CC-BY-4.0",
            rows=569,
            sha256="24e220f06a0844385ea0e0f551c2ee1f9725e248e1dd662fafca95e0c7d1a0bf",
        ),
        "diabetes": Provenance(
            source="Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of Statistics 32(2), 407-499; "
            "the unscaled copy of scikit-learn 1.9.1",
            licence="published with the article; redistributed by scikit-learn under BSD-3-Clause",
            rows=442,
            sha256="204d81f03de9e7e697edd0aeb0f930eda353fbedc2c4709b04e115342fda7844",
        ),
        "iris": Provenance(
            source="Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7(2), 179-188, "
            "doi:10.24432/C56C76; the copy of scikit-learn 1.9.1",
            licence="CC-BY-4.0",
            rows=150,
            sha256="17e9e19553ed7fa1ebb8b5b4d9d3536da813ebacaf446aff895742dff04087c3",
        ),
        "wine": Provenance(
            source="Wine recognition, Forina et al. (1988), PARVUS; Aeberhard and Forina (1992), UCI Machine Learning Repository, "
            "doi:10.24432/C5PC7J; the copy of scikit-learn 1.9.1",
            licence="CC-BY-4.0",
            rows=178,
            sha256="c39d9a63976d3ca23e2a004f6e9e184ba5d70af9ba269a0ebb4ac222c480c498",
        ),
    }
)


def read(name: str) -> Table:
    """Read a table by name and verify its recorded SHA-256 and number of rows.

    Raises:
        UnknownNameError: no such table.
        DataError: the file differs from the recorded one.
    """
    if name not in PROVENANCE:
        raise UnknownNameError("data table", name, PROVENANCE)
    provenance = PROVENANCE[name]
    # A checkout with CRLF line ends holds the same numbers, so line ends are not part of the digest.
    content = files(__name__).joinpath(f"{name}.csv").read_bytes().replace(b"\r\n", b"\n")
    digest = hashlib.sha256(content).hexdigest()
    if digest != provenance.sha256:
        raise DataError(
            f"Data table {name!r} has SHA-256 {digest[:12]}..., recorded is {provenance.sha256[:12]}...; reinstall the package."
        )
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8")))
    values = torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64)
    if len(values) != provenance.rows:
        raise DataError(f"Data table {name!r} has {len(values)} rows, recorded are {provenance.rows}; reinstall the package.")
    return Table(columns=tuple(header), values=values, provenance=provenance)


def standardize(values: Tensor) -> Tensor:
    """Shift and scale every column to mean 0 and standard deviation 1 (divisor n), `[row, ...] -> [row, ...]`."""
    return (values - values.mean(0)) / values.std(0, correction=0)
