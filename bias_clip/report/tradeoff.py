"""Quality against bias along a path of models, as a curve and a table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bias_clip.core.formatting import format_unit
from bias_clip.report.comparison import ARROWS, Details, described
from bias_clip.report.pages import render_page
from bias_clip.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Tick,
    axis_labels,
    nice_ticks,
)


class Tradeoff(NamedTuple):
    """A curve in a fixed box: one metric along each axis, and a named dot per model.

    Attributes:
      x_title, y_title: the metrics, with an arrow in the better direction.
      x_ticks, y_ticks: labelled positions.
      path: the line through the dots, in the order of the models.
      dots: (x, y, name, values in words) of each model.
    """

    x_title: str
    y_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    path: str
    dots: list[tuple[float, float, str, str]]


def tradeoff_chart(
    models: Mapping[str, Mapping[str, float]], *, quality: str, bias: str, details: Details
) -> Tradeoff:
    """Lays out a model per dot, `bias` to the right and `quality` upwards.

    Args:
      models: values by "evaluator/metric", by the name of the model, in the order of the path.
      quality, bias: the two metrics.
      details: of each evaluator, for units and directions.

    Raises:
      ValueError: a model lacks one of the metrics.
    """
    for name, values in models.items():
        if lacking := [key for key in (quality, bias) if values.get(key) is None]:
            raise ValueError(f"{name} has no value of {lacking[0]}; expected one of each model.")
    across = _axis([values[bias] for values in models.values()], LEFT, WIDTH - RIGHT)
    # y grows downwards on the page: this axis begins at the bottom.
    up = _axis([values[quality] for values in models.values()], HEIGHT - BOTTOM, TOP)
    metrics = {key: described(key, details) for key in (quality, bias)}
    dots = []
    for name, values in models.items():
        said = ", ".join(f"{key} {format_unit(values[key], metrics[key].unit)}" for key in metrics)
        dots.append((_place(values[bias], across), _place(values[quality], up), name, said))
    return Tradeoff(
        x_title=bias + ARROWS[metrics[bias].better],
        y_title=quality + ARROWS[metrics[quality].better],
        x_ticks=_ticks(across, metrics[bias].unit),
        y_ticks=_ticks(up, metrics[quality].unit),
        path="M" + "L".join(f"{x},{y}" for x, y, *_ in dots),
        dots=dots,
    )


def render_tradeoff(
    chart: Tradeoff | None, *, names: Sequence[str], head: Sequence[str], rows: Sequence
) -> str:
    """Returns the page as HTML: the curve, if there is one, and the table of all metrics.

    Args:
      chart: from `tradeoff_chart`.
      names: of the two ends of the path.
      head, rows: of the table.
    """
    return render_page("tradeoff.html", chart=chart, names=names, head=head, rows=rows)


class _Axis(NamedTuple):
    """The values of an axis' ticks, and where the first and the last are drawn."""

    ticks: list[float]
    start: float
    end: float


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    return _Axis(nice_ticks(min(values), max(values)), start, end)


def _place(value: float, axis: _Axis) -> float:
    share = (value - axis.ticks[0]) / (axis.ticks[-1] - axis.ticks[0])
    return round(axis.start + share * (axis.end - axis.start), 1)


def _ticks(axis: _Axis, unit: str) -> list[Tick]:
    labels = axis_labels(axis.ticks, unit)
    return [Tick(_place(x, axis), text) for x, text in zip(axis.ticks, labels, strict=True)]
