"""Pictures of an autoencoder read back as arrays, for a decoder of two codes and four pixels."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.report.panels import vae
from benchmarks.report.panels.vae import mosaic
from benchmarks.report.theme import light
from zoo.seeds import seeded
from zoo.truth.grid import BernoulliLikelihood, GaussianLikelihood, LatentGrid, standard_normal

WEIGHT = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 1.0, -2.0]], dtype=torch.float64)
NAMES = tuple(f"image {i}" for i in range(7))


class Program:
    """Logits that are linear in the code."""

    context, pixels, latent = None, 4, 2
    log_prior = staticmethod(standard_normal)

    def __init__(self, **changes):
        self.__dict__.update(changes)
        self.likelihood = BernoulliLikelihood(self.decoder)

    @staticmethod
    def decoder(z):
        return z @ WEIGHT

    @staticmethod
    def prior():
        return torch.distributions.Normal(torch.zeros(2), torch.ones(2)).expand([2])


class Guide:
    """Independent normals of every unit, in coordinates moved by `center` and `spread`."""

    def __init__(self, loc, scale=1.0, center=(0.0, 0.0), spread=(1.0, 1.0)):
        self.loc = torch.as_tensor(loc, dtype=torch.float64)
        self.size, self.scale = len(self.loc), scale
        self.center = torch.tensor(center, dtype=torch.float64)
        self.spread = torch.tensor(spread, dtype=torch.float64)
        self.head = self

    def numbers(self, units):
        assert units is None
        return self.loc

    def log_prob(self, out, w):
        return torch.distributions.Normal(out, self.scale).log_prob(w).sum(-1)

    def encode(self, features):
        return features[:, :2] * 2, None


def fit_of(guide, program=None, steps=(1, 10, 250)):
    number = len(steps)
    return SimpleNamespace(
        guide=guide,
        program=program or Program(),
        history={
            "step": np.array(steps),
            "reconstruction_nats": np.linspace(8.0, 5.0, number),
            "kl_nats": np.linspace(0.5, 2.0, number),
        },
    )


def report_of(fits=(), x=None, reference=None, **train):
    x = torch.zeros(7, 4, dtype=torch.float64) if x is None else x
    comparisons = [
        SimpleNamespace(
            posterior=SimpleNamespace(method=name, draws={}, sample_dims=("sample",)), fit=fit
        )
        for name, fit in fits
    ]
    data = SimpleNamespace(train={"x": x, **train}, coords={"image": NAMES})
    entry = SimpleNamespace(load_data=lambda: data, amortize=None, panel=None)
    return SimpleNamespace(
        comparisons=comparisons,
        data=data,
        entry=entry,
        reference=SimpleNamespace(posterior=reference),
    )


@pytest.fixture
def known(monkeypatch):
    """Let the stand-ins pass for a program, an amortized and a local guide."""
    monkeypatch.setattr(vae, "Vae", Program)
    monkeypatch.setattr(vae, "AmortizedGuide", Guide)
    monkeypatch.setattr(vae, "LocalGuide", Guide)
    monkeypatch.setattr(vae, "features_of", lambda entry, tensors: tensors["x"])


def sheet_of(axis):
    return np.asarray(axis.images[0].get_array())


# --- which figures


def test_figures_need_a_trained_autoencoder(known):
    assert vae.figures(report_of()) == []
    other = SimpleNamespace(program="other")
    assert vae.figures(report_of([("nuts", None), ("amortized", other)])) == []


def test_an_autoencoder_of_two_codes_has_all_figures_in_order(known):
    label = torch.tensor([0, 0, 1, 1, 2, 2, -1])
    fit = fit_of(Guide(torch.zeros(7, 2)))
    draws = SimpleNamespace(
        method="exact", sample_dims=("sample",), draws={"z": torch.zeros(3, 7, 2)}
    )
    report = report_of([("nuts", None), ("amortized", fit)], reference=draws, label=label)
    said = [words for _, words in vae.figures(report)]
    assert [words.split(",")[0].split(":")[0] for words in said] == [
        "The images that are compared",
        "Codes drawn from the prior",
        "What codes write",
        "Where the encoder puts 7 training images (the class",
        "Exact posteriors of the codes (gray",
        "The tug-of-war",
    ]


def test_more_codes_or_an_unrecorded_fit_have_fewer_figures(known):
    program = Program(latent=3)
    program.prior = lambda: torch.distributions.Normal(torch.zeros(2), 1.0)
    fit = fit_of(Guide(torch.zeros(7, 2)), program, steps=())
    (only,) = vae.figures(report_of([("amortized", fit)]))
    assert only[1].startswith("Codes drawn from the prior")
    fit.history = {}
    assert len(vae.figures(report_of([("amortized", fit)]))) == 1


# --- sheets of images


def test_a_mosaic_keeps_every_pixel_and_a_line_between_images():
    sheet = mosaic(torch.arange(12.0).reshape(3, 4), 2)
    assert sheet.tolist() == [
        [0, 1, 0.15, 4, 5],
        [2, 3, 0.15, 6, 7],
        [0.15] * 5,
        [8, 9, 0.15, 0.15, 0.15],
        [10, 11, 0.15, 0.15, 0.15],
    ]
    assert mosaic(torch.zeros(2, 9), 2).shape == (3, 7)


def test_only_square_images_without_context_are_shown():
    assert vae._square(Program())
    assert not vae._square(Program(pixels=8))
    assert not vae._square(Program(context="own pixels"))
    for hidden in (Program(pixels=8), Program(context="own pixels")):
        assert vae._samples(hidden) is None
        assert vae._traversal(hidden) is None
        assert vae._reconstructions(report_of([("a", None)]), hidden) is None


def test_expected_pixels_stand_below_each_image_in_two_halves():
    """Pixels are averaged over draws, not the codes: sigmoid(2) and sigmoid(-2) give a half."""
    x = torch.arange(20, dtype=torch.float64).reshape(5, 4) / 20
    z = torch.zeros(2, 5, 2)
    z[0, 0, 0], z[1, 0, 0] = 1.0, 1.0
    z[0, 4, 0], z[1, 4, 0] = 3.0, -1.0
    posterior = SimpleNamespace(method="nuts", sample_dims=("chain", "draw"), draws={"z": z[None]})
    figure, words = vae._reconstructions(report_of(x=x, reference=posterior), Program())
    assert words == (
        "The images that are compared, each above the ink the decoder expects under nuts."
    )
    top, bottom = figure.axes
    assert top.get_title() == "image 0 ... image 2"
    assert bottom.get_title() == "image 3 ... image 6"
    first = torch.sigmoid(WEIGHT[0])
    assert sheet_of(top)[:2, :2].ravel() == pytest.approx(x[0].numpy())
    assert sheet_of(top)[3:, :2].ravel() == pytest.approx(first.numpy())
    last = (torch.sigmoid(3 * WEIGHT[0]) + torch.sigmoid(-WEIGHT[0])) / 2
    assert sheet_of(bottom)[3:, 3:].ravel() == pytest.approx(last.numpy())
    assert sheet_of(top).shape == (5, 8)
    assert sheet_of(bottom).shape == (5, 5)
    image = top.images[0]
    assert (image.get_clim(), image.get_cmap().name) == ((0, 1), "gray_r")
    assert not top.axison


@pytest.mark.parametrize("method", ["exact", "analytic"])
def test_two_methods_are_the_exact_posterior(method):
    posterior = SimpleNamespace(
        method=method, sample_dims=("sample",), draws={"z": torch.zeros(1, 7, 2)}
    )
    _, words = vae._reconstructions(report_of(reference=posterior), Program())
    assert words.endswith("the decoder expects under the exact posterior.")
    assert vae._reconstructions(report_of([("a", None)]), Program()) is None


def test_of_many_draws_about_two_hundred_are_decoded():
    """Of 800 draws every fourth: those are at code 1, the others far away."""
    z = torch.full((800, 7, 2), 50.0)
    z[::4] = torch.tensor([1.0, 0.0])
    posterior = SimpleNamespace(method="nuts", sample_dims=("sample",), draws={"z": z})
    figure, _ = vae._reconstructions(report_of(reference=posterior), Program())
    assert sheet_of(figure.axes[0])[3:, :2].ravel() == pytest.approx(
        torch.sigmoid(WEIGHT[0]).numpy()
    )


def test_samples_alternate_ink_and_binary_images_of_the_same_codes():
    figure, words = vae._samples(Program())
    sheet = sheet_of(figure.axes[0])
    assert sheet.shape == (4 * 3 - 1, 12 * 3 - 1)
    with seeded(0):
        z = Program.prior().sample((24,)).double()
        x = torch.bernoulli((z @ WEIGHT).sigmoid())
    ink = (z @ WEIGHT).sigmoid()
    assert sheet[:2, :2].ravel() == pytest.approx(ink[0].numpy())
    assert sheet[:2, -2:].ravel() == pytest.approx(ink[11].numpy())
    assert sheet[6:8, :2].ravel() == pytest.approx(ink[12].numpy())
    for row, begin in ((3, 0), (9, 12)):
        for k in (0, 5, 11):
            pixels = sheet[row : row + 2, 3 * k : 3 * k + 2].ravel()
            assert pixels.tolist() == x[begin + k].tolist()
    assert words.startswith("Codes drawn from the prior: the ink they write (first and third row)")


def test_a_traversal_goes_right_in_the_first_code_and_up_in_the_second():
    """The corners are quantiles 0.02 and 0.98 of the prior, plus or minus 2.0537."""
    figure, _ = vae._traversal(Program(), number=3)
    sheet, edge = sheet_of(figure.axes[0]), 2.053748910631823
    assert sheet.shape == (8, 8)
    for row, column, code in (
        (0, 0, (-edge, edge)),
        (0, 6, (edge, edge)),
        (6, 0, (-edge, -edge)),
        (3, 3, (0.0, 0.0)),
        (3, 6, (edge, 0.0)),
    ):
        ink = (torch.tensor(code, dtype=torch.float64) @ WEIGHT).sigmoid()
        assert sheet[row : row + 2, column : column + 2].ravel() == pytest.approx(ink.numpy())
    assert sheet_of(vae._traversal(Program())[0].axes[0]).shape == (44, 44)


# --- the encoder


def test_training_images_lie_where_the_encoder_puts_them_in_the_color_of_their_class(known):
    x = torch.tensor([[1.0, 2], [3, 4], [5, 9], [7, 7], [0, 0]], dtype=torch.float64)
    label = torch.tensor([0, 0, 0, 11, -1])
    figure, words = vae._space(report_of(x=x, label=label), fit_of(Guide(torch.zeros(5, 2))))
    (axis,) = figure.axes
    unlabeled, zero, eleven = axis.collections
    assert unlabeled.get_offsets().tolist() == [[0, 0]]
    assert zero.get_offsets().tolist() == [[2, 4], [6, 8], [10, 18]]
    assert eleven.get_offsets().tolist() == [[14, 14]]
    colors = [vae.CLASSES[0], vae.CLASSES[1], light("muted")]
    for points, color in zip((zero, eleven, unlabeled), colors, strict=True):
        rgb = tuple(int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
        assert tuple(points.get_facecolor()[0][:3]) == pytest.approx(rgb)
    # the class stands at the median of its images
    assert [(t.get_text(), t.get_position()) for t in axis.texts] == [
        ("0", (6.0, 8.0)),
        ("11", (14.0, 14.0)),
    ]
    assert "puts 5 training images" in words
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("z1", "z2")


def test_at_most_seven_hundred_images_are_shown_evenly_spaced(known):
    x = torch.arange(1400, dtype=torch.float64)[:, None].expand(1400, 2)
    report = report_of(x=x, label=torch.zeros(1400, dtype=torch.long))
    figure, words = vae._space(report, fit_of(Guide(torch.zeros(1, 2))))
    shown = figure.axes[0].collections[0].get_offsets()[:, 0] / 2
    assert len(shown) == 700
    assert (shown[0], shown[-1]) == (0, 1399)
    assert set(np.diff(shown).tolist()) <= {1.0, 2.0, 3.0}
    assert "puts 700 training images" in words


# --- exact posteriors


def test_log_q_of_a_unit_has_the_jacobian_of_its_scaling():
    """z = center + spread w with w ~ Normal(loc, 0.5): a normal of scale 0.5 spread."""
    guide = Guide([[9.0, 9.0], [1.0, -1.0]], scale=0.5, center=(1.0, 2.0), spread=(2.0, 4.0))
    points = torch.tensor([[3.0, -2.0], [0.0, 0.5]], dtype=torch.float64)
    loc, scale = torch.tensor([3.0, -2.0]).double(), torch.tensor([1.0, 2.0]).double()
    expected = torch.distributions.Normal(loc, scale).log_prob(points).sum(-1)
    found = vae._unit_log_q(SimpleNamespace(guide=guide), points, 1)
    assert found.tolist() == pytest.approx(expected.tolist())


def test_kl_of_normals_is_the_closed_form():
    """The posterior of z in x = z + e, both of scale 1, is Normal(x / 2, 1/2).

    KL(Normal(m, s^2), Normal(x / 2, 1/2)) = log(sqrt(1/2) / s) + s^2 + (m - x / 2)^2 - 1/2
    for each of the two codes.
    """
    x = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    loc = torch.tensor([[0.5, -0.5], [0.6, 0.2]], dtype=torch.float64)
    grid = LatentGrid(GaussianLikelihood(lambda z: z, 1.0), 2, points=181)
    found = vae._kl(grid, fit_of(Guide(loc, scale=0.6)), x)
    part = math.log(math.sqrt(0.5) / 0.6) + 0.36 - 0.5
    expected = [2 * part, 2 * part + 0.6**2 + 0.8**2]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_levels_hold_ninety_and_fifty_percent_of_the_mass():
    """Masses 0.4, 0.3, 0.15, 0.1, 0.05: two cells pass 0.5, four reach 0.9."""
    mass = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15], dtype=torch.float64)
    outer, inner = vae._levels(mass.log() + 7.0)
    assert math.exp(outer - 7) == pytest.approx(0.1)
    assert math.exp(inner - 7) == pytest.approx(0.3)
    one = torch.tensor([0.0, -800.0], dtype=torch.float64)
    assert vae._levels(one) == [0.0, 0.0]


def test_a_normal_has_the_levels_of_its_quantiles():
    """A region of radius r holds 1 - exp(-r^2 / 2): log densities fall by log 10 and log 2."""
    axis = torch.linspace(-6, 6, 201, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    values = standard_normal(points)
    outer, inner = vae._levels(values)
    top = float(values.max())
    assert top - outer == pytest.approx(math.log(10), abs=0.02)
    assert top - inner == pytest.approx(math.log(2), abs=0.02)


def test_the_six_images_that_q_misses_most_come_first(known):
    """All images are alike; the guides' means move away from the posterior's, 3 most."""
    x = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64).expand(7, 4)
    grid = LatentGrid(Program().likelihood, 2, points=181)
    _, mean, covariance = grid.moments(x)
    shift = torch.tensor([0.1, 0.5, 0.2, 1.5, 0.0, 0.9, 0.3], dtype=torch.float64)
    scale = float(covariance[0].diagonal().mean().sqrt())
    first = fit_of(Guide(mean + shift[:, None], scale=scale / 2))
    second = fit_of(Guide(mean, scale=scale))
    fits = {"amortized": first, "laplace": second, "flat": SimpleNamespace(guide="flat")}
    report = report_of(list(fits.items()), x=x)
    figure, words = vae._contours(report, Program(), fits)
    titles = [axis.get_title() for axis in figure.axes]
    order = [3, 5, 1, 6, 2, 0]
    assert [t.split("\n")[0] for t in titles] == [f"image {i}" for i in order]
    kl = vae._kl(grid, first, x)
    assert [t.split("\n")[1] for t in titles] == [f"{float(kl[i]):.2f} nats" for i in order]
    assert " of the six images that amortized misses most, with KL" in words
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["amortized", "laplace"]
    assert not legend.get_frame_on()
    # two filled regions and their outline, and one line for each guide
    assert len(figure.axes[0].collections) == 4
    fill = figure.axes[0].collections[0]
    assert len(fill.get_facecolor()) == 2
    own = figure.axes[0].collections[2].get_paths()[0].vertices
    middle = (own.min(0) + own.max(0)) / 2
    assert middle == pytest.approx((mean[3] + 1.5).numpy(), abs=0.1)
    radius = math.sqrt(2 * math.log(10)) * scale / 2
    assert own.max(0) - own.min(0) == pytest.approx([2 * radius] * 2, rel=0.05)


def test_contours_need_local_guides_of_the_images_and_few_codes(known):
    fit = fit_of(Guide(torch.zeros(6, 2)))
    assert vae._contours(report_of(), Program(), {"a": fit}) is None
    assert vae._contours(report_of(), Program(), {"a": SimpleNamespace(guide="flat")}) is None
    right = fit_of(Guide(torch.zeros(7, 2)))
    assert vae._contours(report_of(), Program(latent=4), {"a": right}) is None


# --- the training fit


def test_the_two_parts_of_the_bound_and_their_sum_over_the_steps():
    fit = fit_of(None, steps=(1, 10, 250))
    figure, words = vae._tug_of_war(fit)
    left, right = figure.axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in left.lines}
    assert lines == {
        "their sum": [8.5, 7.75, 7.0],
        "reconstruction": [8.0, 6.5, 5.0],
        "KL": [0.5, 1.25, 2.0],
    }
    assert all(line.get_xdata().tolist() == [1, 10, 250] for line in left.lines)
    assert [t.get_text() for t in left.get_xticklabels()] == ["1", "10", "100"]
    assert (left.get_xscale(), left.get_ylim()[0]) == ("log", 0)
    path, end = right.lines[:2]
    assert path.get_xydata().tolist() == [[0.5, 8.0], [1.25, 6.5], [2.0, 5.0]]
    assert end.get_xydata().tolist() == [[2.0, 5.0]]
    levels = [line.get_xydata().tolist() for line in right.lines[2:]]
    assert [level[0] for level in levels] == [[0, v] for v in (7.0, 7.375, 7.75, 8.125, 8.5)]
    assert [level[1][0] for level in levels] == pytest.approx([2.1] * 5)
    assert all(sum(level[1]) == pytest.approx(level[0][1]) for level in levels)
    assert right.get_ylim() == (4.0, 9.0)
    assert words.endswith("A KL that stays at 0 is a collapse.")


def test_a_reconstruction_near_zero_keeps_the_axis_at_zero():
    fit = fit_of(None)
    fit.history["reconstruction_nats"] = np.array([2.0, 1.0, 0.5])
    assert vae._tug_of_war(fit)[0].axes[1].get_ylim()[0] == 0.0
