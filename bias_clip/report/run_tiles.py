"""The big numbers of the evaluators by group: how even a model, or its data, are."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bias_clip.core.formatting import format_number, format_percent, format_points, is_number


class Number(NamedTuple):
    """A big number: what it is called, its value, what to hold it against."""

    name: str
    value: str
    against: str


Content = tuple[list[Number], str]  # numbers, and how to read them


def groups_tile(metrics: Mapping, details: Mapping) -> Content:
    """Accuracy of the worst group, beside that of all."""
    rows = details["by_group"]
    worst = "no group has enough pictures" if details["worst"] is None else str(details["worst"])
    mean = format_percent(metrics.get("acc_mean"))
    numbers = [
        Number("worst group", format_percent(metrics.get("acc_worst")), worst),
        Number("all pictures", format_percent(metrics.get("acc")), f"mean over groups {mean}"),
    ]
    return numbers, (
        f"Pictures called by their own name, by group ({_names(rows)}); the best is "
        f"{_points(metrics.get('acc_range'))} above the worst.{_absent(metrics)}"
    )


def parity_tile(metrics: Mapping, details: Mapping) -> Content:
    """The largest and mean gap of how often a word is chosen."""
    numbers = [
        Number("largest gap", _points(metrics.get("parity_max")), _largest(details["classes"])),
        Number("mean gap", _points(metrics.get("parity_mean")), "even 0"),
    ]
    groups = details["by_group"]
    sign = f" (+: more for {groups[1]['name']})" if len(groups) == 2 else ""
    return numbers, (
        f"How far the share of pictures that are called a word, of {len(details['classes'])} to "
        f"choose from, differs between {_names(groups)}{sign}. The truth is not asked "
        f"for.{_absent(metrics)}"
    )


def representation_tile(metrics: Mapping, details: Mapping) -> Content:
    """Which of two words pictures of neither are nearer to."""
    first, second = details["groups"]
    low, high = (format_percent(metrics.get(f"preference_{end}")) for end in ("low", "high"))
    numbers = [
        Number(f"prefers “{second}”", format_percent(metrics.get("preference")), "even 50\u202f%"),
        Number("representation bias", _points(metrics.get("representation")), "even 0"),
    ]
    return numbers, (
        f"Share of {format_number(metrics.get('images'))} pictures nearer to “{second}” than to "
        f"“{first}” (95\u202f%: {low} to {high}), and its distance from a half."
    )


def association_tile(metrics: Mapping, details: Mapping) -> Content:
    """The largest and mean gap over pairs of words."""
    rows = [{**row, "name": f"{row['first']} / {row['second']}"} for row in details["pairs"]]
    numbers = [
        Number("largest gap", _points(metrics.get("pairs_max")), _largest(rows)),
        Number("mean gap", _points(metrics.get("pairs_mean")), "even 0"),
    ]
    return numbers, (
        f"How much more often pictures are nearer to the first word of a pair than to the second, "
        f"{details['sign']}; {len(rows)} pairs.{_absent(metrics)}"
    )


def skew_tile(metrics: Mapping, details: Mapping) -> Content:
    """How far the first pictures found are from the shares wanted."""
    target, k = details["target"], details["ks"][0]
    over = metrics.get(f"maxskew_{target}_{k}")
    times = f"{math.exp(over):.2f} times its share" if is_number(over) else ""
    numbers = [
        Number(f"max skew, first {k}", _short(over), times),
        Number(f"NDKL, first {k}", _short(metrics.get(f"ndkl_{target}_{k}")), "as wanted 0"),
    ]
    wanted = "as much of each" if target == "uniform" else "as much of each as all pictures show"
    return numbers, (
        f"Of the first {k} pictures found for a search, the mean over "
        f"{format_number(metrics.get('queries'))} searches: by how much the most favoured of "
        f"{_listed(details['group_names'])} is shown too often, as a logarithm. Wanted: {wanted}."
    )


def data_bias_tile(metrics: Mapping, details: Mapping) -> Content:
    """Bias of the records themselves."""
    groups = details["by_group"]
    off = [row for row in groups if is_number(row["prevalence"])]
    row = max(off, key=lambda g: abs(g["prevalence"] - g["target"]), default=None)
    against = "" if row is None else (
        f"{row['name']} {format_percent(row['prevalence'])}, wanted {format_percent(row['target'])}"
    )  # fmt: skip
    mean = _points(metrics.get("association_mean"))
    numbers = [
        Number("representation bias", _points(metrics.get("representation")), against),
        Number("largest gap", _points(metrics.get("association_max")), f"mean over labels {mean}"),
    ]
    return numbers, (
        f"Of the data, not of the model: {_names(groups)} in "
        f"{format_number(metrics.get('images'))} records, and how far the share of a label differs "
        f"between a group and the others ({format_number(metrics.get('labels'))} labels)."
    )


GROUP_TILES: Mapping[str, Callable[[Mapping, Mapping], Content]] = {
    "representation": representation_tile,
    "association": association_tile,
    "parity": parity_tile,
    "skew": skew_tile,
    "groups": groups_tile,
    "data_bias": data_bias_tile,
}


def _points(value: object) -> str:
    """A distance of shares, in percentage points, without a sign: 12.3 pp."""
    return (
        f"{format_points(value).lstrip('+')}\u202fpp" if is_number(value) else format_points(value)
    )


def _short(value: object) -> str:
    return f"{value:.2f}" if is_number(value) else format_number(value)


def _largest(rows: Sequence[Mapping]) -> str:
    """The name of the row of the largest gap, and the gap with its sign."""
    known = [row for row in rows if is_number(row["gap"])]
    row = max(known, key=lambda row: abs(row["gap"]), default=None)
    return "" if row is None else f"{row['name']} {format_points(row['gap'])}"


def _names(rows: Sequence[Mapping]) -> str:
    return _listed([str(row["name"]) for row in rows])


def _listed(names: Sequence[str]) -> str:
    """Up to four names, then how many more."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _absent(metrics: Mapping) -> str:
    count = metrics.get("absent", 0)
    return f" {format_number(count)} of the groups have no picture." if count else ""
