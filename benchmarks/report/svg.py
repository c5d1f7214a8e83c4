"""A matplotlib figure as compact inline SVG whose colors are CSS variables.

Inline SVG inherits the page's font and color scheme. The six decimals, ids, comments and metadata
of matplotlib are removed; remaining ids get a prefix, so that several figures can share one page.
"""

from __future__ import annotations

import io
import re
from typing import Any

from markupsafe import Markup, escape

from benchmarks.report.theme import ROLES

__all__ = ["inline_svg"]

_COLOR = {light: f"var(--c-{role})" for role, (light, _) in ROLES.items()}
_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")
_TAG = re.compile(r"<[^>]+>")


def inline_svg(figure: Any, prefix: str, alt: str) -> Markup:
    """Return the figure as one `<svg role="img">` element with `alt` as its accessible name.

    Args:
        figure: a matplotlib figure drawn inside `theme.style()`.
        prefix: unique on the page; ids of clip paths and markers start with it.
        alt: what the figure shows, as text.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"\s*font-family:[^;\"]*;?", "", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"#[0-9a-f]{6}", lambda m: _COLOR.get(m.group(), m.group()), text)
    text = re.sub(r'xlink:href="', 'href="', text)
    text = _ids(text, prefix)
    text = _TAG.sub(lambda m: _tag(m.group()), text)
    text = re.sub(r">\s+<", "><", text).strip()
    text = re.sub(r"<g([^>]*)>((?:<use [^>]*/>)+)</g>", _hoist, text)
    box = re.search(r'viewBox="([^"]+)"', text)
    size = box.group(1).split() if box else ["0", "0", "400", "300"]
    width = round(float(size[2]))
    head = (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="{" ".join(size)}"'
        f' style="max-width:{round(width * 1.35)}px">'
    )
    return Markup(head + text[text.index(">") + 1 :])


def _ids(text: str, prefix: str) -> str:
    """Keep only ids that are referenced, under short names that are unique on the page."""
    used = dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    names = {old: f"{prefix}-{i}" for i, old in enumerate(used)}
    text = re.sub(
        r' id="([^"]+)"',
        lambda m: f' id="{names[m.group(1)]}"' if m.group(1) in names else "",
        text,
    )
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda m: m.group(1) + names[m.group(2)], text)


def _hoist(match: re.Match[str]) -> str:
    """Write a style shared by all markers of a group once, on the group."""
    styles = set(re.findall(r' style="([^"]*)"', match.group(2)))
    if len(styles) != 1 or "style=" in match.group(1):
        return match.group()
    return (
        f'<g{match.group(1)} style="{styles.pop()}">'
        + re.sub(r' style="[^"]*"', "", match.group(2)).replace(" />", "/>")
        + "</g>"
    )


def _tag(tag: str) -> str:
    """Shorten a tag: tenths of a pixel in paths, hundredths elsewhere, minimal white space."""
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r' d="([^"]*)"', lambda m: f' d="{_path(m.group(1))}"', tag)
    tag = _NUMBER.sub(lambda m: f"{float(m.group()):.2f}".rstrip("0").rstrip("."), tag)
    return re.sub(r"\s+", " ", tag).replace(": ", ":").replace("; ", ";")


def _path(d: str) -> str:
    """Shorten path data."""
    d = _NUMBER.sub(lambda m: f"{float(m.group()):.1f}".removesuffix(".0"), d)
    return re.sub(r" ?([A-Za-z]) ?", r"\1", re.sub(r"\s+", " ", d)).strip()
