"""A figure written as inline SVG is still the whole figure: every marker, text, color and link."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.report.svg import inline_svg
from benchmarks.report.theme import ROLES, style

POINTS = [(0.1, 0.2), (0.3, 0.9), (0.7, 0.4)]


def drawn(prefix="p", colors=("#123456",) * 3, edge=None):
    with style():
        figure, axes = plt.subplots(figsize=(4, 3))
        axes.scatter(*np.array(POINTS).T, c=list(colors), s=30, edgecolors=edge)
        axes.plot([0.123456789, 0.987654321], [0, 1], color=next(iter(ROLES.values()))[0])
        axes.set_title("errors < 0.15 & more")
        text = str(inline_svg(figure, prefix, "three points & a line"))
        plt.close(figure)
    return text


def uses(text):
    """Places of all markers, and the style that each has, its own or of its group."""
    found = []
    for group in re.findall(r"<g[^>]*>(?:<use [^>]*/>)+</g>", text):
        of_group = re.search(r'<g[^>]*style="([^"]*)"', group)
        for marker in re.findall(r"<use [^>]*/>", group):
            own = re.search(r'style="([^"]*)"', marker)
            place = re.search(r'x="([^"]+)" y="([^"]+)"', marker)
            found.append((place.groups(), (own or of_group).group(1)))
    return found


def test_every_marker_is_there_with_its_style():
    one = [(place, look) for place, look in uses(drawn()) if "#123456" in look]
    assert len(one) == len(POINTS)
    assert len({place for place, _ in one}) == len(POINTS)
    x = sorted(float(place[0]) for place, _ in one)
    assert (x[1] - x[0]) / (x[2] - x[0]) - 1 / 3 < 0.01  # as their data lie
    several = drawn(colors=("#123456", "#654321", "#123456"))
    looks = [look for _, look in uses(several)]
    assert sum("#123456" in look for look in looks) == 2
    assert sum("#654321" in look for look in looks) == 1


def test_it_is_one_well_formed_element_with_its_name_and_size():
    text = drawn()
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "three points & a line"
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (left, top) == (0.0, 0.0)
    assert width / height - 4 / 3 < 0.05
    assert root.attrib["style"] == f"max-width:{round(round(width) * 1.35)}px"
    assert "".join(root.itertext()).strip().endswith("errors < 0.15 & more")
    assert "metadata" not in text
    assert "<!--" not in text
    assert "font-family" not in text
    numbers = re.findall(r"\d+\.\d+", text)
    assert max(len(n.partition(".")[2]) for n in numbers) <= 2


def test_colors_of_the_theme_are_variables_and_others_stay():
    text = drawn()
    role = next(iter(ROLES))
    assert f"var(--c-{role})" in text
    assert not any(light in text for light, _ in ROLES.values())
    assert "#123456" in text


def test_links_lead_to_what_they_name_and_differ_between_figures():
    first, second = drawn("a"), drawn("b")
    for text, prefix in ((first, "a"), (second, "b")):
        named = re.findall(r' id="([^"]+)"', text)
        linked = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
        assert linked
        assert linked == set(named)
        assert len(named) == len(set(named))
        assert all(n.startswith(f"{prefix}-") for n in named)
