"""Find entries by name: built-in models, plug-ins and users' files.

Plug-ins use the entry-point group `posterior_zoo.models`. Listing reads source files with `ast`
and imports nothing; loading imports the one module that is requested.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UnknownNameError, UsageError, did_you_mean, spelled
from zoo.types import NAME

if TYPE_CHECKING:
    from zoo.types import ModelEntry

__all__ = ["GROUP", "EntryInfo", "catalog", "load", "names", "parse", "require"]

GROUP = "posterior_zoo.models"
MODELS = Path(__file__).parents[1] / "models"
_REQUEST = re.compile(r"(?P<base>[^\[\]]+)(?:\[(?P<options>[^\[\]]*)\])?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class EntryInfo:
    """What is known of an entry without importing it.

    Attributes:
        name, title, tags, reference: as in `ModelEntry`; empty if the source has no literal for
            them.
        source: `zoo` for built-in models, the name of the distribution for a plug-in.
        target: `module:attribute` to import.
        error: one sentence if the entry cannot be used, else None.
    """

    name: str
    title: str = ""
    tags: frozenset[str] = frozenset()
    reference: str = ""
    source: str = "zoo"
    target: str = ""
    error: str | None = None


# -- listing -----------------------------------------------------------------------------------


def catalog(*, deep: bool = False) -> list[EntryInfo]:
    """List every entry by name, usable or not, without importing any model.

    A plug-in that cannot be found, does not parse or shares its name with another source is listed
    with an error.

    Args:
        deep: also import each entry, so that a module that raises on import is listed with that
            error.
    """
    found = [*_own(), *sorted(_plugins(), key=lambda info: info.source)]
    sources: dict[str, list[str]] = {}
    for info in found:
        sources.setdefault(info.name, []).append(f"{info.source} ({info.target})")
    listed = []
    for info in sorted(found, key=lambda i: (i.name, i.source != "zoo", i.source)):
        if len(sources[info.name]) > 1:
            info = replace(info, error=_duplicate(info.name, sources[info.name]))
        elif deep and info.error is None:
            info = _imported(info)
        listed.append(info)
    return listed


def names() -> list[str]:
    """Return the sorted names that `load` accepts, without entries known to be broken."""
    return [info.name for info in catalog() if info.error is None]


def _duplicate(name: str, sources: list[str]) -> str:
    return f"Entry name {name!r} is claimed by {' and '.join(sources)}; rename or remove one."


def _imported(info: EntryInfo) -> EntryInfo:
    try:
        entry = _entry(info)
    except UsageError as error:
        return replace(info, error=str(error))
    return replace(info, title=entry.title, tags=entry.tags, reference=entry.reference)


def _own() -> Iterator[EntryInfo]:
    for path in sorted(MODELS.rglob("*.py")):
        if not path.stem.startswith("_"):
            yield from _scan(
                path,
                ".".join(("zoo", "models", *path.relative_to(MODELS).with_suffix("").parts)),
                "zoo",
            )


def _scan(path: Path, module: str, source: str) -> tuple[EntryInfo, ...]:
    """Read the literal parts of the cards in a source file."""
    try:
        return _cards(path.read_text(encoding="utf-8"), path, module, source)
    except (SyntaxError, ValueError, OSError) as error:
        line = getattr(error, "lineno", None)
        where = f" at line {line}" if line else ""
        return (
            EntryInfo(
                name=path.stem,
                source=source,
                target=module,
                error=f"{path.name} cannot be read{where}: {_first_line(error)}",
            ),
        )


@functools.lru_cache(maxsize=512)
def _cards(text: str, path: Path, module: str, source: str) -> tuple[EntryInfo, ...]:
    """Parse a text once: every lookup reads all files, and parsing them takes 0.1 s."""
    return tuple(_parsed(ast.parse(text), path, module, source))


def _parsed(tree: ast.Module, path: Path, module: str, source: str) -> Iterator[EntryInfo]:
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    if "NAMES" in assigned:
        # a module with many entries has a literal name -> title, and literals for what they share
        title = (ast.get_docstring(tree) or "").partition("\n")[0]
        listed = _literal(assigned["NAMES"]) or ()
        named = (
            {str(k): str(v) for k, v in listed.items()}
            if isinstance(listed, dict)
            else {str(name): title for name in listed}
        )
        tags = (
            frozenset(str(t) for t in _literal(assigned["TAGS"]) or ())
            if "TAGS" in assigned
            else frozenset()
        )
        reference = str(_literal(assigned["REFERENCE"]) or "") if "REFERENCE" in assigned else ""
        for name, text in named.items():
            yield EntryInfo(
                name=name,
                title=text,
                tags=tags,
                reference=reference,
                source=source,
                target=f"{module}:{name}",
            )
        return
    calls = [assigned[k] for k in ("ENTRY",) if k in assigned]
    group = assigned.get("ENTRIES")
    calls += group.elts if isinstance(group, ast.Tuple | ast.List) else []
    for call in calls:
        card = (
            {k.arg: _literal(k.value) for k in call.keywords if k.arg}
            if isinstance(call, ast.Call)
            else {}
        )
        name = str(card.get("name") or path.stem)
        tags = frozenset(str(t) for t in card.get("tags") or ())
        title, reference = str(card.get("title") or ""), str(card.get("reference") or "")
        yield EntryInfo(
            name=name,
            title=title,
            tags=tags,
            reference=reference,
            source=source,
            target=f"{module}:{name}",
        )
    if not calls:
        text = f"{path.name} has no ENTRY; end the file with ENTRY = zoo.from_program(...)."
        yield EntryInfo(name=path.stem, source=source, target=module, error=text)


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, also inside `frozenset({...})`; None for computed values."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("frozenset", "tuple", "set")
        and node.args
    ):
        node = node.args[0]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _plugins() -> Iterator[EntryInfo]:
    for point in metadata.entry_points(group=GROUP):
        source = point.dist.name if point.dist is not None else "unknown distribution"
        info = EntryInfo(name=point.name, source=source, target=point.value)
        if not NAME.fullmatch(point.name):
            yield replace(
                info,
                error=(
                    f"Plug-in name {point.name!r} of {source} is not accepted: use"
                    " [a-z][a-z0-9_]*, at most 64 characters."
                ),
            )
            continue
        module = point.value.partition(":")[0].strip()
        if not all(part.isidentifier() for part in module.split(".")):
            text = (
                f"Plug-in {point.name!r} of {source} has the target {point.value!r}; accepted:"
                " my_package.my_module:ENTRY."
            )
            yield replace(info, error=text)
            continue
        path = _find(module)
        if path is None:
            yield replace(
                info,
                error=(
                    f"Plug-in {point.name!r} of {source} points to module {module!r}, which is not"
                    " installed."
                ),
            )
            continue
        cards = _scan(path, module, source)
        card = next(
            (c for c in cards if c.name == point.name), cards[0] if len(cards) == 1 else None
        )
        known = (
            card
            if card is not None and (card.error is None or "cannot be read" in card.error)
            else info
        )
        yield replace(known, name=point.name, source=source, target=point.value)


def _find(module: str) -> Path | None:
    """Return the source file of a module without importing it or its parents."""
    search: list[str] | None = None
    origin: str | None = None
    full = ""
    for part in module.split("."):
        full = f"{full}.{part}" if full else part
        spec = PathFinder.find_spec(full, search)
        if spec is None:
            return None
        origin = spec.origin
        search = (
            list(spec.submodule_search_locations)
            if spec.submodule_search_locations is not None
            else []
        )
    return Path(origin) if origin and origin.endswith(".py") else None


# -- loading -----------------------------------------------------------------------------------


def parse(request: str) -> tuple[str, dict[str, str]]:
    """Split `name[d=10,rho=0.95]` into the name (or path) and its options as text.

    Raises:
        UsageError: malformed brackets or options.
    """
    match = _REQUEST.fullmatch(request) if isinstance(request, str) else None
    if match is None:
        raise UsageError(
            f"Cannot read {_short(request)}; accepted: NAME, NAME[option=value,...], FILE.py or"
            " FILE.py:NAME."
        )
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in (match["options"] or "").split(","))):
        key, sign, value = (p.strip() for p in part.partition("="))
        if not sign or not key.isidentifier() or not value:
            raise UsageError(
                f"Cannot read option {_short(part)} of {_short(match['base'])}; write it as"
                " option=value."
            )
        if key in options:
            raise UsageError(
                f"Option {key!r} of {_short(match['base'])} is given twice; keep one."
            )
        options[key] = value
    return match["base"].strip(), options


def load(name: str, **options: Any) -> ModelEntry:
    """Return an entry by name, or from a file `x.py` or `x.py:name`.

    Options are given in brackets, `correlated_gaussian[d=10,rho=0.95]`, or as keyword arguments.

    Raises:
        UsageError: an invalid name, a file without a model, or a broken plug-in.
        UnknownNameError: an unknown entry or option, with the nearest guess.
    """
    base, given = parse(name)
    twice = sorted(set(given) & set(options))
    if twice:
        raise UsageError(f"Option {twice[0]!r} is given in brackets and as an argument; keep one.")
    chosen = {**given, **options}
    if _is_file(base):
        from zoo.user_models.model_file import load_file

        entry = load_file(base)
    else:
        entry = _by_name(base)
    return entry.with_options(**chosen) if chosen else entry


def require(request: str) -> None:
    """Reject the name of an entry that does not exist or is broken, without importing any model.

    Files, and names that `load` does not accept, are left to `load`.

    Raises:
        UsageError: a broken entry.
        UnknownNameError: an unknown entry, with the nearest guess.
    """
    match = _REQUEST.fullmatch(request)
    base = match["base"].strip() if match else ""
    if NAME.fullmatch(base) and not _is_file(base):
        _info(base)


def _is_file(base: str) -> bool:
    """Whether a request names a model file, or an object in one."""
    return base.endswith(".py") or ".py:" in base


def _by_name(name: str) -> ModelEntry:
    if not NAME.fullmatch(name):
        text = (
            f"Entry name {_short(name)} is not accepted{_guess(name)}: use [a-z][a-z0-9_]*, at"
            " most 64 characters, or the path of a .py file."
        )
        raise UsageError(f"{text}{_several(name)}{_file_here(name)}")
    return _entry(_info(name))


def _info(name: str) -> EntryInfo:
    """Return what the catalog knows of a usable entry."""
    infos = catalog()
    found = [info for info in infos if info.name == name]
    if not found:
        raise UnknownNameError(
            "entry",
            name,
            [i.name for i in infos if i.error is None],
            hint=_file_here(name).strip() or "Run `zoo list` to see all.",
        )
    if found[0].error is not None:
        raise UsageError(found[0].error)
    return found[0]


def _guess(name: str) -> str:
    """Return the entry that a name with other characters may mean, for a sentence."""
    return (
        "" if re.search(r"[\s,;]", name.strip()) else did_you_mean(name.strip().lower(), names())
    )


def _several(name: str) -> str:
    """Return a sentence on how to name several entries, if a name is a list of them."""
    known = names()
    parts = [part for part in re.split(r"[\s,;]+", name) if part]
    if len(parts) > 1 and any(part in known for part in parts):
        cure = "Load them one by one: zoo.load({0!r})", "Separate entries by blanks: {1}"
        return f" {spelled(*cure).format(parts[0], ' '.join(parts))}."
    return ""


def _file_here(name: str) -> str:
    """Return a sentence that offers the model file of this name, or of one near it."""
    file = f"{name}.py"
    if len(file) >= 256 or "\0" in file:
        return ""
    if not Path(file).is_file():
        files = [path.name for path in Path().glob("*.py")]
        near = difflib.get_close_matches(file, files, n=1, cutoff=0.75)
        if not near:
            return ""
        file = near[0]
    return f" There is a model file {_short(file)}: to use it, write its name with .py."


def _entry(info: EntryInfo) -> ModelEntry:
    """Import the module of a listed entry and return the entry."""
    from zoo.user_models.model_file import entries_of, pick

    module_name, _, attribute = info.target.partition(":")
    try:
        module = importlib.import_module(module_name)
        named = getattr(module, attribute, None) if info.source != "zoo" and attribute else None
    except Exception as error:
        owner = "Model" if info.source == "zoo" else f"Plug-in of {info.source}:"
        raise UsageError(
            f"{owner} {info.name!r} fails on import: {type(error).__name__}: {_first_line(error)}"
        ) from error
    if named is not None and not isinstance(named, list | tuple | dict):
        return pick([named], info.name, module_name, only_one=True)
    return pick(entries_of(module, module_name), info.name, module_name)


def _first_line(error: BaseException) -> str:
    return (str(getattr(error, "msg", "") or error).splitlines() or [type(error).__name__])[0]


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "...'"
