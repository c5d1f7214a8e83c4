"""The Sphinx extension of the site: generated parts of pages, math and pictures.

Math is MathML, which browsers render natively, and pictures follow the colors of the page. A built
page makes no request to another server; the theme bundles its fonts and scripts. The build fails
otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

from site_tools.names import public
from site_tools.outside import requests
from site_tools.pages import DOCS, expand

__all__ = ["setup"]

ROOMS = ("zoo", "guides", "benchmarks")
DOCUMENTED = (*ROOMS, "zoo.errors")
_log = logging.getLogger(__name__)


def _generate(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace the marks of a page by their content."""
    source[0] = expand(source[0], DOCS / f"{name}.md")


def _mathml(self: Any, node: nodes.Element, *, block: bool) -> None:
    try:
        text = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except Exception as error:  # the translator raises many kinds of errors
        _log.warning(
            "math cannot be written as MathML: %s (%s)", node.astext(), error, location=node
        )
        text = f"<code>{self.encode(node.astext())}</code>"
    self.body.append(f'<div class="math-block">{text}</div>' if block else text)
    raise nodes.SkipNode


def _inline_math(self: Any, node: nodes.Element) -> None:
    _mathml(self, node, block=False)


def _block_math(self: Any, node: nodes.Element) -> None:
    _mathml(self, node, block=True)


def _inline_pictures(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Inline the pictures drawn by `site_tools.pictures`.

    They then follow the light and dark colors of the page.
    """
    if app.builder.format != "html":
        return
    for image in list(tree.findall(nodes.image)):
        path = DOCS / image["uri"]
        if path.suffix != ".svg" or path.parent.name != "images":
            continue
        svg = path.read_text(encoding="utf-8").partition("?>")[2].strip()
        label = nodes.unescape(image.get("alt", "")).replace('"', "&quot;")
        svg = svg.replace("<svg ", f'<svg aria-label="{label}" ', 1)
        image.replace_self(nodes.raw("", f'<div class="picture">{svg}</div>', format="html"))


def _public_name(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """Resolve `zoo.types.Data`, as in annotations, to its documented name `zoo.Data`."""
    target = node.get("reftarget", "")
    room, name = target.partition(".")[0], target.rpartition(".")[2]
    if node.get("refdomain") != "py":
        return None
    modules = (
        ("zoo.errors", *ROOMS)
        if "." not in target
        else (room, f"{room}.errors")
        if room in ROOMS
        else ()
    )
    for module in modules:
        if module in DOCUMENTED and name in public(module):
            return env.domains.python_domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", f"{module}.{name}", node, content
            )
    return None


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for request in requests(Path(app.outdir)):
            _log.warning("the site asks another server: %s", request)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("source-read", _generate)
    app.connect("doctree-resolved", _inline_pictures)
    app.connect("missing-reference", _public_name)
    app.connect("build-finished", _check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
