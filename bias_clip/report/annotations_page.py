"""The statistics of annotations as a page: charts of values and gaps, and all numbers."""

from collections.abc import Mapping
from typing import Any

from bias_clip.core.formatting import format_number, format_percent, format_points
from bias_clip.report.annotations import PLURALS, SHOWN, attribute_names, largest_gaps
from bias_clip.report.bar_plots import (
    RowChart,
    Series,
    Values,
    bar_chart,
    dot_chart,
    stacked_chart,
)
from bias_clip.report.pages import Table, render_page

ANSWERS = (Series("yes", "s0"), Series("no", "s1"), Series("unknown", "s5"))


def render_annotations(found: Mapping[str, Any], *, shown: int = SHOWN) -> str:
    """Returns the page as HTML.

    Args:
      found: from `annotations.statistics`.
      shown: number of labels per chart; the tables contain all labels that differ.
    """
    return render_page(
        "annotations.html", found=found, charts=charts(found, shown=shown), tables=tables(found)
    )


def charts(found: Mapping[str, Any], *, shown: int = SHOWN) -> list[RowChart]:
    """Charts of attribute values, of the most frequent labels, and of the largest gaps."""
    made = []
    attributes = [row for row in found["single"] if row["kind"] == "attribute"]
    if attributes:
        rows = [
            Values(
                row["name"],
                [(i, row[s.name] / max(found["rows"], 1)) for i, s in enumerate(ANSWERS)],
            )
            for row in attributes
        ]
        made.append(stacked_chart("Answers", rows, series=ANSWERS, unit="% of all examples"))
    # Word lists hold hundreds of labels, most of which a small data set never has.
    seen = [row for row in found["single"] if row["kind"] != "attribute" and row["yes"]]
    if seen:
        frequent = sorted(seen, key=lambda row: -row["prevalence"])[:shown]
        rows = [Values(row["name"], [(0, row["prevalence"])]) for row in frequent]
        made.append(
            bar_chart(
                "Most frequent labels and proxies",
                rows,
                series=(Series("yes", "s5"),),
                unit="% where known",
                form="share",
            )
        )
    for name in attribute_names(found):
        for kind, plural in PLURALS.items():
            pairs = largest_gaps(found, name, kind, shown)
            rows = [Values(p["name"], [(0, p["p_yes"]), (1, p["p_no"])]) for p in pairs]
            if rows:
                made.append(
                    dot_chart(
                        f"{name}: {plural} that differ most",
                        rows,
                        series=(Series(f"{name}: yes", "s0"), Series(f"{name}: no", "s1")),
                        unit="% of examples",
                        form="share",
                    )
                )
    return made


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Tables of the values of every column that occurs, and of the gaps of each attribute."""
    rows = [
        [
            row["name"],
            row["kind"],
            *(format_number(row[answer]) for answer in ("yes", "no", "unknown")),
            format_percent(row["prevalence"]),
        ]
        for row in sorted(found["single"], key=lambda row: -row["yes"])
        if row["yes"] or row["kind"] == "attribute"
    ]
    head = ["", "kind", "yes", "no", "unknown", "yes, of known"]
    caption = (
        f"Answers: {len(rows)} of {len(found['single'])} columns occur, the most frequent first"
    )
    made = [Table(head, rows, caption)]
    for name in attribute_names(found):
        for kind, plural in PLURALS.items():
            # All pairs: the chart shows the largest, the table everything.
            pairs = largest_gaps(found, name, kind, len(found["pairs"]))
            rows = [
                [
                    pair["name"],
                    format_number(pair["n_11"] + pair["n_01"]),
                    format_percent(pair["p_yes"]),
                    format_percent(pair["p_no"]),
                    format_points(pair["gap"]),
                    format_points(pair["error"]).lstrip("+"),
                ]
                for pair in pairs
            ]
            if rows:
                head = [
                    kind,
                    "examples",
                    f"{name}: yes",
                    f"{name}: no",
                    "gap, points",
                    "std. error",
                ]
                made.append(Table(head, rows, f"{name}: gaps of {plural}"))
    return made
