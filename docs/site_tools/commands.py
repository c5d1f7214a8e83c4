"""The page of the command line, from the typer app."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["markdown"]


def markdown() -> str:
    """Return a section per command: usage, purpose, arguments and options."""
    import typer

    from benchmarks.cli.commands import app

    group: Any = typer.main.get_command(app)
    parts = ["Options in front of the command:", "", _options(group, "zoo"), ""]
    for name, command in group.commands.items():
        usage = ["```console", f"$ {_usage(command, name)}", "```"]
        parts += [
            f"## zoo {name}",
            "",
            str(command.help),
            "",
            *usage,
            "",
            _options(command, name),
            "",
        ]
    return "\n".join(parts)


def _usage(command: Any, name: str) -> str:
    context = _context(command, name)
    kinds = [p.param_type_name for p in command.params]
    words = [
        _plain(p.get_help_record(context)[0])
        for p in command.params
        if p.param_type_name == "argument"
    ]
    return " ".join(["zoo", name, *words, *(["[OPTIONS]"] if "option" in kinds else [])])


def _plain(names: str) -> str:
    """Return names and value of a parameter without typer's type names."""
    for kind, word in (
        ("int range", "N"),
        ("integer", "N"),
        ("int", "N"),
        ("path", "PATH"),
        ("text", "TEXT"),
        ("str", "TEXT"),
    ):
        names = re.sub(rf"^(-.*)<{kind}>", rf"\1{word}", names)
    return re.sub(r" <.*>$", "", names)


def _options(command: Any, name: str) -> str:
    """Return the table of arguments and options, empty if a command has none."""
    context = _context(command, name)
    rows = []
    for parameter in command.params:
        names, about = parameter.get_help_record(context)
        names = _plain(names).replace("|", "\\|")
        about, _, extra = about.partition("  [")
        given = re.search(r"default: ([^;\]]+)", extra)
        default = "required" if "required" in extra else f"`{given[1]}`" if given else ""
        rows.append(f"| `{names}` | {about.replace('|', chr(92) + '|')} | {default} |")
    return "\n".join(["| option | meaning | default |", "|---|---|---|", *rows]) if rows else ""


def _context(command: Any, name: str) -> Any:
    return type(command).context_class(command, info_name=name)
