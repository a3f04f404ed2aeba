"""The report on balancing as a page: the text, charts of the changes, and all numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from bias_clip.core.formatting import format_number, format_percent, plain_percent, plain_points
from bias_clip.report.balancing import SHOWN, STAGES, largest_gaps, largest_shifts
from bias_clip.report.balancing_text import (
    LIMITS,
    costs,
    effects,
    headline,
    shown_name,
    warnings,
)
from bias_clip.report.bar_plots import (
    Histogram,
    RowChart,
    Series,
    Values,
    bar_chart,
    dot_chart,
    histogram,
)
from bias_clip.report.pages import Table, render_page

SERIES = (Series("before", "s5"), Series("weighted", "s0"), Series("drawn", "s1"))
CHART_GROUPS = 4  # the others are in the tables
CHART_SHIFTS = 12


def to_html(found: Mapping[str, Any], *, shown: int = SHOWN) -> str:
    """Returns the page as HTML.

    Args:
      found: from `balancing.statistics`.
      shown: number of labels per chart; the tables contain all labels.
    """
    return render_page(
        "balancing.html",
        found=found,
        # Apart from the other sentences: the page shows them first, and marked.
        alarms=warnings(found),
        said=[*effects(found), *costs(found)],
        limits=LIMITS,
        stages=list(STAGES),
        headline=headline(found),
        row_charts=row_charts(found, shown=shown),
        weights=weights_chart(found["weights"]),
        tables=tables(found),
    )


def row_charts(found: Mapping[str, Any], *, shown: int = SHOWN) -> list[RowChart]:
    """Charts of group shares, of label gaps per group, and of labels whose share changes."""
    groups = [
        Values(row["name"], _points(row["share"], STAGES), row["target"]) for row in found["groups"]
    ]
    charts = [
        bar_chart(
            "Share of each group, where it is known",
            groups,
            series=SERIES,
            unit="%",
            form="share",
            mark="target",
        )
    ]
    for group in found["groups"][:CHART_GROUPS]:
        pairs = largest_gaps(found, group["name"], shown)
        rows = [Values(shown_name(pair), _points(pair["gap"], STAGES)) for pair in pairs]
        if rows:
            title = f"{group['name']}: share of a label in the group minus outside"
            unit = "points"
            charts.append(dot_chart(title, rows, series=SERIES, unit=unit, form="signed points"))
    moved = largest_shifts(found, CHART_SHIFTS)
    # [1:]: the shift before balancing is 0 by definition.
    rows = [Values(shown_name(row), _points(row["shift"], STAGES)[1:]) for row in moved]
    if rows:
        title, unit = "Labels whose own share changes most", "points"
        charts.append(bar_chart(title, rows, series=SERIES, unit=unit, form="signed points"))
    return charts


def weights_chart(weights: Mapping[str, Any]) -> Histogram:
    """A histogram of the weights of the examples."""
    return histogram(
        f"Weights: {format_percent(weights['at_zero'])} at 0, "
        f"{format_percent(weights['at_cap'])} at the cap",
        weights["histogram"]["edges"],
        weights["histogram"]["rows"],
        mark=weights["mean"],
        mark_name=f"mean {format_number(weights['mean'])}",
        unit="examples",
    )


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Tables of all groups, all gaps of each group, and all labels."""
    rows = [
        [row["name"], *map(plain_percent, [row["target"], *row["share"].values(), row["retained"]])]
        for row in found["groups"]
    ]
    made = [Table(["group", "target", *STAGES, "retained"], rows)]
    for group in found["groups"]:
        pairs = largest_gaps(found, group["name"], len(found["pairs"]))
        rows = [
            [shown_name(p), f"{p['count']:,}", *map(plain_points, p["gap"].values())] for p in pairs
        ]
        made.append(Table([f"gaps of {group['name']}, points", "examples", *STAGES], rows))
    labels = largest_shifts(found, len(found["labels"]))
    rows = [
        [shown_name(r), f"{r['count']:,}", *map(plain_percent, [*r["share"].values(), r["kept"]])]
        for r in labels
    ]
    made.append(Table(["shares of labels", "examples", *STAGES, "weight kept"], rows))
    # Data without labels or without gaps have no such table.
    return [table for table in made if table.rows]


def _points(
    by_stage: Mapping[str, float | None], stages: Sequence[str]
) -> list[tuple[int, float | None]]:
    return [(i, by_stage[stage]) for i, stage in enumerate(stages)]
