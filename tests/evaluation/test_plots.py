import re

import matplotlib
import numpy as np
import pytest

from medjax.evaluation.plots import (
    DRAWN_POINTS,
    SCORE_MARGIN,
    SCORE_WIDTH,
    VARIABLES,
    Curve,
    drawing,
    histogram_plot,
    line_plot,
    number,
    running_mean,
    score_plot,
    thinned,
    view_box,
)


def paths(figure, series, faint=False):
    """The commands of each line of a series' colour, "M" where the pen is put down, and [n, 2], where in the frame they lead.

    Left and below are 0, right and above are 1.
    """
    text = drawing(figure, "test")
    (axes,) = figure.axes
    box, (_, _, width, height) = axes.get_position(), map(float, view_box(figure).split())
    found = []
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', text):
        if f"stroke: var(--c{series})" in style and ("stroke-opacity: 0.3" in style) == faint:
            commands, xs, ys = zip(*re.findall(r"([ML]) ([-\d.]+) ([-\d.]+)", path), strict=True)
            x, y = np.array(xs, float) / width, 1 - np.array(ys, float) / height
            found.append((commands, np.stack([(x - box.x0) / box.width, (y - box.y0) / box.height], axis=1)))
    return found


def marks(figure, series):
    """The horizontal places of marks of a series' colour, in pixels."""
    text = drawing(figure, "test")
    return [float(x) for x in re.findall(rf'<use [^>]*x="([-\d.]+)"[^>]*fill: var\(--c{series}\)', text)]


def labels(figure):
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing(figure, "test"))


def ticks(axis):
    low, high = axis.get_view_interval()
    return [tick for tick in axis.get_ticklocs() if low <= tick <= high or np.isclose(tick, (low, high), atol=0).any()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3, "3"),
        (23.41234, "23.41"),
        (-0.5, "\N{MINUS SIGN}0.5"),
        (0.00012345, "0.0001234"),
        (9.99996, "10"),
        (123456.7, "123457"),
        (2.13e-5, "2.13 \N{MULTIPLICATION SIGN} 10⁻⁵"),
        (1.2e12, "1.2 \N{MULTIPLICATION SIGN} 10¹²"),
        (np.float32(0.25), "0.25"),
        (None, "\N{EM DASH}"),
        (float("nan"), "\N{EM DASH}"),
        (float("inf"), "\N{EM DASH}"),
    ],
)
def test_numbers_as_people_write_them(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3.7, 12.2), (0.8517, 0.8763), (1e-9, 3e-9), (5.0, 5.0), (0.0, 0.0)]
)
def test_a_linear_axis_holds_its_values_between_even_ticks(low, high):
    (axes,) = line_plot("rise", [Curve("a", [0, 1], [low, high])], "x").figure.axes
    first, last = axes.get_ylim()
    assert first <= low + 1e-12 and last >= high - 1e-12
    shown = ticks(axes.yaxis)
    assert (shown[0], shown[-1]) == pytest.approx((first, last)) or low == high
    assert 2 <= len(shown) <= 8
    assert np.allclose(np.diff(shown), shown[1] - shown[0])


def test_ticks_of_a_logarithmic_axis():
    def of(low, high):
        (axes,) = line_plot("loss", [Curve("a", [0, 1], [high, low])], "x", training=True).figure.axes
        assert axes.get_ylim() == pytest.approx((low, high))
        return ticks(axes.yaxis)

    assert of(0.011, 2100.0) == pytest.approx([0.1, 1, 10, 100, 1000])
    assert of(0.015, 0.9) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5])
    assert len(of(1e-12, 1e12)) <= 7


def test_a_line_goes_from_corner_to_corner_and_breaks_where_it_is_not_a_number():
    plot = line_plot("rise", [Curve("a", range(5), [0.0, 1.0, None, 3.0, 4.0])], "x")
    ((commands, points),) = paths(plot.figure, 0)
    assert commands == ("M", "L", "M", "L")
    rise = np.linspace(0, 1, 5)[[0, 1, 3, 4]]
    np.testing.assert_allclose(points, np.stack([rise, rise], axis=1), atol=1e-3)


