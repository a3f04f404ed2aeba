"""Charts of rows and histograms: marks stand where their values say."""

import numpy as np
import pytest

from bias_clip.curation.captions import Names
from bias_clip.report import bar_plots, plots
from bias_clip.report.annotations import count, statistics
from bias_clip.report.annotations_page import charts, render_annotations
from bias_clip.report.bar_plots import (
    Series,
    Values,
    bar_chart,
    dot_chart,
    histogram,
    stacked_chart,
)
from tests.report.test_run_page import HOSTILE, Page

TWO = (Series("yes", "s0"), Series("no", "s1"))


def test_dots_stand_at_their_values_between_the_ticks():
    rows = [Values("a", [(0, 0.1), (1, 0.4)], mark=0.25), Values("b", [(0, None), (1, 0.2)])]
    chart = dot_chart("any", rows, series=TWO, form="share", mark="mean")
    at = {tick.label: tick.position for tick in chart.ticks}
    first, second = chart.rows
    assert [dot.x for dot in first.dots] == [at["10%"], at["40%"]]
    assert first.span == (at["10%"], at["40%"])
    assert first.mark == pytest.approx((at["20%"] + at["30%"]) / 2)
    assert [dot.text for dot in second.dots] == ["no: 20.0\u202f%"]
    assert second.span is None
    assert first.y < second.y < chart.height - plots.BOTTOM


def test_a_single_dot_has_its_interval():
    rows = [Values("a", [(0, 0.2)], ends=(0.1, 0.4)), Values("b", [(0, 0.3)])]
    chart = dot_chart("any", rows, series=TWO, form="share")
    at = {tick.label: tick.position for tick in chart.ticks}
    assert [row.span for row in chart.rows] == [(at["10%"], at["40%"]), None]


def test_bars_start_at_zero_and_signed_ones_point_to_their_side():
    chart = bar_chart("any", [Values("a", [(0, -0.2), (1, 0.1)])], series=TWO, form="points")
    left, right = chart.rows[0].bars
    assert left.x + left.width == pytest.approx(chart.zero)
    assert right.x == pytest.approx(chart.zero)
    assert left.width == pytest.approx(2 * right.width, abs=0.2)
    assert left.label == right.label == ""  # it would stand on the other bar
    plain = bar_chart("any", [Values("a", [(0, 0.2)])], series=TWO, form="share")
    assert plain.rows[0].bars[0].label == "20.0\u202f%"
    assert plain.rows[0].bars[0].x == bar_plots.LEFT


def test_stacked_shares_fill_the_row():
    chart = stacked_chart("any", [Values("a", [(0, 0.25), (1, 0.75)])], series=TWO)
    first, second = chart.rows[0].bars
    assert (first.x, first.x + first.width) == (bar_plots.LEFT, second.x)
    assert second.x + second.width == plots.WIDTH - bar_plots.RIGHT
    assert second.width == pytest.approx(3 * first.width, abs=0.2)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1e-9], [1e9, -3.0]])
def test_marks_stay_in_the_box(values):
    rows = [Values(str(i), [(0, v)]) for i, v in enumerate(values)]
    dots = dot_chart("any", rows, series=TWO).rows
    bars = bar_chart("any", rows, series=TWO).rows
    places = [dot.x for row in dots for dot in row.dots]
    places += [bar.x + bar.width for row in bars for bar in row.bars]
    assert min(places) >= bar_plots.LEFT
    assert max(places) <= plots.WIDTH


def test_columns_grow_with_the_logarithm_and_none_stands_for_nothing():
    chart = histogram("any", [0, 1, 2, 3], [1000, 10, 0], mark=1.5, mark_name="mean")
    thousand, ten, none = (height for _, _, _, height, _ in chart.bars)
    assert none == 0
    assert (ten - 0.15 * thousand / 3.15) * 3 == pytest.approx(thousand * 3 / 3.15, rel=1e-6)
    x = [bar[0] for bar in chart.bars]
    assert chart.mark == pytest.approx((x[1] + x[2]) / 2)
    assert [tick.label for tick in chart.y_ticks] == ["1", "10", "100", "1k"]


def found(label):
    names = Names(("man",), (label,), ())
    rng = np.random.default_rng(0)
    man = rng.integers(-1, 2, 400)
    columns = {"man": man, label: ((man == 1) & (rng.random(400) < 0.5)).astype(int)}
    return statistics(count(columns, names), names)


def test_annotations_with_a_gap_have_a_chart_of_it():
    title = charts(found("pilot"))[-1].title
    assert title == "man: labels that differ most"
    assert Page(render_annotations(found("pilot"))).text.count("man: gaps of labels") == 1


def test_hostile_names_stay_words_on_every_page_of_charts():
    page = Page(render_annotations(found(HOSTILE)))
    assert HOSTILE in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(tag == "img" for tag, _ in page.tags)
