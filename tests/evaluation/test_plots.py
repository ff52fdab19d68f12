import re

import numpy as np
import pytest

from medjax.evaluation.plots import (
    DRAWN_POINTS,
    HEIGHT,
    SCORE_MARGIN,
    SCORE_WIDTH,
    TOP,
    WIDTH,
    Curve,
    histogram_plot,
    line_plot,
    linear_axis,
    log_axis,
    number,
    running_mean,
    score_plot,
    thinned,
)


def paths(svg, classes):
    """The points of each path of these classes, None for a break."""
    found = re.findall(rf'<path class="{classes}" d="([^"]*)"', svg)
    points = [re.findall(r"([ML])([-\d.]+) ([-\d.]+)", path) for path in found]
    return [[(command, float(x), float(y)) for command, x, y in path] for path in points]


def labels(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


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
    axis = linear_axis(low, high, 5)
    assert axis.low <= low + 1e-12 and axis.high >= high - 1e-12
    assert 2 <= len(axis.ticks) <= 8
    assert np.allclose(np.diff(axis.ticks), axis.ticks[1] - axis.ticks[0])


def test_ticks_of_a_logarithmic_axis():
    assert log_axis(0.011, 2100.0).ticks == pytest.approx((0.1, 1, 10, 100, 1000))
    assert log_axis(0.015, 0.9).ticks == pytest.approx((0.02, 0.05, 0.1, 0.2, 0.5))


def test_a_line_goes_from_corner_to_corner_and_breaks_where_it_is_not_a_number():
    svg = line_plot("rise", [Curve("a", range(5), [0.0, 1.0, None, 3.0, 4.0])], "x")
    (points,) = paths(svg, "line series-0")
    assert [command for command, _, _ in points] == ["M", "L", "M", "L"]
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    assert ys == [pytest.approx(y, abs=0.1) for y in np.linspace(HEIGHT - 40, TOP, 5)[[0, 1, 3, 4]]]
    assert xs[-1] == WIDTH - 20 and np.allclose(np.diff(xs), (xs[1] - xs[0]) * np.array([1, 2, 1]), atol=0.2)


def test_losses_over_decades_are_drawn_by_their_logarithm_and_nothing_else_is():
    falling = [Curve("loss", range(3), [1.0, 0.1, 0.01])]
    (points,) = paths(line_plot("loss", falling, "step", training=True), "line series-0")
    assert points[1][2] - points[0][2] == pytest.approx(points[2][2] - points[1][2], abs=0.2)
    (points,) = paths(line_plot("loss", falling, "step"), "line series-0")
    assert points[1][2] - points[0][2] > 5 * (points[2][2] - points[1][2])
    below_zero = [Curve("loss", range(3), [1.0, 0.1, -0.01])]
    (points,) = paths(line_plot("loss", below_zero, "step", training=True), "line series-0")
    assert points[1][2] - points[0][2] > 5 * (points[2][2] - points[1][2])


def test_a_long_training_curve_has_its_running_mean_before_it():
    noisy = Curve("loss", range(200), 1 + 0.5 * (-1.0) ** np.arange(200))
    svg = line_plot("loss", [noisy], "step", training=True)
    (raw,), (mean,) = paths(svg, "line raw series-0"), paths(svg, "line series-0")
    assert np.ptp([y for _, _, y in raw]) > 4 * np.ptp([y for _, _, y in mean])
    assert "running mean of 9" in svg


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


def test_nothing_to_draw_is_nothing():
    assert line_plot("loss", [], "step") == line_plot("loss", [Curve("a", [1.0], [None])], "step") == ""
    assert (
        histogram_plot("voxels", {}, "x") == histogram_plot("voxels", {"real": (np.arange(3), np.zeros(2))}, "x") == ""
    )


def test_a_single_point_is_a_plot():
    assert line_plot("fid", [Curve("fid", [100], [3.0])], "step").count("<circle") == 1


def test_histograms_are_steps_in_the_colours_of_their_sides():
    density = np.array([0.5, 1.0, 0.0, 0.5])
    svg = histogram_plot("voxels", {"real": (np.linspace(0, 2, 5), density)}, "intensity")
    (points,) = paths(svg, "area line series-0")
    heights = (HEIGHT - 40 - np.array([y for _, _, y in points])) / (HEIGHT - 40 - TOP)
    np.testing.assert_allclose(heights, [0, 0.5, 0.5, 1, 1, 0, 0, 0.5, 0.5, 0], atol=0.01)
    assert "series-1" in histogram_plot("voxels", {"generated": (np.linspace(0, 2, 5), density)}, "intensity")


def test_background_does_not_flatten_a_histogram():
    density = np.array([100.0, 0.5, 1.0, 0.5])
    svg = histogram_plot("voxels", {"real": (np.linspace(0, 2, 5), density)}, "intensity")
    assert "density (logarithmic)" in labels(svg)
    assert "density" in labels(
        histogram_plot("voxels", {"real": (np.linspace(0, 2, 5), density[1:].repeat(2)[:4])}, "x")
    )


def test_a_share_is_shown_on_the_scale_of_all_shares():
    svg = score_plot(0.5, 0.25, 0.75, 1.0, "more")
    span = SCORE_WIDTH - 2 * SCORE_MARGIN
    assert f'cx="{SCORE_WIDTH // 2}"' in svg
    assert f"M{SCORE_MARGIN + span // 4} 12H{SCORE_MARGIN + 3 * span // 4}" in svg
    assert f"M{SCORE_WIDTH - SCORE_MARGIN} 4l" in svg
    assert labels(svg) == ["0", "1"]


def test_a_distance_begins_at_zero_and_a_likeness_near_its_baseline():
    assert labels(score_plot(23.4, 21.9, 25.2, 6.3, "less")) == ["0", "30"]
    assert labels(score_plot(105.0, 101.0, 109.0, None, "less"))[0] == "0"
    low, high = map(float, labels(score_plot(0.87, None, None, 0.85, "like real")))
    assert 0.8 < low < 0.85 < 0.87 < high < 0.9


def test_a_value_with_nothing_to_hold_it_against_has_no_plot():
    assert score_plot(1.0, None, None, None, "less") == score_plot(None, 0.1, 0.2, 0.3, "less") == ""
    assert score_plot(1.0, float("nan"), 2.0, float("nan"), "less") == ""


def test_texts_are_escaped():
    svg = line_plot("<b>", [Curve("a&b", [0, 1], [0, 1]), Curve('"c"', [0, 1], [1, 2])], "<x>", "<y>")
    assert not re.search(r"<(b|x|y)>", svg)
    assert "a&amp;b" in svg and "&quot;c&quot;" in svg