def test_losses_over_decades_are_drawn_by_their_logarithm_and_nothing_else_is():
    def heights(values, training):
        ((_, points),) = paths(
            line_plot("loss", [Curve("loss", range(3), values)], "step", training=training).figure, 0
        )
        return points[:, 1]

    falling = [1.0, 0.1, 0.01]
    first, second = np.diff(heights(falling, training=True))
    assert first == pytest.approx(second, abs=1e-3)
    first, second = np.diff(heights(falling, training=False))
    assert first < 5 * second < 0
    first, second = np.diff(heights([1.0, 0.1, -0.01], training=True))
    assert first < 5 * second < 0


def test_a_long_training_curve_has_its_running_mean_before_it():
    noisy = Curve("loss", range(200), 1 + 0.5 * (-1.0) ** np.arange(200))
    plot = line_plot("loss", [noisy], "step", training=True)
    ((_, raw),), ((_, mean),) = paths(plot.figure, 0, faint=True), paths(plot.figure, 0)
    assert np.ptp(raw[:, 1]) > 4 * np.ptp(mean[:, 1])
    assert "running mean of 9" in plot.note


def test_running_mean():
    y = np.array([1.0, np.nan, 5.0, 7.0, 3.0])
    np.testing.assert_allclose(running_mean(y, 3), [1.0, np.nan, 6.0, 5.0, 5.0])


def test_thinning_loses_no_spike():
    x, y = np.arange(100_000.0), np.zeros(100_000)
    y[[777, 54_321]] = 9.0, -9.0
    y[30_000:32_000] = np.nan
    kept_x, kept_y = thinned(x, y)
    assert len(kept_x) <= DRAWN_POINTS
    assert (np.diff(kept_x) > 0).all()
    assert {777.0, 54_321.0} <= set(kept_x) and np.nanmax(kept_y) == 9.0 and np.nanmin(kept_y) == -9.0
    assert np.isnan(kept_y).any()


def test_a_long_curve_is_drawn_with_few_points():
    noise = np.random.default_rng(0).normal(size=100_000)
    plot = line_plot("loss", [Curve("loss", range(len(noise)), noise)], "step", training=True)
    assert len(drawing(plot.figure, "test")) < 60_000


def test_nothing_to_draw_is_nothing():
    assert line_plot("loss", [], "step") is line_plot("loss", [Curve("a", [1.0], [None])], "step") is None
    assert histogram_plot("voxels", {}, "x") is None
    assert histogram_plot("voxels", {"real": (np.arange(3), np.zeros(2))}, "x") is None


def test_a_single_point_is_a_plot():
    assert len(marks(line_plot("fid", [Curve("fid", [100], [3.0])], "step").figure, 0)) == 1


def test_histograms_are_steps_in_the_colours_of_their_sides():
    density = np.array([0.5, 1.0, 0.0, 0.5])
    plot = histogram_plot("voxels", {"real": (np.linspace(0, 2, 5), density)}, "intensity")
    ((_, points),) = paths(plot.figure, 0)
    edges = [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]
    heights = [0, 0.5, 0.5, 1, 1, 0, 0, 0.5, 0.5, 0]
    np.testing.assert_allclose(points[: len(edges)], np.stack([edges, heights], axis=1), atol=0.01)
    assert "fill: var(--c0); fill-opacity: 0.22" in drawing(plot.figure, "test")
    other = histogram_plot("voxels", {"generated": (np.linspace(0, 2, 5), density)}, "intensity")
    assert other.legend == (("generated", 1),) and paths(other.figure, 1)


