"""Write the file of a new model: one commented module that passes every check."""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path

from zoo.errors import InfrastructureError, UsageError, spelled
from zoo.storage import written

__all__ = ["new_model"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TEMPLATE = Path(__file__).with_name("template.jinja")


def new_model(name: str, directory: str | os.PathLike[str] = ".") -> Path:
    """Write `NAME.py` with a small working model and return its path.

    Args:
        name: name of the entry and stem of the file.
        directory: an existing folder to write to.

    Raises:
        UsageError: a name that is not accepted, a missing folder, or an existing file.
        InfrastructureError: the folder cannot be written to.
    """
    from jinja2 import Environment, StrictUndefined

    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        shown = repr(name)[:80]
        raise UsageError(
            f"Model name {shown} is not accepted: use [a-z][a-z0-9_]*, at most 64 characters, no"
            " word of Python."
        )
    folder = Path(directory)
    if not folder.is_dir():
        raise UsageError(
            f"Folder {str(folder)!r} does not exist; make it first, or choose another with"
            f" {spelled('directory=', '--dir')}."
        )
    path = folder / f"{name}.py"
    # No escaping: this is Python source, not HTML, and all inserted names are validated.
    template = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    ).from_string(_TEMPLATE.read_text("utf-8"))
    text = template.render(name=name, title=name.replace("_", " ").strip().capitalize())
    _write_new(path, text)
    return path


def _write_new(path: Path, text: str) -> None:
    """Write a new file atomically, never over an existing one."""
    try:
        with written(path, new=True) as place:
            place.write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(
            f"File {str(path)!r} exists already and is not changed; choose another name or folder."
        ) from error
    except OSError as error:
        raise InfrastructureError(
            f"Cannot write {str(path)!r} ({error.strerror}); choose a writable folder with"
            f" {spelled('directory=', '--dir')}."
        ) from error
