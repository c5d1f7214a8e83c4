"""Imports are followed through sources, wherever they stand, and none of them is run."""

from benchmarks.run.imports import followed

SOURCES = {
    "top": """
        from __future__ import annotations
        import typing
        from typing import TYPE_CHECKING
        from . import beside
        from .package.deep import value as other
        if TYPE_CHECKING:
            import for_types
        elif True:
            import at_run_time
        if typing.TYPE_CHECKING:
            from for_types import x
        else:
            import at_run_time_too
        if not TYPE_CHECKING:
            import no_type
        try:
            import tried
        except ImportError:
            import instead
        def function():
            with open("x"):
                import inside
        match 1:
            case 1:
                import matched
        raise SystemExit("nothing here is run")
    """,
    "package/__init__": "import of_a_package",
    "package/deep": "from ..beside import far; text = 'import in_a_string'",
    "broken": "import (",
}
NAMES = ("beside", "at_run_time", "at_run_time_too", "no_type", "tried", "instead", "inside")
NAMES = (*NAMES, "matched", "of_a_package", "for_types", "in_a_string", "further")


def written(folder):
    (folder / "package").mkdir()
    for name, text in {**SOURCES, **dict.fromkeys(NAMES, "")}.items():
        lines = text.strip("\n").splitlines()
        indent = min((len(s) - len(s.lstrip()) for s in lines if s.strip()), default=0)
        (folder / f"{name}.py").write_text("\n".join(s[indent:] for s in lines) + "\n")


def finder(folder):
    def find(name):
        place = folder.joinpath(*name.removeprefix("root.").split("."))
        files = (place.with_suffix(".py"), place / "__init__.py")
        return next((f for f in files if f.is_file()), None)

    return find


def test_every_import_that_may_run_is_followed_once(tmp_path):
    written(tmp_path)
    found = followed(["root.top"], finder(tmp_path))
    files = {path.relative_to(tmp_path).as_posix() for path in found.values()}
    left_out = {"for_types.py", "in_a_string.py", "further.py", "broken.py"}
    assert files == {f"{name}.py" for name in (*SOURCES, *NAMES)} - left_out


def test_a_file_may_need_further_modules_and_one_that_does_not_parse_has_none(tmp_path):
    written(tmp_path)
    found = followed(["broken"], finder(tmp_path), lambda path: ["further"])
    assert set(found) == {"broken", "further"}
