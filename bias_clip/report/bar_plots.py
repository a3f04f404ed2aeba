"""Charts of named rows, and histograms: the geometry of their marks; `plots` does curves."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bias_clip.core.formatting import format_number, format_ticks, format_unit, is_number
from bias_clip.report.plots import BOTTOM, HEIGHT, TOP, WIDTH, Tick, axis_labels, nice_ticks
from bias_clip.report.plots import LEFT as HISTOGRAM_LEFT

LEFT, RIGHT = 126, 16  # beside the rows: their names, and half of the last mark's label
NAME_LETTERS = 21  # that fit into LEFT
DOTS, BAR, GAP = 19, 10, 9  # heights of a row of dots, of a bar, and between the rows of bars
LABEL = 34  # right of a bar: its value


class Values(NamedTuple):
    """The content of one row.

    Attributes:
      name: name in words.
      points: (series, value) pairs; a value of None is left out.
      mark: a value shown by a line across the row, such as a target or a mean.
      ends: of an interval around a single point.
    """

    name: str
    points: Sequence[tuple[int, float | None]]
    mark: float | None = None
    ends: tuple[float, float] | None = None


class Series(NamedTuple):
    """A name in the legend, and the style sheet's class for its colour."""

    name: str
    color: str


class Dot(NamedTuple):
    """A value of a series: its position and its text; dots of later series are smaller, to stay visible."""

    x: float
    radius: float
    color: str
    text: str


class Bar(NamedTuple):
    """A bar of a series, in the box; `label` is to its right."""

    x: float
    y: float
    width: float
    height: float
    color: str
    text: str
    label: str


class Row(NamedTuple):
    """A row: `y` is its middle, `span` the line between its outermost dots."""

    name: str
    full_name: str
    y: float
    height: float
    dots: list[Dot]
    bars: list[Bar]
    span: tuple[float, float] | None
    mark: float | None


class RowChart(NamedTuple):
    """Rows that share one horizontal axis."""

    title: str
    unit: str
    series: Sequence[Series]
    mark: str
    rows: list[Row]
    ticks: list[Tick]
    zero: float | None
    height: float


