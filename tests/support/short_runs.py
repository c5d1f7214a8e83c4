"""Runs of seconds, for tests of what a run keeps, writes and says."""

from markupsafe import Markup, escape

from benchmarks.trust.estimate import estimate


def short_fits(patch, steps=60, patience=20):
    """Give quick runs fits of few steps and classifiers of few trees, in forked workers too.

    The settings of fits are in the keys of the cells, as those of every run are.
    """
    few_trees(patch)
    patch.setattr("benchmarks.run.prepare.QUICK_FIT", {"steps": steps, "patience": patience})


def short_chains(patch):
    """Give quick runs chains of 150 draws, however few are effective."""
    patch.setattr(
        "benchmarks.run.prepare.QUICK_CHAINS", {"draws": 150, "tune": 150, "min_ess": 0.0}
    )


def small_islands(patch, particles=256):
    """Give SMC a quarter of the points per island, where no particles are asked for."""
    patch.setitem(estimate.__kwdefaults__, "particles", particles)


def few_trees(patch, trees=5):
    """Give the classifier of each comparison few trees: it takes most of the time of one."""
    patch.setattr("benchmarks.metrics.joint.c2st.TREES", trees)


def leave_undrawn(patch):
    """Leave the figures of a page empty: matplotlib makes them and draws none.

    Texts, tables, captions and the names of the figures are those of every page.
    """

    def empty(figure, prefix, alt):
        head = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 400 300">'
        return Markup(f"{head}</svg>")

    patch.setattr("benchmarks.report.blocks.inline_svg", empty)
