"""Compares groups of runs: the mean of each metric, as lines of text and as a page."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bias_clip.core.formatting import format_unit, is_number, spaced
from bias_clip.evals.headlines import by_importance, find_metric
from bias_clip.evals.metrics import Metric
from bias_clip.evals.results import EvalResult
from bias_clip.report.bar_plots import RowChart, Series, Values, dot_chart
from bias_clip.report.interval_plots import format_interval
from bias_clip.report.pages import render_page

Group = Mapping[
    str, Sequence[float]
]  # "evaluator/metric" to its values, one per run; None for no value
# Group to "evaluator/metric" to the ends of its interval, of groups with one run
Intervals = Mapping[str, Mapping[str, tuple[float, float]]]
Details = Mapping[str, Mapping[str, Any]]  # evaluator to its details, which name its kind

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
UNITS = {"share": "%", "points": "points", "signed points": "points"}


def sorted_keys(keys: Sequence[str], details: Details) -> list[str]:
    """The keys by importance of their evaluators, see `by_importance`, then in the order of `details`."""
    results = {name: EvalResult({}, dict(own)) for name, own in details.items()}
    # A metric of an evaluator that the first run does not have still needs a place.
    results |= {name: EvalResult({}, {}) for name in map(_evaluator, keys) if name not in results}
    place = {name: i for i, name in enumerate(by_importance(results))}
    return sorted(keys, key=lambda key: place[_evaluator(key)])


def markdown_table(
    groups: Mapping[str, Group],
    keys: Sequence[str],
    details: Details,
    intervals: Intervals | None = None,
) -> list[str]:
    """Returns the lines of a Markdown table, with a row per metric and a column per group."""
    lines = [f"| | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    return lines + [
        f"| {' | '.join(row)} |" for row in table_rows(groups, keys, details, intervals)
    ]


def table_rows(
    groups: Mapping[str, Group],
    keys: Sequence[str],
    details: Details,
    intervals: Intervals | None = None,
) -> list[list[str]]:
    """A row per key: the key with an arrow in the better direction, then mean ± deviation per group.

    A group of one run has no deviation; where its evaluator gave an interval over images, that is shown.
    """
    ends = intervals or {}
    rows = []
    for key in keys:
        metric = described(key, details)
        cells = [
            _cell(group[key], metric.unit, ends.get(name, {}).get(key)) if key in group else ""
            for name, group in groups.items()
        ]
        rows.append([key + ARROWS[metric.better], *cells])
    return rows


def described(key: str, details: Details) -> Metric:
    """The description of the metric "evaluator/metric"."""
    evaluator, _, name = key.partition("/")
    return find_metric(name, details.get(evaluator, {}))


def render_comparison(
    groups: Mapping[str, Group],
    keys: Sequence[str],
    details: Details,
    intervals: Intervals | None = None,
) -> str:
    """Returns the page as HTML: a chart per metric, and the table."""
    sizes = [(name, max(map(len, group.values()), default=0)) for name, group in groups.items()]
    return render_page(
        "comparison.html",
        names=list(groups),
        sizes=sizes,
        charts=[
            comparison_chart(groups, key, details, intervals)
            for key in keys
            # Counts and chance levels are the same in all runs; the table has them.
            if described(key, details).unit != "count" and not key.endswith("chance")
        ],
        rows=[
            [first.replace(" ", "\u00a0"), *others]
            for first, *others in table_rows(groups, keys, details, intervals)
        ],
    )


def arrow(better: str) -> str:
    """The arrow in the better direction, which stays on the line of the last word."""
    return ARROWS[better].replace(" ", "\u00a0")


def comparison_chart(
    groups: Mapping[str, Group],
    key: str,
    details: Details,
    intervals: Intervals | None = None,
) -> RowChart:
    """A row per group, with a dot per run and a line at their mean; of one run with its interval."""
    ends = intervals or {}
    metric = described(key, details)
    rows = []
    for i, (name, group) in enumerate(groups.items()):
        known = [value for value in group.get(key, ()) if is_number(value)]
        mean = statistics.mean(known) if known else None
        own = ends.get(name, {}).get(key) if len(known) == 1 else None
        rows.append(Values(name, [(i, value) for value in known], mean, ends=own))
    series = [Series(name, f"s{i % 6}") for i, name in enumerate(groups)]
    title = f"{spaced(_evaluator(key))}: {metric.name}{arrow(metric.better)}"
    chart = dot_chart(title, rows, series=series, form=metric.unit, unit=UNITS.get(metric.unit, ""))
    return chart._replace(series=())  # the rows have the names


def _cell(values: Sequence[float], unit: str, ends: tuple[float, float] | None = None) -> str:
    known = [value for value in values if is_number(value)]
    # A mean over some of the seeds would not compare with the other groups.
    if len(known) < len(values):
        return "no value"
    mean = _written(statistics.mean(known), unit)
    if len(known) < 2:
        return f"{mean} {format_interval(*ends, unit)}" if ends else mean
    # The narrow blank before the unit: "44.1 ± 0.3 %", with the unit once.
    number, space, symbol = mean.partition("\u202f")
    # "signed " is cut: a deviation has no sign.
    deviation = _written(statistics.stdev(known), unit.removeprefix("signed "))
    return f"{number} ± {deviation.partition(space)[0] if space else deviation}{space}{symbol}"


def _written(value: float, unit: str) -> str:
    """Numbers with three decimals, so that columns align; shares and points in their unit."""
    if unit in ("number", "nats", "cosine"):
        return f"{value:.3f}"
    return format_unit(value, unit)


def _evaluator(key: str) -> str:
    return key.partition("/")[0]
