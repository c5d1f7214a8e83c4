"""Requests that the built site would make to other servers: there must be none."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["requests"]

TAGS = "script|link|img|iframe|source|object|embed|video|audio"
FROM_A_PAGE = re.compile(
    rf"""<(?:{TAGS})\b[^>]*?\b(?:src|href|data)\s*=\s*["']?(?:https?:)?//[^"'\s>]+""",
    re.IGNORECASE,
)
FROM_A_SHEET = re.compile(
    r"""(?:@import\s+(?:url\()?|url\()\s*["']?(?:https?:)?//[^"')\s]+""", re.IGNORECASE
)


def requests(folder: Path) -> list[str]:
    """Return the requests in the pages and style sheets of a folder, each as `file: text`.

    Links to follow do not count.
    """
    found = []
    for pattern, globs in ((FROM_A_PAGE, ("*.html",)), (FROM_A_SHEET, ("*.html", "*.css"))):
        for path in sorted(p for glob in globs for p in folder.rglob(glob)):
            text = path.read_text(encoding="utf-8")
            found += [
                f"{path.relative_to(folder)}: {match[0][:120]}" for match in pattern.finditer(text)
            ]
    return found
