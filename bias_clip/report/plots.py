"""Turns numbers into marks: the geometry of the report's charts.

Nothing here depends on HTML. A chart is a set of coordinates in a fixed box; the page sets colours, fonts
and the dark mode.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bias_clip.core.formatting import (
    NOTHING,
    format_number,
    format_percent,
    format_points,
    format_ticks,
    format_unit,
    is_number,
)

WIDTH, HEIGHT = 340, 176  # the box of a line chart, in units that are pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 28
MAX_POINTS = 240  # a curve of more points is binned: the eye sees no more in 340 pixels


class Curve(NamedTuple):
    """Finite values at increasing steps."""

    x: np.ndarray
    y: np.ndarray


class Tick(NamedTuple):
    """A labelled position on an axis."""

    position: float
    label: str


class Line(NamedTuple):
    """One curve: `path` is the smoothed line, `faint` the noisy values, `dots` single points."""

    label: str
    path: str
    faint: str
    dots: list[tuple[float, float]]
    last: str
    dashed: bool


class Chart(NamedTuple):
    """A line chart; `hover` has [x, step, value] of each curve's points, for the pointer."""

    title: str
    unit: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    hover: list[list[list]]


class BiasRow(NamedTuple):
    """One role: a bar from the middle of its track, a dot and its interval on another, in per cent."""

    name: str
    gap: str
    gap_side: int
    gap_left: float
    gap_width: float
    preference: str
    preference_side: int
    dot: float | None
    low: float
    width: float
    images: int


class BiasChart(NamedTuple):
    """Rows from the strongest lean to groups[0] down to the strongest lean to groups[1]."""

    rows: list[BiasRow]
    ticks: list[Tick]


def line_chart(
    title: str,
    curves: Mapping[str, Curve],
    *,
    unit: str = "",
    form: str = "number",
    zero: bool = False,
    dashed: Sequence[str] = (),
) -> Chart | None:
    """Lays out named curves over the training steps.

    Args:
      title: title of the chart.
      curves: curves by label.
      unit: unit of the vertical axis, in words.
      form: format of values, a unit of `format_unit`.
      zero: whether the axis starts at zero.
      dashed: labels of curves that are references, not results.

    Returns:
      The chart; None when no curve has a point.
    """
    curves = {label: curve for label, curve in curves.items() if len(curve.x)}
    if not curves:
        return None
    # 1.0 for a run that is still at step 0: a width of 0 could not be divided by.
    x_end = max(float(curve.x[-1]) for curve in curves.values()) or 1.0
    values = np.concatenate([curve.y for curve in curves.values()])
    low = min(0.0, float(values.min())) if zero else float(values.min())
    steps = [tick for tick in nice_ticks(0.0, x_end) if tick <= x_end]
    heights = nice_ticks(low, float(values.max()))
    box = _Box(x_end, heights[0], heights[-1])
    return Chart(
        title=title,
        unit=unit,
        x_ticks=list(map(Tick, map(box.x, steps), format_ticks(steps))),
        y_ticks=list(map(Tick, map(box.y, heights), axis_labels(heights, form))),
        lines=[
            _line(label, curve, box, form=form, dashed=label in dashed)
            for label, curve in curves.items()
        ],
        hover=_hover(curves, box, form),
    )


def bias_chart(concepts: Sequence[Mapping]) -> BiasChart:
    """Lays out one row per role, by increasing signed gap; roles without a gap come last.

    A negative gap leans to groups[0] and lies left of the middle.
    """
    sizes = [abs(concept["gap"]) for concept in concepts if is_number(concept["gap"])]
    # All roles share one scale; 0.1 where there is no gap at all.
    limit = nice_ticks(0.0, max(sizes, default=0.0) or 0.1)[-1]
    # Roles without a gap last, then by the gap, then by name, so that equal gaps have a fixed order.
    ordered = sorted(
        concepts,
        key=lambda c: (
            not is_number(c["gap"]),
            c["gap"] if is_number(c["gap"]) else 0.0,
            c["name"],
        ),
    )
    ticks = [
        Tick(50 + 50 * s, format_points(s * limit).replace(".0", "")) for s in (-1, -0.5, 0, 0.5, 1)
    ]
    return BiasChart([_bias_row(concept, limit) for concept in ordered], ticks)


