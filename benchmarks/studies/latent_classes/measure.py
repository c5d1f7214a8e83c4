"""Figures of mixtures and latent classes, part by part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import zoo
from benchmarks.studies.latent_classes import co_clustering, coverage, evidence, heldout, modality

__all__ = ["PARTS"]

SHORT: dict[str, Any] = {
    "steps": 1000,
    "patience": 150,
    "anneal": 300,
    "num_particles": 32,
    "compile": "off",
}
HELDOUT: dict[str, Any] = {
    "steps": 400,
    "patience": 100,
    "anneal": 200,
    "num_particles": 16,
    "compile": "off",
}
FEW = {"steps": 100, "patience": 40, "anneal": 40}
Rows = list[dict[str, Any]]


def _short(quick: bool) -> dict[str, Any]:
    return {**SHORT, **FEW} if quick else SHORT


def _evidence(quick: bool) -> Rows:
    return [
        row
        for K in ((2,) if quick else (2, 3))
        for row in evidence.evidence_rows(K, **_short(quick))
    ]


def _network(quick: bool) -> Rows:
    steps: dict[str, Any] = (
        {"steps": 100, "patience": 40, "anneal": 40}
        if quick
        else {"steps": 400, "patience": 100, "anneal": 150}
    )
    return evidence.class_network_rows(2, num_particles=1, compile="off", **steps)


def _labels(quick: bool) -> Rows:
    return co_clustering.labels()


def _modes(quick: bool) -> Rows:
    return (
        modality.mode_rows(modality.CASES[1:], chains=2, draws=100)
        if quick
        else modality.mode_rows()
    )


def _co_clustering(quick: bool) -> Rows:
    return co_clustering.against_reference(
        draws=500 if quick else co_clustering.LONG, **_short(quick)
    )


def _heldout(quick: bool, data: str, K: int) -> Rows:
    seeds, settings = (1, {**HELDOUT, **FEW, "num_particles": 2}) if quick else (2, HELDOUT)
    score = heldout.compare(data, K, "full", family="full_rank", seeds=seeds, **settings)
    mean, low, high = heldout.interval(score)
    return [
        {
            "data": data,
            "K": K,
            "covariance": score.covariance,
            "family": score.family,
            "seeds": len(score.ours),
            "folds": heldout.FOLDS,
            "rows": score.ours.shape[1],
            "ours": float(score.ours.mean()),
            "theirs": float(score.theirs.mean()),
            "difference": mean,
            "low": low,
            "high": high,
            "failures": score.failures,
        }
    ]


def _coverage(quick: bool) -> Rows:
    exact = coverage.exact_intervals(20 if quick else 400)
    return [_covered("gaussian_mixture_exact", "exact posterior", 12, exact)]


def _coverage_guide(quick: bool) -> Rows:
    entry = zoo.load("gaussian_mixture_exact")
    rows, one_graph = [], {"compile": "on", "num_particles": 32}  # one graph for all data sets
    flow = {**one_graph, "lr": 0.005}
    for family, settings in (
        ("laplace", {"compile": "off"}),
        ("mean_field", one_graph),
        ("full_rank", one_graph),
        ("flow", flow),
    ):
        if quick and family != "laplace":
            continue
        number, names = (5 if quick else 200), ("location", "weight", "log_scale", "mixture_mean")
        found = coverage.cover(entry, family, simulations=number, quantities=names, **settings)
        rows.append(_covered(entry.name, family, 12, found))
    return rows


def _covered(entry: str, method: str, rows: int, found: coverage.Coverage) -> dict[str, Any]:
    number = len(next(iter(found.held.values())))
    parts = {name: np.atleast_1d(v.mean(0)).round(3).tolist() for name, v in found.held.items()}
    return {
        "entry": entry,
        "method": method,
        "rows": rows,
        "simulations": number,
        "share": found.share,
        "se": found.se,
        "failures": found.failures,
        "parts": parts,
    }


PARTS: dict[str, Callable[[bool], Rows]] = {  # each takes `quick`
    "evidence": _evidence,
    "network": _network,
    "labels": _labels,
    "modes": _modes,
    "co_clustering": _co_clustering,
    "coverage": _coverage,
    "coverage_guide": _coverage_guide,
    **{f"heldout_{data}": partial(_heldout, data=data, K=K) for data, K in heldout.CASES},
}
