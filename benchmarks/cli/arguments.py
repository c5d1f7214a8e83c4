"""Arguments and options that several commands of `zoo` share, with their shell completion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.environment import HOME

__all__ = [
    "Compile",
    "DataSeed",
    "Device",
    "Jobs",
    "Json",
    "Model",
    "Models",
    "Quick",
    "Restarts",
    "Seed",
    "families",
]


def models(incomplete: str) -> list[str]:
    """Complete a model: entries, and model files of the folder; a shell adds other paths."""
    from zoo.registry import names

    files = sorted(str(path) for path in Path().glob("*.py"))
    return [name for name in (*names(), *files) if name.startswith(incomplete)]


def families(incomplete: str) -> list[str]:
    """Complete the last of the families, which are separated by commas, from their files."""
    before, comma, last = incomplete.rpartition(",")
    stems = sorted(p.stem for p in (HOME / "guides" / "families").glob("[a-z]*.py"))
    return [f"{before}{comma}{name}" for name in ("all", *stems) if name.startswith(last)]


def _known(given: str | list[str]) -> str | list[str]:
    """Reject an unknown entry at once: the imports of most commands take seconds."""
    from zoo.registry import require

    for request in [given] if isinstance(given, str) else given:
        require(request)
    return given


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|FILE.py",
        help="an entry, with options as in 'name[d=10,rho=0.95]', or a model file",
        autocompletion=models,
        callback=_known,
    ),
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL|FILE.py...",
        help="entries or model files",
        autocompletion=models,
        callback=_known,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", min=1, max=1024, help="processes at once; changes run times, not draws"
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="seed of the inference")]
DataSeed = Annotated[
    int,
    typer.Option(
        "--data-seed",
        min=0,
        max=2**63 - 1,
        help="seed of generated data; only 0 has stored references",
    ),
]
Restarts = Annotated[
    int,
    typer.Option(
        "--restarts", min=1, max=1000, help="independent starts per fit; the best is kept"
    ),
]
Compile = Annotated[
    str, typer.Option("--compile", metavar="auto|on|off", help="compile the hot functions")
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="cpu|cuda",
        help="where fits take their steps; chains stay on the processor",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="smaller budgets, the same gates")]
