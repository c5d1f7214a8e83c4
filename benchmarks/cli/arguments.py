"""Arguments and options that several commands of `zoo` share, with their shell completion."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.environment import HOME

__all__ = [
    "Compile",
    "DataSeed",
    "Device",
    "Engine",
    "Jobs",
    "Json",
    "Model",
    "Models",
    "Quick",
    "Restarts",
    "Seed",
    "choices",
    "families",
    "seconds_of",
    "studies",
    "timed",
]

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


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
    from zoo.errors import UnknownNameError, UsageError
    from zoo.registry import require

    for request in [given] if isinstance(given, str) else given:
        try:
            require(request)
        except UnknownNameError:
            if request not in families(""):
                raise
            raise UsageError(
                f"{request!r} is a guide family, where an entry is expected; families are given"
                f" by --guides (zoo fit, zoo trust: --guide), separated by commas without blanks:"
                f" --guides mean_field,{request}."
            ) from None
    return given


def seconds_of(text: str | None, flag: str, least: float = 0.0) -> float | None:
    """Return the seconds of `60`, `60s`, `2m` or `1h`, None for None.

    Raises:
        UsageError: another text, no positive time, or one below the least.
    """
    from zoo.errors import UsageError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = 0.0 if found is None else float(found[1]) * UNITS[found[2]]
    if seconds <= 0 or seconds < least:
        more = f", at least {least:g}s" if least else ""
        raise UsageError(f"{flag} got {text!r}; accepted: a time such as 60, 60s, 2m or 1h{more}.")
    return seconds


def choices(*words: str) -> Callable[[str], list[str]]:
    """Return the completion of an option that takes one of some words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def studies(incomplete: str) -> list[str]:
    """Complete a study, from the folders of studies."""
    found = sorted(p.parent.name for p in (HOME / "benchmarks/studies").glob("[a-z]*/study.py"))
    return choices(*found)(incomplete)


def timed(incomplete: str) -> list[str]:
    """Complete the last of what `zoo bench --only` takes, from the source: importing is slow."""
    before, comma, last = incomplete.rpartition(",")
    text = (HOME / "benchmarks/speed/targets.py").read_text(encoding="utf-8")
    names = re.findall(r'Target\(\s*name="(\w+)"', text)
    return [f"{before}{comma}{name}" for name in choices(*names, "growth", "commands")(last)]


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
    str,
    typer.Option(
        "--compile",
        metavar="auto|on|off",
        help="compile the hot functions",
        autocompletion=choices("auto", "on", "off"),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="cpu|cuda",
        autocompletion=choices("cpu", "cuda"),
        help="where fits take their steps; chains stay on the processor",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="nutpie|pyro",
        help="implementation of NUTS",
        autocompletion=choices("nutpie", "pyro"),
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="smaller budgets, the same gates")]
