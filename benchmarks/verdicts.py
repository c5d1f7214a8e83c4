"""Verdicts: one frozen record each, from which words, colors, marks and docs are derived.

The word is what files and `--json` hold; `benchmarks.comparison.verdict` has the rule that chooses
one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from zoo.errors import UnknownNameError, UsageError
from zoo.fields import COUNT, FLAG, TEXT, Kind, checked, one_of

__all__ = ["VERDICTS", "Colors", "Verdict", "VerdictWord", "is_finding", "verdict_of"]

VerdictWord = Literal[
    "agrees",
    "shifted",
    "too_narrow",
    "too_wide",
    "wrong_shape",
    "inconclusive",
    "reference_unusable",
    "no_reference",
    "fit_failed",
]
VerdictKind = Literal["agreement", "finding", "unknown", "failure"]


class Colors(NamedTuple):
    """Colors of a cell in one scheme, `#rrggbb`: background, text, and the bar at its side."""

    tint: str
    text: str
    bar: str


_COLORS = Kind(accepted="Colors(tint, text, bar)", holds=lambda value: isinstance(value, Colors))
_COLOR = re.compile("#[0-9a-fA-F]{6}")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One verdict.

    Attributes:
        word: its code in files.
        shown: its display form.
        clause: the predicate of a sentence on a method, such as `is too narrow`.
        meaning: what it means, without a full stop.
        advice: what to do next.
        kind: an agreement, a finding, a failure (a gate failed), or unknown (nothing can be said).
        severity: its position in legends and counts, the least severe first; of findings with the
            same excess the most severe one names the row.
        light, dark: colors of its cell in either scheme.
        ink: the color of its word if the scheme is unknown, as in a notebook.
        style: its style in a terminal, in rich's syntax.
        mark: a colored sign for Markdown.
        blind: whether there is no usable truth, so that only trust checks can be shown.

    Raises:
        UnknownNameError: a word that files do not know.
        UsageError: a field of a wrong type, an unknown kind, an empty field, or a malformed color.
    """

    word: VerdictWord
    shown: str
    clause: str
    meaning: str
    advice: str
    kind: VerdictKind
    severity: int
    light: Colors
    dark: Colors
    ink: str
    style: str
    mark: str
    blind: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        checked(self, word=TEXT, shown=TEXT, clause=TEXT, meaning=TEXT, advice=TEXT)
        checked(
            self, kind=one_of(*get_args(VerdictKind)), severity=COUNT, light=_COLORS, dark=_COLORS
        )
        checked(self, ink=TEXT, style=TEXT, mark=TEXT, blind=FLAG)
        if self.word not in get_args(VerdictWord):
            raise UnknownNameError("verdict", self.word, get_args(VerdictWord))
        said = ("shown", "clause", "meaning", "advice", "style", "mark")
        empty = [name for name in said if not getattr(self, name).strip()]
        if empty:
            raise UsageError(
                f"The verdict {self.word} says nothing in {', '.join(empty)}; write a few words."
            )
        wrong = [
            c
            for c in (*self.light, *self.dark, self.ink)
            if not (isinstance(c, str) and _COLOR.fullmatch(c))
        ]
        if wrong:
            raise UsageError(
                f"The verdict {self.word} got the color {wrong[0]!r}; accepted: #rrggbb."
            )


GOOD, GRAY, RED = "#1b7f4b", "#6b6b6b", "#b3261e"
PALE = Colors("#f6f6f4", "#606874", "#c3c7ce"), Colors("#1f2328", "#a3abb7", "#4a515c")

