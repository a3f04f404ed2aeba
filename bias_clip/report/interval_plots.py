"""Charts of numbers with intervals: one line per model below the name of each number."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bias_clip.core.formatting import MINUS, format_unit, is_number
from bias_clip.report.plots import BOTTOM, WIDTH, Tick, axis_labels, nice_ticks

LEFT, RIGHT, TOP = 12, 16, 8  # room for half of the outermost tick's label
NAME, LINE, GAP = 15, 13, 8  # heights of a name, of a model's line, and between numbers
COLORS = 6


class Whisker(NamedTuple):
    """A value with its interval; `span` is None without one."""

    x: float
    span: tuple[float, float] | None
    y: float
    color: str
    text: str


class Block(NamedTuple):
    """A number: its name, a whisker per model, and the value without knowledge or bias."""

    name: str
    y: float
    top: float
    bottom: float
    whiskers: list[Whisker]
    mark: float | None


class IntervalChart(NamedTuple):
    """Numbers of one unit on one axis."""

    title: str
    unit: str
    series: list[tuple[str, str]]
    blocks: list[Block]
    ticks: list[Tick]
    bottom: float
    height: float


def interval_chart(
    title: str,
    numbers: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    unit: str,
    caption: str = "",
) -> IntervalChart | None:
    """Lays out numbers of one unit.

    Args:
      title: title of the chart.
      numbers: as in `audit.json`: name, values (value, low, high), chance, even.
      names: of the values of each number: models, or baselines.
      unit: a unit of `format_unit`.
      caption: unit of the axis, in words.

    Returns:
      The chart; None where no number has a value.
    """
    points = [v for n in numbers for own in n["values"] for v in _ends(own) if is_number(v)]
    marks = [mark(number) for number in numbers]
    if not points:
        return None
    # The chance level too must lie on the axis.
    shown = [*points, *(m for m in marks if is_number(m))]
    axis = nice_ticks(min(shown), max(shown))

    def x(value: float) -> float:
        share = (value - axis[0]) / (axis[-1] - axis[0])
        return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)

    blocks, y = [], float(TOP)
    for number, place in zip(numbers, marks, strict=True):
        top, whiskers = y + NAME, []
        for i, (name, own) in enumerate(zip(names, number["values"], strict=True)):
            if not is_number(own["value"]):
                continue
            ends = (own["low"], own["high"])
            span = (x(ends[0]), x(ends[1])) if all(map(is_number, ends)) else None
            text = f"{name}: {format_value(own, unit)}"
            line = top + LINE * (i + 0.5)
            whiskers.append(Whisker(x(own["value"]), span, line, f"s{i % COLORS}", text))
        bottom = top + LINE * len(names)
        found = x(place) if is_number(place) else None
        blocks.append(Block(number["name"], y + 11, top, bottom, whiskers, found))
        y = bottom + GAP
    ticks = list(map(Tick, map(x, axis), axis_labels(axis, unit)))
    series = [(name, f"s{i % COLORS}") for i, name in enumerate(names)]
    return IntervalChart(title, caption, series, blocks, ticks, y, y + BOTTOM - 6)


def mark(number: Mapping[str, Any]) -> float | None:
    """The value to compare with: by chance, or without bias."""
    return number["chance"] if number["chance"] is not None else number["even"]


def format_value(own: Mapping[str, Any], unit: str) -> str:
    """ "44.1 % [42.0, 46.2]", or the reason why there is no number."""
    if not is_number(own["value"]):
        return str(own["note"])
    value = format_plain(own["value"], unit)
    if not (is_number(own["low"]) and is_number(own["high"])):
        return f"{value} (no interval)"
    return f"{value} {format_interval(own['low'], own['high'], unit)}"


def format_plain(value: float, unit: str) -> str:
    """As `format_unit`, but plain numbers to three decimals: an interval shows how many digits count."""
    # Integers, such as 0, and numbers that three decimals would lose stay as they are.
    if unit in ("share", "points", "signed points") or not 0.0005 <= abs(value) < 1000:
        return format_unit(value, unit)
    return f"{value:.3f}".replace("-", MINUS)


def format_difference(value: float, unit: str) -> str:
    """A difference of two values of a unit, with its sign: shares and points in percentage points."""
    if unit in ("share", "points", "signed points"):
        return format_unit(value, "signed points")
    return ("+" if value > 0 else "") + format_plain(value, unit)


def format_interval(low: float | None, high: float | None, unit: str) -> str:
    """ "[42.0, 46.2]" without the unit; empty without ends."""
    if not (is_number(low) and is_number(high)):
        return ""
    # The value before the interval has the unit already.
    ends = (format_plain(end, unit).partition("\u202f")[0] for end in (low, high))
    return f"[{', '.join(ends)}]"


def _ends(own: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return own["value"], own["low"], own["high"]