def test_background_does_not_flatten_a_histogram():
    density = np.array([100.0, 0.5, 1.0, 0.5])
    plot = histogram_plot("voxels", {"real": (np.linspace(0, 2, 5), density)}, "intensity")
    assert "density (logarithmic)" in labels(plot.figure)
    plot = histogram_plot("voxels", {"real": (np.linspace(0, 2, 5), density[1:].repeat(2)[:4])}, "x")
    assert "density" in labels(plot.figure)


def test_a_share_is_shown_on_the_scale_of_all_shares():
    figure = score_plot(0.5, 0.25, 0.75, 1.0, "more")
    assert marks(figure, 1) == [SCORE_WIDTH / 2]
    ((_, interval),) = paths(figure, 1)
    np.testing.assert_allclose(interval[:, 0], [0.25, 0.75])
    assert marks(figure, 0) == [SCORE_WIDTH - SCORE_MARGIN]
    assert labels(figure) == ["0", "1"]


def test_a_distance_begins_at_zero_and_a_likeness_near_its_baseline():
    assert labels(score_plot(23.4, 21.9, 25.2, 6.3, "less")) == ["0", "30"]
    assert labels(score_plot(105.0, 101.0, 109.0, None, "less"))[0] == "0"
    low, high = map(float, labels(score_plot(0.87, None, None, 0.85, "like real")))
    assert 0.8 < low < 0.85 < 0.87 < high < 0.9


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("direction", ["less", "more", "like real"])
def test_a_value_equal_to_its_baseline_has_a_scale(value, direction):
    low, high = (
        float(label.replace("\N{MINUS SIGN}", "-")) for label in labels(score_plot(value, None, None, value, direction))
    )
    assert low <= value <= high and high - low >= 0.2


def test_a_value_with_nothing_to_hold_it_against_has_no_plot():
    assert score_plot(1.0, None, None, None, "less") is score_plot(None, 0.1, 0.2, 0.3, "less") is None
    assert score_plot(1.0, float("nan"), 2.0, float("nan"), "less") is None


def test_texts_are_escaped_and_mean_themselves():
    plot = line_plot("<b>", [Curve("a&b", [0, 1], [0, 1]), Curve('"c"', [0, 1], [1, 2])], "<x> & $y$", "<y>")
    text = drawing(plot.figure, "test")
    assert not re.search(r"<(b|x|y)>", text)
    assert "&lt;x&gt; &amp; $y$" in text


def figures():
    curves = [Curve(f"curve {n}", range(2), [n, 30 * n + 1]) for n in range(7)]
    long = Curve("loss", range(100), np.arange(100.0))
    both = {name: (np.arange(3), np.array([1.0, 100.0])) for name in ("real", "generated")}
    plots = (
        line_plot("a", curves, "x", "y"),
        line_plot("loss", [long], "x", training=True),
        histogram_plot("b", both, "x"),
    )
    return [*(plot.figure for plot in plots), score_plot(0.5, 0.25, 0.75, 1.0, "more")]


def test_every_colour_and_font_is_the_page_s():
    used = set()
    for figure in figures():
        text = drawing(figure, "test")
        styles = " ".join(re.findall(r'style="([^"]*)"', text))
        assert "#" not in styles and "font-family" not in styles and not re.search(r"\b(black|white|rgb)", styles)
        assert "<style" not in text and "://" not in text
        used |= set(re.findall(r"var\(--\w+\)", styles))
    assert used == set(VARIABLES.values())


def test_names_inside_a_drawing_are_its_own():
    names = [set(re.findall(r'\bid="([^"]*)"', drawing(figure, f"figure {n}"))) for n, figure in enumerate(figures())]
    assert all(names) and len(set.union(*names)) == sum(map(len, names))


def test_a_drawing_is_the_same_whatever_a_user_has_set_and_leaves_that_alone():
    expected = [drawing(figure, "test") for figure in figures()]
    theirs = {"font.size": 30, "axes.edgecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        assert [drawing(figure, "test") for figure in figures()] == expected
        assert dict(matplotlib.rcParams) == before