class Histogram(NamedTuple):
    """Columns on a horizontal axis; heights are logarithms."""

    title: str
    unit: str
    bars: list[tuple[float, float, float, float, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mark: float
    mark_name: str


def dot_chart(
    title: str,
    rows: Sequence[Values],
    *,
    series: Sequence[Series],
    unit: str = "",
    form: str = "number",
    mark: str = "",
) -> RowChart:
    """Lays out a dot per value, those of a row joined by a line, or with their interval.

    Args:
      title: title of the chart.
      rows: rows from top to bottom.
      series: series by the numbers in `Values.points`.
      unit: unit of the axis, in words.
      form: format of values, a unit of `format_unit`.
      mark: meaning of the marks of the rows, for the legend.
    """
    ends = [end for row in rows for end in row.ends or ()]
    axis = _Axis.of([*_numbers(rows), *_marks(rows), *ends], RIGHT)
    laid = []
    for i, row in enumerate(rows):
        # Ranks within the row: the dots of a row that lacks a series keep their sizes apart.
        ranks = sorted({s for s, _ in row.points})
        dots = [
            Dot(
                axis.x(v),
                5.4 - 1.2 * ranks.index(s),
                series[s].color,
                f"{series[s].name}: {format_unit(v, form)}",
            )
            for s, v in row.points
            if is_number(v)
        ]
        places = [*map(axis.x, row.ends or ())] or [dot.x for dot in dots]
        span = (min(places), max(places)) if len(places) > 1 else None
        laid.append(_row(row, TOP + DOTS * (i + 0.5), DOTS, axis, dots=dots, span=span))
    return _chart(title, unit, series, mark, laid, axis, form, TOP + DOTS * len(rows))


def bar_chart(
    title: str,
    rows: Sequence[Values],
    *,
    series: Sequence[Series],
    unit: str = "",
    form: str = "number",
    mark: str = "",
) -> RowChart:
    """Lays out a bar per value, those of a row below each other; arguments as for `dot_chart`."""
    # Bars begin at 0, so 0 must be on the axis.
    values = [0.0, *_numbers(rows), *_marks(rows)]
    signed = min(values) < 0  # with negative values a label would cover another bar
    axis = _Axis.of(values, RIGHT if signed else LABEL)
    laid, y = [], float(TOP)
    for row in rows:
        shown = [(s, v) for s, v in row.points if is_number(v)]
        height = BAR * max(1, len(shown))
        bars = []
        for j, (s, v) in enumerate(shown):
            # Negative values lie left of zero.
            left, right = sorted((axis.x(0.0), axis.x(v)))
            text = format_unit(v, form)
            bars.append(
                Bar(
                    left,
                    y + BAR * j,
                    # At least one unit wide: a value of 0 stays visible.
                    max(right - left, 1.0),
                    BAR - 1,
                    series[s].color,
                    f"{series[s].name}: {text}",
                    "" if signed else text,
                )
            )
        laid.append(_row(row, y + height / 2, height, axis, bars=bars))
        y += height + GAP
    return _chart(title, unit, series, mark, laid, axis, form, y)


def stacked_chart(
    title: str, rows: Sequence[Values], *, series: Sequence[Series], unit: str = ""
) -> RowChart:
    """Lays out the shares of a row end to end, from 0 to 100 %."""
    axis = _Axis.of([0.0, 1.0], RIGHT)
    laid = []
    for i, row in enumerate(rows):
        bars, start, y = [], 0.0, TOP + (2 * BAR + GAP) * i
        for s, value in row.points:
            share = value or 0.0
            text = f"{series[s].name}: {format_unit(share, 'share')}"
            left, right = axis.x(start), axis.x(start + share)
            bars.append(Bar(left, y, right - left, 2 * BAR, series[s].color, text, ""))
            start += share
        laid.append(_row(row, y + BAR, 2 * BAR, axis, bars=bars))
    bottom = TOP + (2 * BAR + GAP) * len(rows)
    return _chart(title, unit, series, "", laid, axis, "share", bottom)


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    mark: float,
    mark_name: str,
    unit: str = "",
) -> Histogram:
    """Lays out counts as columns between edges, on a logarithmic axis from 1.

    Args:
      title: title of the chart.
      edges: increasing edges, one more than counts.
      counts: numbers of 0 or more.
      mark: a value of the horizontal axis shown by a line; `mark_name` is its name.
      unit: unit of the vertical axis, in words.
    """
    # At least one decade, also where all counts are below 10.
    top = max(1, math.ceil(math.log10(max(*counts, 10))))
    low, high = edges[0], edges[-1]
    wide, tall = WIDTH - HISTOGRAM_LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return round(HISTOGRAM_LEFT + wide * (value - low) / (high - low), 1)

    bars = []
    for left, right, n in zip(edges[:-1], edges[1:], counts, strict=True):
        # log10(1) is 0; the constant gives a count of 1 a visible height.
        size = tall * (math.log10(n) + 0.15) / (top + 0.15) if n >= 1 else 0.0
        text = f"{' to '.join(format_ticks([left, right]))}: {format_number(n)}"
        place = x(left)
        bars.append((place, round(HEIGHT - BOTTOM - size, 1), x(right) - place, size, text))
    powers = [10.0**i for i in range(top + 1)]
    heights = [HEIGHT - BOTTOM - tall * (i + 0.15) / (top + 0.15) for i in range(top + 1)]
    steps = [tick for tick in nice_ticks(low, high) if low <= tick <= high]
    return Histogram(
        title,
        unit,
        bars,
        list(map(Tick, map(x, steps), format_ticks(steps))),
        [Tick(round(h, 1), format_ticks([p])[0]) for h, p in zip(heights, powers, strict=True)],
        x(mark),
        mark_name,
    )


class _Axis(NamedTuple):
    """The horizontal axis of rows."""

    ticks: list[float]
    right: float

    @classmethod
    def of(cls, values: Sequence[float], margin: float) -> "_Axis":
        return cls(nice_ticks(min(values, default=0.0), max(values, default=0.0)), WIDTH - margin)

    def x(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return round(LEFT + (self.right - LEFT) * (value - low) / (high - low), 1)


def _numbers(rows: Sequence[Values]) -> list[float]:
    return [value for row in rows for _, value in row.points if is_number(value)]


def _marks(rows: Sequence[Values]) -> list[float]:
    return [row.mark for row in rows if is_number(row.mark)]


def _row(
    row: Values,
    y: float,
    height: float,
    axis: _Axis,
    *,
    dots: Sequence[Dot] = (),
    bars: Sequence[Bar] = (),
    span: tuple[float, float] | None = None,
) -> Row:
    name = row.name if len(row.name) <= NAME_LETTERS else row.name[: NAME_LETTERS - 1] + "…"
    mark = axis.x(row.mark) if is_number(row.mark) else None
    return Row(name, row.name, y, height, list(dots), list(bars), span, mark)


def _chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    mark: str,
    rows: list[Row],
    axis: _Axis,
    form: str,
    bottom: float,
) -> RowChart:
    places = [axis.x(tick) for tick in axis.ticks]
    ticks = list(map(Tick, places, axis_labels(axis.ticks, form)))
    # At an end of the axis the frame is the line already.
    zero = axis.x(0.0) if axis.ticks[0] < 0 < axis.ticks[-1] else None
    return RowChart(title, unit, series, mark, rows, ticks, zero, bottom + BOTTOM - 6)
