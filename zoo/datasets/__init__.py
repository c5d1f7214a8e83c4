"""Small data tables of this package, each with its source, licence, rows and SHA-256.

Nothing is downloaded at run time. `README.md` in this folder describes each table.
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
        "anes96": Provenance(
            source=(
                "American National Election Studies 1996, www.electionstudies.org; the copy of"
                " statsmodels 0.15.0, five of its columns"
            ),
            licence="public domain",
            rows=944,
            sha256="9a3003e1311291dadf718b5590ab12d3e0920a6a8a6e2955f425eb73095eca70",
        ),
        "breast_cancer": Provenance(
            source=(
                "Breast Cancer Wisconsin (Diagnostic), Wolberg, Mangasarian, Street and Street"
                " (1993), UCI Machine Learning Repository, doi:10.24432/C5DW2B; the copy of"
                " scikit-learn 1.9.1"
            ),
            licence="CC-BY-4.0",
            rows=569,
            sha256="24e220f06a0844385ea0e0f551c2ee1f9725e248e1dd662fafca95e0c7d1a0bf",
        ),
        "diabetes": Provenance(
            source=(
                "Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of"
                " Statistics 32(2), 407-499; the unscaled copy of scikit-learn 1.9.1"
            ),
            licence="published with the article; redistributed by scikit-learn under BSD-3-Clause",
            rows=442,
            sha256="204d81f03de9e7e697edd0aeb0f930eda353fbedc2c4709b04e115342fda7844",
        ),
        "gdp": Provenance(
            source=(
                "US Bureau of Economic Analysis, real gross domestic product, by way of FRED,"
                " Federal Reserve Bank of St. Louis, accessed 2009-12-15; the copy of statsmodels"
                " 0.15.0 (macrodata)"
            ),
            licence="public domain",
            rows=203,
            sha256="221c23fd62600816b5ef5b68d8e484793b5a1a20d700ba69b262ba3d20dbe6d0",
        ),
        "iris": Provenance(
            source=(
                "Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of"
                " Eugenics 7(2), 179-188, doi:10.24432/C56C76; the copy of scikit-learn 1.9.1"
            ),
            licence="CC-BY-4.0",
            rows=150,
            sha256="17e9e19553ed7fa1ebb8b5b4d9d3536da813ebacaf446aff895742dff04087c3",
        ),
        "nile": Provenance(
            source=(
                "Cobb (1978), The problem of the Nile: conditional solution to a changepoint"
                " problem, Biometrika 65(2), 243-251; the copy of statsmodels 0.15.0"
            ),
            licence="public domain",
            rows=100,
            sha256="88e97bea7249e5832a85e41aec6ce4b8f7b1b14aae930c8363da7f193286b598",
        ),
        "stackloss": Provenance(
            source=(
                "Brownlee (1965), Statistical Theory and Methodology in Science and Engineering,"
                " 2nd ed., p. 454; the copy of statsmodels 0.15.0"
            ),
            licence="public domain",
            rows=21,
            sha256="1e21a742a30281766e62aebcf4b8e3153b601bf2f13c19216769c342d00f11dc",
        ),
        "strikes": Provenance(
            source=(
                "Kennan (1985), The duration of contract strikes in US manufacturing, Journal of"
                " Econometrics 28(1), 5-28, June strikes only; the copy of statsmodels 0.15.0"
            ),
            licence="public domain",
            rows=62,
            sha256="509e9b5c156d52ffd6cb36dc9275745a9961e4879668c788e5dcd37132e514b8",
        ),
        "sunspots": Provenance(
            source=(
                "US National Geophysical Data Center, yearly sunspot numbers 1700-2008; the copy"
                " of statsmodels 0.15.0"
            ),
            licence="public domain",
            rows=309,
            sha256="3617fb5c428f88aec9a12c8a0b8136a9537479e8611c8a986abf0591698e5a6b",
        ),
        "wine": Provenance(
            source=(
                "Wine recognition, Forina et al. (1988), PARVUS; Aeberhard and Forina (1992), UCI"
                " Machine Learning Repository, doi:10.24432/C5PC7J; the copy of scikit-learn 1.9.1"
            ),
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
    # Line endings are not part of the digest: a checkout with CRLF has the same numbers.
    content = files(__name__).joinpath(f"{name}.csv").read_bytes().replace(b"\r\n", b"\n")
    digest = hashlib.sha256(content).hexdigest()
    if digest != provenance.sha256:
        raise DataError(
            f"Data table {name!r} has SHA-256 {digest[:12]}..., recorded is"
            f" {provenance.sha256[:12]}...; reinstall the package."
        )
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8")))
    values = torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64)
    if len(values) != provenance.rows:
        raise DataError(
            f"Data table {name!r} has {len(values)} rows, recorded are {provenance.rows};"
            " reinstall the package."
        )
    return Table(columns=tuple(header), values=values, provenance=provenance)


def standardize(values: Tensor) -> Tensor:
    """Standardize every column to mean 0 and sd 1 (divisor n), `[row, ...] -> [row, ...]`."""
    return (values - values.mean(0)) / values.std(0, correction=0)
