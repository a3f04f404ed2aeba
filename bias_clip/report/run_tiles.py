"""The headline numbers of each evaluator and how to read them: its description, filled with values."""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bias_clip.core.formatting import (
    NOTHING,
    format_number,
    format_percent,
    format_points,
    format_unit,
    is_number,
    spaced,
)
from bias_clip.evals.headlines import against, describe, find_metric, headline_metrics, two_groups
from bias_clip.evals.metrics import family_of
from bias_clip.evals.results import EvalResult
from bias_clip.report.interval_plots import format_interval


class Number(NamedTuple):
    """A headline number: its name, its value, and what to compare it with."""

    name: str
    value: str
    against: str


class Tile(NamedTuple):
    """The headline numbers of one evaluator, and how to read them."""

    title: str
    kind: str
    topic: str
    numbers: list[Number]
    note: str


def make_tile(name: str, result: EvalResult) -> Tile | None:
    """The tile of an evaluator; None if none of its metrics is a headline."""
    metrics, details = result
    description, numbers = describe(details), []
    for key, metric in headline_metrics(result).items():
        family, _ = family_of(key, description.metrics) or (key, {})
        special = AGAINST.get((details["kind"], family))
        held = against(metric, metrics) if special is None else special(metrics, details)
        # Only the first letter: `capitalize` would lower the others, as in "NDKL".
        label = metric.label[:1].upper() + metric.label[1:]
        held = " · ".join(part for part in (interval_of(key, metric.unit, details), held) if part)
        numbers.append(Number(label, format_unit(metrics[key], metric.unit), held))
    if not numbers:
        return None
    note = (
        description.reads.format_map(_words(metrics, details)) + _sign(details) + _absent(metrics)
    )
    return Tile(spaced(name), details["kind"], description.topic, numbers, note)


def interval_of(key: str, unit: str, details: Mapping) -> str:
    """The interval of a metric, such as "[42.0, 46.2]"; empty where the evaluator gave none."""
    ends = details.get("intervals", {}).get(key)
    return format_interval(ends[0], ends[1], unit) if ends else ""


def _words(metrics: Mapping, details: Mapping) -> Mapping[str, str]:
    """The values of a description's placeholders: metric values, or names from the details."""
    first, second = [f"“{name}”" for name in two_groups(details)] or ("one", "the other")
    words = {key: format_unit(v, find_metric(key, details).unit) for key, v in metrics.items()}
    words |= {"first": first, "second": second, "groups": _groups(details)}
    words |= {key: str(details[key]) for key in ("sign", "target") if key in details}
    # A description may speak of a metric that an older run did not write.
    return collections.defaultdict(lambda: NOTHING, words)


def _worst_group(metrics: Mapping, details: Mapping) -> str:
    worst = details["worst"]
    return "no group has enough images" if worst is None else str(worst)


def _largest_word(metrics: Mapping, details: Mapping) -> str:
    return _largest(details["classes"])


def _largest_pair(metrics: Mapping, details: Mapping) -> str:
    return _largest(
        [{**row, "name": f"{row['first']} / {row['second']}"} for row in details["pairs"]]
    )


def _times_its_share(metrics: Mapping, details: Mapping) -> str:
    # Skew is ln(share / target), so exp(skew) is how many times its share a group has.
    over = metrics.get(f"maxskew_{details['target']}_{details['ks'][0]}")
    return f"{math.exp(over):.2f} times its share" if is_number(over) else ""


def _farthest_group(metrics: Mapping, details: Mapping) -> str:
    known = [row for row in details["by_group"] if is_number(row["prevalence"])]
    row = max(known, key=lambda g: abs(g["prevalence"] - g["target"]), default=None)
    if row is None:
        return ""
    share, target = format_percent(row["prevalence"]), format_percent(row["target"])
    return f"{row['name']} {share}, target {target}"


# The text beside a headline when the details say more than a chance level.
AGAINST: Mapping[tuple[str, str], Callable[[Mapping, Mapping], str]] = {
    ("groups", "acc_worst"): _worst_group,
    ("parity", "parity_max"): _largest_word,
    ("association", "pairs_max"): _largest_pair,
    ("data_bias", "representation"): _farthest_group,
    ("skew", "maxskew_{target}_{k}"): _times_its_share,
}


def _largest(rows: Sequence[Mapping]) -> str:
    """The name of the row with the largest gap, and the signed gap."""
    # A word whose groups are too small has no gap.
    known = [row for row in rows if is_number(row["gap"])]
    row = max(known, key=lambda row: abs(row["gap"]), default=None)
    return "" if row is None else f"{row['name']} {format_points(row['gap'])}"


def _groups(details: Mapping) -> str:
    """The names of up to four groups, then the number of the others."""
    rows = details.get("by_group") or details.get("group_names") or details.get("groups") or ()
    names = [str(row["name"] if isinstance(row, Mapping) else row) for row in rows]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _sign(details: Mapping) -> str:
    """The meaning of a positive gap, if an evaluator has signed gaps of words."""
    rows = details.get("by_group", ())
    if details.get("kind") != "parity" or len(rows) != 2:
        return ""
    return f" A positive gap means more often for {rows[1]['name']}."


def _absent(metrics: Mapping) -> str:
    count = metrics.get("absent", 0)
    return f" {format_number(count)} of the groups have no image." if count else ""
