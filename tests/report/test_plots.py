"""The report's charts and numbers: marks stand where their values say, and read as they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.core.formatting import (
    format_large,
    format_number,
    format_percent,
    format_points,
    format_ticks,
)
from bias_clip.report import plots as plots
from bias_clip.report.plots import bias_chart, line_chart, nice_ticks, sparkline
from bias_clip.report.run_charts import train_charts
from bias_clip.report.run_read import Curve

NBSP = "\u202f"


def curve(y, x=None):
    y = np.array(y, float)
    return Curve(np.arange(1.0, len(y) + 1) if x is None else np.array(x, float), y)


def points(path):
    return np.array([pair.split(",") for pair in path[1:].split("L")], float)


def role(name, gap, preference=0.5, low=None, high=None):
    rest = {"preference": preference, "low": low, "high": high, "count": 7}
    return {"name": name, "gap": gap} | rest


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3944.0, "3,944"),
        (0.28612, "0.2861"),
        (-12.0987, "\u221212.10"),
        (123456.7, "123,457"),
        (0.00025, "2.50 \u00d7 10⁻⁴"),
        (float("nan"), "—"),
        (None, "—"),
        (float("-inf"), "\u2212inf"),
        ("as it is", "as it is"),
    ],
)
def test_numbers(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (1, "100.0"), (0.1749, "17.5"), (1 / 3944, "0.025"), (-0.0512, "\u22125.1")],
)
def test_percentages(value, text):
    assert format_percent(value) == f"{text}{NBSP}%"


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "+12.3"), (-0.2, "\u221220.0"), (-1e-5, "0.0")]
)
def test_points_have_a_sign(value, text):
    assert format_points(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12_345, "12,345"), (1014.4, "1,014"), (3_412_609, f"3.41{NBSP}M"), (9e9, f"9.00{NBSP}B")],
)
def test_large_counts(value, text):
    assert format_large(value) == text


def test_marks_of_an_axis_share_one_form():
    assert format_ticks([0, 0.00025, 0.0005, 0.001]) == [
        "0",
        "0.25e\u22123",
        "0.5e\u22123",
        "1e\u22123",
    ]
    assert format_ticks([0, 500, 1000]) == ["0", "0.5k", "1k"]
    assert format_ticks([-0.5, 0, 0.5]) == ["\u22120.5", "0", "0.5"]
    assert format_ticks([0, 0.05], percent=True) == ["0%", "5%"]


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_cover_the_values_in_few_equal_steps(low, size):
    ticks = np.array(nice_ticks(low, low + size))
    steps = np.diff(ticks)
    slack = 1e-6 * max(abs(low), abs(low + size)) + 1e-300  # below that, all is zero
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + size - slack
    assert 2 <= len(ticks) <= 7
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_curve_rises_on_the_page_when_values_rise():
    chart = line_chart("loss", {"a": curve([1, 2, 3]), "b": curve([3, 2, 1])})
    rising, falling = (points(line.path) for line in chart.lines)
    assert (np.diff(rising[:, 1]) < 0).all()  # upwards is towards zero in the box
    assert (np.diff(falling[:, 1]) > 0).all()
    assert (np.diff(rising[:, 0]) > 0).all()
    assert [line.last for line in chart.lines] == ["3", "1"]


def test_curve_stands_at_the_height_of_its_marks():
    chart = line_chart("share", {"a": curve([0.2, 0.4])}, form="share", zero=True)
    heights = {tick.label: tick.position for tick in chart.y_ticks}
    assert [height for _, height in chart.lines[0].dots] == [heights["20%"], heights["40%"]]


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [5.0] * 300, [-2.0, -2.0], [1e-9, 2e-9]])
def test_flat_and_tiny_curves_stay_in_the_box(values):
    chart = line_chart("any", {"a": curve(values)})
    x, y = points(chart.lines[0].path).T
    assert ((x >= plots.LEFT) & (x <= plots.WIDTH - plots.RIGHT)).all()
    assert ((y >= plots.TOP) & (y <= plots.HEIGHT - plots.BOTTOM)).all()


def test_chart_without_a_value_is_none():
    assert line_chart("any", {"a": curve([])}) is None


def test_long_curves_are_thinned_and_keep_their_last_step():
    chart = line_chart("loss", {"a": curve(np.linspace(9, 1, 5000))})
    path = points(chart.lines[0].path)
    assert len(path) == plots.MAX_POINTS
    assert path[-1, 0] == plots.WIDTH - plots.RIGHT
    assert len(chart.hover[0]) == plots.MAX_POINTS // 2
    assert chart.hover[0][-1][1] == "5,000"


def test_moving_average_keeps_straight_lines_and_calms_noise():
    line = np.linspace(2, 5, 100)
    noise = np.random.default_rng(0).normal(size=100)
    np.testing.assert_allclose(plots._smoothed(line, 6), line, rtol=1e-12)
    assert plots._smoothed(noise, 6)[6:-6].std() < noise.std() / 2
    np.testing.assert_allclose(plots._smoothed(noise, 0), noise, rtol=1e-9)


def test_references_are_dashed_and_bear_no_dots():
    chart = line_chart("a", {"acc": curve([1, 2]), "chance": curve([1, 1])}, dashed=("chance",))
    assert [line.dashed for line in chart.lines] == [False, True]
    assert [len(line.dots) for line in chart.lines] == [2, 0]


def test_sparkline_goes_from_left_to_right_and_up():
    x, y = points(sparkline([1.0, 2.0, 4.0])).T
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) < 0).all()
    assert sparkline([1.0]) == ""


def test_roles_are_sorted_by_gap_and_bars_point_to_their_group():
    rows = bias_chart([role("b", 0.2), role("none", None), role("a", -0.1), role("c", 0.0)]).rows
    assert [row.name for row in rows] == ["a", "c", "b", "none"]
    assert [row.gap for row in rows] == ["\u221210.0", "0.0", "+20.0", "—"]
    left, _, right, _ = rows
    assert (left.gap_side, left.gap_left + left.gap_width) == (0, 50.0)
    assert (right.gap_side, right.gap_left) == (1, 50.0)
    assert right.gap_width == pytest.approx(2 * left.gap_width, abs=0.02)
    assert rows[-1].gap_width == 0


def test_swapping_the_groups_mirrors_the_chart():
    gaps = {"a": -0.13, "b": 0.31, "c": 0.02}
    rows = bias_chart([role(n, g, 0.3 + g) for n, g in gaps.items()]).rows
    swapped = bias_chart([role(n, -g, 0.7 - g) for n, g in gaps.items()]).rows
    for row, other in zip(rows, reversed(swapped), strict=True):
        assert row.name == other.name
        assert row.gap_left + row.gap_width == pytest.approx(100 - other.gap_left, abs=0.02)
        assert row.dot == pytest.approx(100 - other.dot)
        assert row.preference_side == -other.preference_side


def test_ends_of_the_gap_axis_hold_the_longest_bar():
    chart = bias_chart([role("a", -0.33), role("b", 0.1)])
    ends = float(chart.ticks[-1].label.replace("+", ""))
    assert ends >= 33
    assert chart.rows[0].gap_width == pytest.approx(50 * 33 / ends, abs=0.01)
    assert [tick.position for tick in chart.ticks] == [0, 25, 50, 75, 100]


@pytest.mark.parametrize(
    ("share", "low", "high", "side"),
    [
        (0.7, 0.6, 0.8, 1),
        (0.3, 0.1, 0.4, -1),
        (0.6, 0.4, 0.8, 0),
        (0.6, None, None, 1),
        (0.5,) * 3 + (0,),
    ],
)
def test_preference_takes_a_side_only_outside_its_interval(share, low, high, side):
    assert bias_chart([role("a", 0.1, share, low, high)]).rows[0].preference_side == side


def test_parts_of_the_time_have_no_charts_because_the_head_of_the_page_names_them():
    rows = [
        {"step": step, "goodput": 0.5 + step / 100, "goodput/compile": 9.0, "own": step}
        for step in (1, 2, 3)
    ]
    found = {chart.title: chart.unit for chart in train_charts(rows)}
    assert found == {"Time in training steps": "share of time, %", "Own": ""}
