"""Refuses problems that could only be balanced by deleting data, before or after solving."""

import numpy as np

from bias_clip.balancing.counts import CountTable
from bias_clip.balancing.problem import Problem, group_values


def check_groups(table: CountTable, problem: Problem) -> None:
    """Raises unless the table has the problem's columns, rows, utility, and both sides of a target.

    If no row (or every known row) is in a group, no weights change its share. The solver would then
    give weight 0 to all rows where the group is known, which violates no constraint.
    """
    shape = (table.attributes.shape[1], table.labels.shape[1])
    if shape != (len(problem.attributes), len(problem.labels)):
        raise ValueError(
            f"table: got {shape[0]} attributes and {shape[1]} labels; expected the problem's "
            f"{len(problem.attributes)} {problem.attributes} and {len(problem.labels)}."
        )
    if not table.counts.sum():
        raise ValueError("table: got no rows; expected some.")
    if not table.utility.any():
        raise ValueError("utility: got 0 for all rows; expected some above 0.")
    values = group_values(problem, table.attributes)
    for k, (name, target) in enumerate(zip(problem.groups, problem.targets, strict=True)):
        if np.isinf(problem.eps_representation[k]):
            continue
        # Under "unmasked" an unknown row counts as outside of the group.
        known = values[:, k] >= 0 if problem.unknown == "masked" else np.ones(len(values), bool)
        inside = int(table.counts[values[:, k] == 1].sum())
        total = int(table.counts[known].sum())
        if (inside == 0 and target > 0) or (inside == total and target < 1):
            raise ValueError(
                f"group {name!r}: got {inside} of {total} rows where it is known; only zero weights "
                f"would meet the target {target:g}. Leave it out, or annotate more rows."
            )


def retained_shares(
    table: CountTable, problem: Problem, weights: np.ndarray, eta: float
) -> dict[str, float]:
    """The retained share of each constrained group and label, as `m4.solve` defines it."""
    values = group_values(problem, table.attributes)
    counts = table.counts / table.counts.sum()
    shares = {}
    for k, name in enumerate(problem.groups):
        rows = values[:, k] >= 0
        # Two ways to lose a group: little weight in all, or all weight on few of its rows.
        shares[name] = min(
            _weight_share(counts, weights, rows, eta), _effective_share(counts, weights, rows)
        )
    known = (values >= 0).any(1)
    for r, name in enumerate(problem.labels):
        # A label may be counted only where some group is known: elsewhere no constraint touches its rows.
        rows = known & (table.labels[:, r] == 1)
        if np.isfinite(problem.eps_association[r]):
            shares[f"label {name}"] = _weight_share(counts, weights, rows, eta)
    return shares


def check_retained(shares: dict[str, float], least: float) -> None:
    """Raises if any share is below `least`; NaN shares, of empty groups, pass."""
    if not 0 <= least <= 1:
        raise ValueError(f"min_retained: got {least}; expected a share in [0, 1].")
    lost = sorted((share, name) for name, share in shares.items() if share < least)
    if lost:
        worst = ", ".join(f"{name} {share:.2g}" for share, name in lost[:8])
        raise ValueError(
            f"min_retained: got {len(lost)} below {least:g}: {worst}. Balancing would meet the targets by "
            "deleting these rows. Make the targets agree; give such labels a wider or infinite "
            "eps_association; lower eta; or pass the smaller min_retained to accept it."
        )


def _weight_share(counts, weights, rows, eta: float) -> float:
    before = counts[rows].sum()
    return float(counts[rows] @ weights[rows] / (eta * before)) if before else float("nan")


def _effective_share(counts, weights, rows) -> float:
    before, total = counts[rows].sum(), counts[rows] @ weights[rows]
    if not before:
        return float("nan")
    return float(total**2 / (counts[rows] @ weights[rows] ** 2 * before)) if total else 0.0