_ALL = (
    Verdict(
        word="agrees",
        shown="agrees",
        clause="agrees",
        kind="agreement",
        severity=0,
        meaning="no material error, and enough draws to have seen one",
        advice="use it",
        light=Colors("#dcf0ee", "#0a544d", "#0f8b80"),
        dark=Colors("#12302e", "#9be0d7", "#2fb5a6"),
        ink=GOOD,
        style="green",
        mark="✅",
    ),
    Verdict(
        word="shifted",
        shown="shifted",
        clause="is shifted",
        kind="finding",
        severity=1,
        meaning="a mean is off by more than 0.15 reference sd",
        advice="a richer family, or NUTS",
        light=Colors("#fde2d8", "#7f2a0d", "#d1480f"),
        dark=Colors("#3d1e13", "#ffb599", "#e8683a"),
        ink=RED,
        style="bold red",
        mark="🟥",
    ),
    Verdict(
        word="too_narrow",
        shown="too narrow",
        clause="is too narrow",
        kind="finding",
        severity=2,
        meaning="an sd is too small by more than a factor 1.15: false confidence",
        advice="`full_rank` in place of `mean_field`; another form of the model",
        light=Colors("#fdecce", "#6d4300", "#d98200"),
        dark=Colors("#38290f", "#ffcf8a", "#e39a2b"),
        ink=RED,
        style="yellow",
        mark="🟧",
    ),
    Verdict(
        word="too_wide",
        shown="too wide",
        clause="is too wide",
        kind="finding",
        severity=3,
        meaning="an sd is too large by more than a factor 1.15",
        advice="let the fit converge; a richer family",
        light=Colors("#ebe4fa", "#4c2b86", "#7d54c7"),
        dark=Colors("#2a2240", "#cfbbff", "#9a78e0"),
        ink=RED,
        style="magenta",
        mark="🟪",
    ),
    Verdict(
        word="wrong_shape",
        shown="wrong shape",
        clause="has the wrong shape",
        kind="finding",
        severity=4,
        meaning=(
            "correlation, coverage or joint shape is off,"
            " or some sds are too small and others too large"
        ),
        advice="a richer family, or NUTS",
        light=Colors("#fbe1ed", "#7d1b4d", "#c23b7d"),
        dark=Colors("#391a2b", "#ffb2d5", "#d95a98"),
        ink=RED,
        style="bold magenta",
        mark="🟫",
    ),
    Verdict(
        word="inconclusive",
        shown="inconclusive",
        clause="is inconclusive",
        kind="unknown",
        severity=5,
        meaning="nothing material was seen, but the draws are too few to be sure",
        advice="take the number of draws it names",
        light=Colors("#eef0f3", "#454c57", "#9aa1ac"),
        dark=Colors("#262a31", "#c3c9d2", "#6d7582"),
        ink=GRAY,
        style="dim",
        mark="⬜",
    ),
    Verdict(
        word="no_reference",
        shown="no reference",
        clause="has no reference",
        kind="unknown",
        severity=6,
        blind=True,
        meaning="there is no truth to compare with, and none was estimated; only trust checks are"
        " shown",
        advice="run with NUTS, or without switching the assessment off (`--no-trust`,"
        " `trust=False`)",
        light=PALE[0],
        dark=PALE[1],
        ink=GRAY,
        style="dim",
        mark="◽",
    ),
    Verdict(
        word="reference_unusable",
        shown="reference unusable",
        clause="cannot be judged",
        kind="failure",
        severity=7,
        blind=True,
        meaning="the reference fails its own gates, so nothing can be judged",
        advice="repair the reference first",
        light=PALE[0],
        dark=PALE[1],
        ink=GRAY,
        style="dim",
        mark="◽",
    ),
    Verdict(
        word="fit_failed",
        shown="fit failed",
        clause="failed",
        kind="failure",
        severity=8,
        meaning="the method produced no usable approximation",
        advice="read the reason; more steps, another start",
        light=Colors("#dcdfe4", "#1f2329", "#3a3f47"),
        dark=Colors("#333942", "#f0f1f4", "#b9bfc9"),
        ink=RED,
        style="reverse",
        mark="⬛",
    ),
)

VERDICTS: Mapping[str, Verdict] = {v.word: v for v in sorted(_ALL, key=lambda v: v.severity)}


def verdict_of(word: str) -> Verdict:
    """Return the record of a word.

    Raises:
        UnknownNameError: no such verdict.
    """
    if word not in VERDICTS:
        raise UnknownNameError("verdict", word, VERDICTS)
    return VERDICTS[word]


def is_finding(word: str) -> bool:
    """Return whether a verdict, or the reason behind one, is a material finding."""
    return word in VERDICTS and VERDICTS[word].kind == "finding"
