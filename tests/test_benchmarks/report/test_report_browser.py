"""The report in a real browser: no console error, no horizontal scrolling, dark mode.

It is legible on a phone.
"""

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from support import report_factory

from benchmarks.report import render_html

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="chromium is not installed; `apt-get install chromium` enables this test",
)
FACTORY = vars(report_factory)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-extensions",
    "--disable-dev-shm-usage",
)
MEASURE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  const scale = t => Math.abs(t.getScreenCTM().a || t.getScreenCTM().b);
  const sizes = [...document.querySelectorAll("figure svg text")].map(
    t => [scale(t) * parseFloat(getComputedStyle(t).fontSize), t.textContent]);
  const outside = [...document.querySelectorAll("section h2, section p, figure, .scroll")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.tagName + ":" + e.textContent.slice(0, 40));
  const cut = [...document.querySelectorAll(".scroll")]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => [e.getAttribute("aria-label"), e.scrollWidth, e.clientWidth]);
  const body = getComputedStyle(document.body);
  parent.postMessage(JSON.stringify({
    scroll: root.scrollWidth, width: innerWidth, smallest: sizes.sort((a, b) => a[0] - b[0])[0],
    paper: body.backgroundColor, ink: body.color, outside, cut}), "*");
});</script>"""


@pytest.fixture(scope="module")
def page():
    return FACTORY["page"]()


def browse(profile, url, *flags):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def measure(folder, page, width, scheme):
    """Load the page in a frame of a width and return what a script inside it measured.

    The content security policy is lifted for that.
    """
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace(
        "</body>", MEASURE + "</body>"
    )
    (folder / "inner.html").write_text(open_page, encoding="utf-8")
    (folder / "outer.html").write_text(
        '<body><script>addEventListener("message", e => document.body.setAttribute("data-found",'
        ' encodeURIComponent(e.data)))</script><iframe src="inner.html"'
        f' style="border:0;width:{width}px;height:900px"></iframe>',
        encoding="utf-8",
    )
    flags = (
        "--dump-dom",
        "--virtual-time-budget=4000",
        "--window-size=1400,1000",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    text = browse(folder / "profile", (folder / "outer.html").as_uri(), *flags).stdout
    from urllib.parse import unquote

    found = re.search(r'data-found="([^"]+)"', text)
    assert found, text[:500]
    return json.loads(unquote(found.group(1)))


def console(folder, page):
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    done = browse(
        folder / "profile",
        path.as_uri(),
        "--enable-logging=stderr",
        "--dump-dom",
        "--virtual-time-budget=2000",
    )
    assert "</html>" in done.stdout
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_console_is_silent_and_would_not_be(page, tmp_path):
    assert console(tmp_path, page) == []
    # the policy refuses it with an error
    assert console(tmp_path, page.replace("</body>", "<script>1</script></body>"))


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_scrolls_sideways_and_figures_are_legible(page, tmp_path, width):
    found = measure(tmp_path, page, width, 1)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["outside"] == []
    assert found["smallest"][0] >= 8, found["smallest"]


def test_dark_mode_is_respected(page, tmp_path):
    light, dark = (measure(tmp_path, page, 1280, scheme) for scheme in (1, 0))
    brightness = lambda color: sum(map(int, re.findall(r"\d+", color)[:3])) / 3  # noqa: E731
    assert brightness(light["paper"]) > 230 > 80 > brightness(light["ink"])
    assert brightness(dark["paper"]) < 60 < 200 < brightness(dark["ink"])


FAMILIES = ("mean_field", "full_rank", "low_rank", "laplace", "amortized", "flow")
FAMILIES += ("block_full_rank", "amortized_full", "amortized_flow", "dirichlet", "own_1", "own_2")


@pytest.fixture(scope="module")
def wide():
    """Twelve families and NUTS on every entry."""
    run = FACTORY["make_run"]()
    entries = []
    for entry in run.entries:
        base = [c for c in entry.comparisons if c.method != "nuts"]
        made = [
            replace(c, posterior=replace(c.posterior, method=name))
            for c, name in zip(itertools.cycle(base), FAMILIES, strict=False)
        ]
        nuts = [c for c in entry.comparisons if c.method == "nuts"]
        entries.append(replace(entry, comparisons=[*made, *nuts], fits={}))
    return render_html(replace(run, entries=entries))


def overflowing(found):
    """Tables cut at the right edge, without the long one of all scores that is folded away."""
    return [row for row in found["cut"] if row[0] != "All scores"]


def test_twelve_families_fit_a_page_of_1280_pixels(wide, tmp_path):
    found = measure(tmp_path, wide, 1280, 1)
    assert overflowing(found) == []
    assert found["scroll"] <= 1280


@pytest.mark.parametrize("pixels", [718, 690], ids=["A4", "letter, wide margins"])
def test_printing_cuts_no_column(page, wide, tmp_path, pixels):
    """The rules for paper, applied to a window as wide as a printed page at 96 dpi."""
    assert "@media print" in page
    for text in (page, wide):
        printed = text.replace("@media print", "@media all")
        found = measure(tmp_path, printed, pixels, 1)
        assert found["scroll"] <= pixels
        assert overflowing(found) == []