def sparkline(values: Sequence[float], *, width: int = 72, height: int = 18) -> str:
    """A path of the values in a small box; empty for fewer than two values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    scale = (height - 4) / (high - low) if high > low else 0.0
    step = (width - 4) / (len(values) - 1)
    return _path([(2 + i * step, height - 2 - (v - low) * scale) for i, v in enumerate(values)])


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` equal steps of a round size, from at most low to at least high."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # flat: show it against zero
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-300:  # nothing but zero, or less than a float can divide
        high = low + 1.0
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    # 1e-9: rounding must not push an exact step to the next one.
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def axis_labels(values: Sequence[float], form: str) -> list[str]:
    """The tick marks of an axis; `form` is a unit of `format_unit`."""
    if form in ("points", "signed points"):  # the chart's caption has the unit
        return format_ticks([100 * value for value in values])
    return format_ticks(values, percent=form == "share")


class _Box(NamedTuple):
    """Maps data coordinates to the chart's box."""

    x_end: float
    low: float
    high: float

    def x(self, value: float) -> float:
        # One decimal is a tenth of a pixel, and keeps the page small and its bytes equal.
        return round(float(LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_end), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(float(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share), 1)

    def points(self, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        return list(zip(map(self.x, x), map(self.y, y), strict=True))


def _line(label: str, curve: Curve, box: _Box, *, form: str, dashed: bool) -> Line:
    binned = _binned(curve, MAX_POINTS)
    # Below 60 points a curve is read point by point; smoothing would hide them.
    noisy = len(binned.x) >= 60 and not dashed
    smooth = _smoothed(binned.y, len(binned.x) // 40) if noisy else binned.y
    points = box.points(*binned)
    return Line(
        label=label,
        path=_path(box.points(binned.x, smooth)),
        faint=_path(points) if noisy else "",
        dots=points if len(points) <= 12 and not dashed else [],
        last=format_unit(float(curve.y[-1]), form),
        dashed=dashed,
    )


def _hover(curves: Mapping[str, Curve], box: _Box, form: str) -> list[list[list]]:
    # Half as many: these numbers are text on the page.
    few = [_binned(curve, MAX_POINTS // 2) for curve in curves.values()]
    return [
        [
            [box.x(x), format_number(round(float(x))), format_unit(float(f"{y:.4g}"), form)]
            for x, y in zip(curve.x, curve.y, strict=True)
        ]
        for curve in few
    ]


def _binned(curve: Curve, limit: int) -> Curve:
    """At most `limit` points, each the mean of a bin; the last point does not move."""
    if len(curve.x) <= limit:
        return curve
    # The last point is the newest state of the run, and keeps its step.
    *bins, last = np.array_split(np.arange(len(curve.x)), limit)
    x = [curve.x[i].mean() for i in bins] + [curve.x[-1]]
    return Curve(np.array(x), np.array([curve.y[i].mean() for i in [*bins, last]]))


def _smoothed(values: np.ndarray, radius: int) -> np.ndarray:
    """The mean over a window that shrinks towards both ends, so that the ends do not lag."""
    # A sum over any window is a difference of two cumulative sums.
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(radius, np.minimum(index, index[::-1]))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _bias_row(concept: Mapping, limit: float) -> BiasRow:
    gap, preference = concept["gap"], concept["preference"]
    half = 50.0 * abs(gap) / limit if is_number(gap) else 0.0
    right = is_number(gap) and gap > 0
    known = is_number(preference)
    low, high = concept.get("low"), concept.get("high")
    return BiasRow(
        name=concept["name"],
        gap=format_points(gap),
        gap_side=int(right),
        gap_left=round(50.0 if right else 50.0 - half, 2),
        gap_width=round(half, 2),
        preference=format_percent(preference) if known else NOTHING,
        preference_side=_side(preference, low, high) if known else 0,
        dot=round(100.0 * preference, 2) if known else None,
        low=round(100.0 * low, 2) if is_number(low) else 0.0,
        width=round(100.0 * (high - low), 2) if is_number(low) and is_number(high) else 0.0,
        images=concept["count"],
    )


def _side(preference: float, low: float | None, high: float | None) -> int:
    """-1 or 1 for the preferred group; 0 if the interval contains both."""
    if is_number(low) and is_number(high) and low <= 0.5 <= high:
        return 0
    return int(np.sign(preference - 0.5))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
