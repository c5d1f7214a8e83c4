"""Checks of `zoo doctor`: everything that makes an installation give wrong or slow answers."""

from __future__ import annotations

import math
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import zoo
from benchmarks.cli.environment import HOME, shadowed
from zoo.errors import UnknownNameError

__all__ = ["Finding", "examine"]

# Diagnostics of four fixed chains (`_chains`), by the formulas of Vehtari et al. (2021); a test
# repeats them.
DIAGNOSTICS = {
    "rhat": 1.0188170460911616,
    "ess_bulk": 217.96147670830968,
    "ess_tail": 216.70943826632487,
    "mcse_mean": 0.01867305035487374,
    "mcse_sd": 0.009328058616089546,
    "ebfmi": 2.0158681058527548,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding; a `note` is informative, a `failed` one needs a fix."""

    name: str
    status: Literal["ok", "note", "failed"]
    sentence: str


def examine() -> list[Finding]:
    """Run every check; a check that raises is a finding itself."""
    findings = []
    for look in (
        _python,
        _together,
        _packages,
        _density,
        _diagnostics,
        _fork,
        _compiler,
        _folder,
        _entries,
        _families,
        _objectives,
        _metrics,
        _sections,
        _studies,
        _browser,
    ):
        try:
            findings.append(look())
        except Exception as error:
            findings.append(
                Finding(
                    name=look.__name__.strip("_"),
                    status="failed",
                    sentence=f"{type(error).__name__}: {error}",
                )
            )
    return findings


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(
        name="python",
        status="ok" if ok else "failed",
        sentence=f"{sys.version.split()[0]} (3.11 or newer is needed)",
    )


def _together() -> Finding:
    hidden = shadowed()
    if hidden is not None:
        return Finding(name="packages", status="failed", sentence=hidden)
    return Finding(
        name="packages", status="ok", sentence=f"zoo, guides and benchmarks are together in {HOME}"
    )


def _packages() -> Finding:
    from packaging.requirements import Requirement

    wrong, seen = [], []
    for line in metadata.requires("posterior-zoo") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        seen.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(
                f"{requirement.name} {version} is installed, {requirement.specifier} is needed"
            )
    if wrong:
        return Finding(
            name="dependencies",
            status="failed",
            sentence="; ".join(wrong) + "; install again with -c constraints.txt",
        )
    return Finding(name="dependencies", status="ok", sentence=", ".join(seen))


def _density() -> Finding:
    """Check by quadrature that the log density gives the known evidence of `coin`."""
    import torch

    from zoo.density.log_density import LogDensity

    entry = zoo.load("coin")
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    u = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    value = float(torch.logsumexp(density.batch(u[:, None]), 0) + math.log(60 / 20000))
    exact = entry.exact(data)
    truth = exact.log_evidence if exact is not None else None
    if truth is None or abs(value - truth) > 1e-6:
        return Finding(
            name="log density",
            status="failed",
            sentence=f"evidence of coin is {value:.8f} by quadrature and {truth} exactly",
        )
    return Finding(
        name="log density",
        status="ok",
        sentence=f"evidence of coin by quadrature is exact ({value:.6f} nats)",
    )


def _chains() -> Any:
    """Return four chains `[chain, draw]` of 50 draws, made by portable integer arithmetic."""
    import numpy as np

    i = np.arange(200).reshape(4, 50)
    return (7919 * i * i % 1009) / 1009 + 0.05 * np.arange(4)[:, None]


def _diagnostics() -> Finding:
    """Check the diagnostics of fixed chains, through the bridge to ArviZ as in comparisons."""
    from benchmarks import arviz_bridge

    x, wrong = _chains(), []
    for name, right in DIAGNOSTICS.items():
        try:
            got = float(getattr(arviz_bridge, name)(x).min())
        except Exception as error:
            wrong.append(f"{name} raises {type(error).__name__}: {error}")
            continue
        if not abs(got - right) <= 1e-6 * right:
            wrong.append(f"{name} of fixed chains is {got:.6g} where {right:.6g} is right")
    if wrong:
        cure = "ArviZ and its dependencies are incompatible, install again with -c constraints.txt"
        return Finding(name="diagnostics", status="failed", sentence=f"{'; '.join(wrong)}; {cure}")
    return Finding(
        name="diagnostics",
        status="ok",
        sentence="R-hat, ESS, Monte Carlo errors and E-BFMI of fixed chains are right",
    )


def _fork() -> Finding:
    from benchmarks.workers import cores

    if "fork" not in multiprocessing.get_all_start_methods():
        return Finding(
            name="processes",
            status="failed",
            sentence="this system cannot fork; cells need it (Linux or macOS)",
        )
    return Finding(
        name="processes",
        status="ok",
        sentence=f"fork works, {cores()} cores: --jobs {min(cores(), 8)} is sensible",
    )


def _compiler() -> Finding:
    """Report how graphs are compiled here, and check one against its function."""
    import torch

    from zoo.compiler.compile import compile_function
    from zoo.compiler.policy import backend, compiler_missing

    missing, how = compiler_missing(), backend()
    if missing:
        return Finding(
            name="compiler",
            status="note",
            sentence=(
                f"{missing}; programs run without compilation: slower, same numbers; install g++"
            ),
        )
    if how == "eager":
        return Finding(
            name="compiler",
            status="note",
            sentence="ZOO_BACKEND=eager; programs run without compilation: slower, same numbers",
        )
    point = torch.linspace(0.1, 1.0, 7, dtype=torch.float64)
    tried = compile_function(lambda x: [x.lgamma().sum()], [point], [[point + 1.0]], mode="on")
    if not tried.record["used"]:
        return Finding(
            name="compiler",
            status="failed",
            sentence=f"backend {how}: {tried.record['reason']}; set ZOO_BACKEND=aoti or eager",
        )
    return Finding(
        name="compiler",
        status="ok",
        sentence=(
            f"backend {how}, torch {torch.__version__}; a compiled function gives its numbers"
        ),
    )


def _folder() -> Finding:
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".zoo-doctor-"):
        free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(
        name="disk",
        status="ok" if free > 1 else "note",
        sentence=f"this folder can be written, {free:.0f} GiB free",
    )


def _entries() -> Finding:
    from zoo.registry import catalog

    infos = catalog()
    broken = [f"{i.name}: {i.error}" for i in infos if i.error is not None]
    if broken:
        return Finding(name="entries", status="failed", sentence="; ".join(broken))
    return Finding(name="entries", status="ok", sentence=f"{len(infos)} entries, none broken")


def _members(name: str, found: Iterable[Any], broken: Iterable[str]) -> Finding:
    """Return the members of one kind that can be used, or what is wrong with the others."""
    wrong = list(dict.fromkeys(broken))
    if wrong:
        return Finding(name=name, status="failed", sentence=" ".join(wrong))
    names = sorted(member.name for member in found)
    return Finding(
        name=name, status="ok", sentence=f"{len(names)} {name}, none broken: {', '.join(names)}"
    )


def _families() -> Finding:
    from guides.registry import FAMILIES

    found, broken = FAMILIES.usable()
    for family in found:
        unknown = [name for name in family.richer if name not in FAMILIES]
        if unknown:
            error = UnknownNameError(f"richer family of {family.name}", unknown[0], FAMILIES)
            broken.append(str(error))
    return _members("families", found, broken)


def _objectives() -> Finding:
    from guides.objectives.records import OBJECTIVES

    return _members("objectives", *OBJECTIVES.usable())


def _metrics() -> Finding:
    from benchmarks.metrics.metric import component_metrics, joint_distances_known

    marginal, joint = component_metrics(), joint_distances_known()
    return _members("metrics", [*marginal[0], *joint[0]], [*marginal[1], *joint[1]])


def _sections() -> Finding:
    from benchmarks.report.section import SECTIONS

    return _members("sections", *SECTIONS.usable())


def _studies() -> Finding:
    from benchmarks.studies.registry import STUDIES

    return _members("studies", *STUDIES.usable())


def _browser() -> Finding:
    names = ("chromium", "chromium-browser", "google-chrome")
    lookup: Callable[[str], str | None] = shutil.which
    found = next((n for n in names if lookup(n)), None)
    if found is None:
        return Finding(
            name="browser",
            status="note",
            sentence="no chromium; only the test that opens the report needs it",
        )
    return Finding(name="browser", status="ok", sentence=found)
