"""The report on balancing as text: sentences, and lines of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from bias_clip.core.formatting import plain_percent, plain_points
from bias_clip.report.balancing import (
    SHOWN,
    STAGES,
    free_labels,
    largest_gaps,
    largest_shifts,
    vanished,
)

LIMITS = (
    "What this does not do: only the labels and proxies that are listed are balanced, as far as the "
    "annotations see them; whatever else goes with a group still does, and a model may learn it."
)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Sentences on the effect and the cost of balancing."""
    return [*warnings(found), *effects(found), *costs(found), LIMITS]


def to_text(found: Mapping[str, Any], *, shown: int = SHOWN) -> str:
    """Returns the report as lines of text, with the `shown` most important labels."""
    lines = [f"{found['rows']:,} examples, {found['distinct']:,} distinct rows", ""]
    lines += [*sentences(found), "", f"{'':<34}" + _head()]
    lines += [
        f"{what:<34}" + "".join(f"{cell:>10}" for cell in cells) for what, *cells in headline(found)
    ]
    lines += ["", f"{'group':<24}{'target':>10}" + _head() + f"{'retained':>10}"]
    for row in found["groups"]:
        shares = _cells(plain_percent, [row["target"], *row["share"].values(), row["retained"]])
        lines.append(f"{row['name']:<24}{shares}")
    for group in found["groups"]:
        rows = largest_gaps(found, group["name"], shown)
        if rows:
            lines += ["", f"{'gap, points':<24}{'count':>10}" + _head() + f"   {group['name']}"]
        for row in rows:
            gaps = _cells(plain_points, list(row["gap"].values()))
            lines.append(f"{shown_name(row):<24}{row['count']:>10,}{gaps}")
    rows = largest_shifts(found, shown)
    if rows:
        lines += ["", f"{'share':<24}{'count':>10}" + _head() + f"{'kept':>10}"]
    for row in rows:
        shares = _cells(plain_percent, [*row["share"].values(), row["kept"]])
        lines.append(f"{shown_name(row):<24}{row['count']:>10,}{shares}")
    return "\n".join(lines)


def headline(found: Mapping[str, Any]) -> list[list[str]]:
    """The few headline numbers: a name, and a text per stage."""
    rows = []
    for key in ("representation", "association", "mean_association"):
        what = ("mean " if key.startswith("mean") else "largest ") + key.split("_")[-1]
        sizes = [plain_points(found["largest"][stage][key]) for stage in STAGES]
        rows.append([f"{what} bias, points", *sizes])
    sizes = [found["rows"], found["weights"]["effective"], found["draw"]["effective"]]
    return [*rows, ["effective sample size", *(f"{size or 0:,.0f}" for size in sizes)]]


def effects(found: Mapping[str, Any]) -> list[str]:
    """The effect of balancing: one sentence per group and one on labels."""
    said = []
    for row in found["groups"]:
        share = {stage: plain_percent(row["share"][stage]) for stage in STAGES}
        said.append(
            f"Of the {row['known']:,} examples where {row['name']!r} is known, {share['before']} are yes. "
            f"With the weights it is {share['weighted']}, in the draw {share['drawn']}; "
            f"the target is {plain_percent(row['target'])}."
        )
    # The label that is worst before need not be the one that is worst after.
    first, last = found["largest"]["before"], found["largest"]["weighted"]
    if first["pair"] is not None:
        said.append(
            f"The balanced label whose share differed most between groups was {first['pair']}, by "
            f"{plain_points(first['association'])} points. The most that is left is "
            f"{plain_points(last['association'])} points with the weights ({last['pair']}) and "
            f"{plain_points(found['largest']['drawn']['association'])} in the draw."
        )
    if found["solution"]["feasible"]:
        said.append("All constraints hold within their tolerances.")
    return said


def costs(found: Mapping[str, Any]) -> list[str]:
    """The cost of balancing: data, and changed shares of labels."""
    weights, draw, rows = found["weights"], found["draw"], found["rows"]
    # `once`: without copies, "n copies in all" would only repeat the number of examples.
    share, once = (weights["effective"] or 0) / rows, draw["kept"] == draw["copies"]
    said = [
        f"The cost: weights are {weights['mean']:.3g} on average, {plain_percent(weights['at_zero'])} of the "
        f"examples have weight 0 and {plain_percent(weights['at_cap'])} the largest, "
        f"{found['problem']['cap']:g}. The weighted data vary like {plain_percent(share)} as many equally "
        f"weighted examples. The draw with seed {draw['seed']} takes {draw['kept']:,} of the {rows:,} "
        "examples" + ("" if once else f", {draw['copies']:,} copies in all") + "."
    ]
    moved = largest_shifts(found, 1)
    if moved:
        row = moved[0]
        before, after = (plain_percent(row["share"][at]) for at in ("before", "weighted"))
        # Where labels are rare, nothing that a reader sees has moved.
        if before != after:
            said.append(
                f"Balancing does not keep the shares of labels: that of {row['name']!r} moves most, from "
                f"{before} to {after}."
            )
    return said


def warnings(found: Mapping[str, Any]) -> list[str]:
    """Warnings that a reader must not miss; empty if all is well."""
    said = []
    if not found["solution"]["feasible"]:
        most = found["largest_eta"]
        # Known only where it was searched for, because the search solves many times.
        hint = "" if most is None else f" The largest eta at which all hold is {most:.4g}."
        said.append(
            f"NOT FEASIBLE: {len(found['solution']['violated'])} constraints do not hold at eta "
            f"{found['solution']['eta']:.4g}.{hint} Lower eta, raise the cap or the penalty, or widen "
            "the tolerances: " + "; ".join(found["solution"]["violated"][:5]) + "."
        )
    if found["saturated"]:
        said.append(
            f"{len(found['saturated'])} multipliers are at the penalty {found['problem']['penalty']:g}; "
            "their constraints may be violated."
        )
    # A label without weight cannot be learned: more than a cost, so a warning.
    gone = vanished(found)
    if gone:
        said.append(f"VANISHED: {len(gone)} labels all but lose their examples: {_some(gone)}.")
    free, gap = free_labels(found)
    if free:
        said.append(
            f"{len(free)} labels are not balanced and still differ between groups, by up to "
            f"{plain_points(gap)} points; the largest association bias leaves them out: {_some(free)}."
        )
    return said


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shown_name(row: Mapping[str, Any]) -> str:
    """A label's name, and whether it is a proxy, or not balanced."""
    notes = ["proxy"] * (row["kind"] == "proxy") + ["free"] * (not row["constrained"])
    return row["name"] + (f" ({', '.join(notes)})" if notes else "")


def _head() -> str:
    return "".join(f"{stage:>10}" for stage in STAGES)


def _cells(show, values) -> str:
    return "".join(f"{show(value):>10}" for value in values)
