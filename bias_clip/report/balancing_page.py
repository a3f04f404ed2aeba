"""The report on balancing as a picture, and as a page with the words, the picture and all numbers."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bias_clip.report.balancing import SHOWN, STAGES, largest_gaps, largest_shifts
from bias_clip.report.balancing_text import (
    LIMITS,
    costs,
    effects,
    headline,
    percent,
    points,
    shown_name,
    warnings,
)

COLOURS = {"before": "#b0b0b0", "weighted": "#3b6fb6", "drawn": "#e08a3c"}
PLOTTED_GROUPS = 4  # the others are in the tables

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
svg { width: 100%; height: auto }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.warning { background: #fdf0d5; border-left: 4px solid #c8553d; padding: .5rem 1rem }
.big td { font-size: 18px }
"""


def plot(found: Mapping[str, Any], *, shown: int = SHOWN) -> Any:
    """Draws what differs between groups, before and after, and what it costs; a matplotlib figure."""
    from matplotlib.figure import Figure

    groups = found["groups"][:PLOTTED_GROUPS]
    gaps = {row["name"]: largest_gaps(found, row["name"], shown) for row in groups}
    heights = [max(len(rows), 3) + 3 for rows in gaps.values()]
    figure = Figure(figsize=(13, max(8.5, 0.27 * sum(heights) + 1)), dpi=100, layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1.25, 1])
    left = grid[0].subgridspec(len(groups), 1, height_ratios=heights)
    axes = None
    for i, (name, rows) in enumerate(gaps.items()):
        axes = figure.add_subplot(left[i], sharex=axes)
        _draw_gaps(axes, rows, name, legend=i == 0)
    moved = largest_shifts(found, 12)
    right = grid[1].subgridspec(3, 1, height_ratios=[3 + len(found["groups"]), 7, 4 + len(moved)])
    _draw_groups(figure.add_subplot(right[0]), found["groups"])
    _draw_weights(figure.add_subplot(right[1]), found["weights"])
    _draw_shifts(figure.add_subplot(right[2]), moved)
    return figure


def to_html(found: Mapping[str, Any], *, shown: int = SHOWN) -> str:
    """Returns one page that needs nothing else: sentences, the plot and the tables."""
    alarms = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in warnings(found))
    said = "".join(f"<p>{html.escape(text)}</p>" for text in [*effects(found), *costs(found)])
    first = _table(["", *STAGES], headline(found), "big")
    details = _table(
        ["group", "target", *STAGES, "retained"],
        [
            [row["name"], *map(percent, [row["target"], *row["share"].values(), row["retained"]])]
            for row in found["groups"]
        ],
    )
    for group in found["groups"]:
        rows = largest_gaps(found, group["name"], len(found["pairs"]))
        cells = [[shown_name(p), f"{p['count']:,}", *map(points, p["gap"].values())] for p in rows]
        details += _table([f"gaps of {group['name']}, points", "examples", *STAGES], cells)
    rows = largest_shifts(found, len(found["labels"]))
    cells = [
        [shown_name(r), f"{r['count']:,}", *map(percent, [*r["share"].values(), r["kept"]])]
        for r in rows
    ]
    details += _table(["shares of labels", "examples", *STAGES, "weight kept"], cells)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>What balancing does</title>'
        f"<style>{_STYLE}</style><h1>What balancing does, and what it costs</h1>{alarms}{first}"
        f"{said}{_svg(plot(found, shown=shown))}<p>{html.escape(LIMITS)}</p>"
        f"<details><summary>All numbers</summary>{details}</details></html>\n"
    )


def _svg(figure: Any) -> str:
    """The figure as an element of a page, the same for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "balance"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    if not rows:
        return ""
    first = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="{kind}"><tr>{first}</tr>{body}</table>'


def _draw_gaps(axes: Any, pairs: Sequence[Mapping[str, Any]], group: str, *, legend: bool) -> None:
    """A line a label, from its gap before to its gap with the weights; 0 is no association."""
    axes.set_title(f"labels: share among {group!r} minus share among the others", fontsize=11)
    if not pairs:
        axes.text(0.5, 0.5, "no differences", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    places = np.arange(len(pairs))
    at = {s: np.asarray([_100(p["gap"][s]) for p in pairs]) for s in STAGES}
    axes.axvline(0, color="#444444", linewidth=1, zorder=0)
    axes.hlines(places, at["before"], at["weighted"], color="#dddddd", linewidth=3, zorder=1)
    for stage, marker in zip(STAGES, "o|D", strict=True):
        style = {"s": 90, "linewidth": 2.5} if marker == "|" else {"s": 40 if marker == "o" else 14}
        axes.scatter(
            at[stage], places, color=COLOURS[stage], marker=marker, label=stage, zorder=3, **style
        )
    axes.set_yticks(places, [shown_name(p) for p in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlabel("difference, percentage points; 0 is no association")
    if legend:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.04 + 0.4 / len(pairs)), ncols=3, frameon=False
        )


def _draw_groups(axes: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    """The share of each group at each stage, and the target as a line across."""
    places, height = np.arange(len(groups)), 0.26
    for i, stage in enumerate(STAGES):
        shares = [_100(row["share"][stage]) for row in groups]
        bars = axes.barh(
            places + (i - 1) * height, shares, height, color=COLOURS[stage], label=stage
        )
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    for place, row in zip(places, groups, strict=True):
        label = "target" if place == 0 else None
        axes.vlines(100 * row["target"], place - 0.42, place + 0.42, color="black", label=label)
    axes.set_yticks(places, [row["name"] for row in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(0, 145)  # beyond 100 is the legend
    axes.set_xticks(range(0, 101, 25))
    axes.set_title("share of each group where it is known, %", fontsize=11)
    axes.legend(loc="center right", frameon=False, fontsize=9)


def _draw_weights(axes: Any, weights: Mapping[str, Any]) -> None:
    """How many examples have which weight; the counts on a logarithmic axis."""
    edges, rows = np.asarray(weights["histogram"]["edges"]), weights["histogram"]["rows"]
    axes.bar(edges[:-1], rows, np.diff(edges), align="edge", color=COLOURS["weighted"])
    axes.axvline(weights["mean"], color="black", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_title(
        f"examples by weight: {100 * weights['at_zero']:.1f}% at 0, "
        f"{100 * weights['at_cap']:.1f}% at the cap",
        fontsize=11,
    )
    axes.set_xlabel(f"weight; dashed: the mean, {weights['mean']:.3g}")
    axes.set_ylabel("examples")


def _draw_shifts(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """What balancing does to the shares of the labels themselves."""
    axes.set_title("labels whose own share moves most, points", fontsize=11)
    if not rows:
        axes.text(0.5, 0.5, "no labels", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    places = np.arange(len(rows))
    for i, stage in enumerate(STAGES[1:]):
        moved = [_100(row["shift"][stage]) for row in rows]
        axes.barh(places + 0.36 * (i - 0.5), moved, 0.36, color=COLOURS[stage], label=stage)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(places, [shown_name(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(loc="best", frameon=False, fontsize=9)


def _100(share: float | None) -> float:
    return float("nan") if share is None else 100 * share
