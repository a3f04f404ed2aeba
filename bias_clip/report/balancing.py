"""The effect and the cost of balancing: before, with the weights, and after a draw.

All numbers come from the count table, so the data is not read again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bias_clip.balancing import (
    CountTable,
    Problem,
    Solution,
    association_bias,
    effective_sample_size,
    prevalence,
)
from bias_clip.balancing.problem import constraint_name
from bias_clip.curation.weights import Drawn, measured_groups, plain

STAGES = ("before", "weighted", "drawn")
SHOWN = 25  # labels in the text and in a chart
# Share of the weight that a label would have by its frequency; below it, the label has vanished.
VANISHED = 0.01
AT_BOUND = 1e-6  # of the cap: closer weights are at 0, or at the cap
BINS = 20


def statistics(
    table: CountTable,
    problem: Problem,
    solution: Solution,
    drawn: Drawn,
    *,
    largest_eta: float | None = None,
) -> dict[str, Any]:
    """Returns everything that the report shows, as JSON values; shares and gaps are from 0 to 1.

    `groups`: for each attribute and intersection its share at each stage (where known), the `bias`
    (that share minus the target), and the retained share, see `solve`. `pairs`: for each group and
    label P(label | group), P(label | not group) and their difference `gap`. `labels`: their shares,
    their `shift`, the weight `kept` relative to what their share would have (1 is unchanged), and the
    number drawn. `largest`: the largest biases of each stage; association covers labels and proxies
    that occur and have a constraint. None marks a number over no examples.

    Args:
      largest_eta: of `max_eta`, where it was asked for.
    """
    # Rounding may leave the bounds by an ulp, and the training table is clipped too.
    weights = np.clip(solution.weights, 0, problem.cap)
    stages = {"before": table.counts, "weighted": weights * table.counts, "drawn": drawn.copies}
    stages = {stage: values.astype(np.float64) for stage, values in stages.items()}
    groups = _groups(table, problem, solution, stages)
    pairs = _pairs(table, problem, stages)
    found = {
        "rows": table.counts.sum(),
        "distinct": len(table.counts),
        "problem": {
            key: getattr(problem, key) for key in ("eta", "cap", "penalty", "tolerance", "unknown")
        },
        "solution": {
            key: getattr(solution, key)
            for key in ("eta", "feasible", "violated", "max_v", "gap", "kkt_residual")
        },
        "largest_eta": largest_eta,
        "largest": {stage: _largest(groups, pairs, stage) for stage in STAGES},
        "groups": groups,
        "pairs": pairs,
        "labels": _labels(table, problem, solution, stages),
        "weights": _weights(table, problem, weights),
        "draw": _draw(drawn),
        "saturated": _saturated(problem, solution),
    }
    return plain(found)


def vanished(found: Mapping[str, Any]) -> list[str]:
    """Labels that balancing nearly removes: almost no weight is left, or no example was drawn."""
    gone = [row for row in found["labels"] if row["count"]]
    return [row["name"] for row in gone if row["kept"] < VANISHED or not row["drawn_count"]]


def free_labels(found: Mapping[str, Any]) -> tuple[list[str], float | None]:
    """Labels that occur without a constraint, and their largest gap with the weights."""
    names = [row["name"] for row in found["labels"] if row["count"] and not row["constrained"]]
    gaps = [p["gap"]["weighted"] for p in found["pairs"] if p["name"] in names]
    return names, max((abs(gap) for gap in gaps if gap is not None), default=None)


def largest_gaps(found: Mapping[str, Any], group: str, shown: int = SHOWN) -> list[dict[str, Any]]:
    """Returns the pairs of a group that have a gap, the largest gap before balancing first."""
    pairs = [p for p in found["pairs"] if p["group"] == group and p["gap"]["before"]]
    return sorted(pairs, key=lambda p: -abs(p["gap"]["before"]))[:shown]


def largest_shifts(found: Mapping[str, Any], shown: int = SHOWN) -> list[dict[str, Any]]:
    """Returns the labels that occur, the largest change of share first."""
    rows = [row for row in found["labels"] if row["shift"]["weighted"] is not None and row["count"]]
    return sorted(rows, key=lambda row: -abs(row["shift"]["weighted"]))[:shown]


def _groups(table, problem, solution, stages) -> list[dict[str, Any]]:
    values = measured_groups(problem, table)
    share = {stage: prevalence(values, weights) for stage, weights in stages.items()}
    return [
        {
            **{"name": name, "target": target},
            "known": table.counts[values[:, k] >= 0].sum(),
            "share": {stage: share[stage][k] for stage in STAGES},
            "bias": {stage: share[stage][k] - target for stage in STAGES},
            "retained": solution.retained[name],
        }
        for k, (name, target) in enumerate(zip(problem.groups, problem.targets, strict=True))
    ]


def _pairs(table, problem, stages) -> list[dict[str, Any]]:
    values = measured_groups(problem, table)
    # The same function at all three stages; only the weights of the rows differ.
    found = {s: association_bias(values, table.labels, weights) for s, weights in stages.items()}
    has = (table.counts * (values >= 0).T) @ (table.labels == 1)
    return [
        {
            **{"group": group, "name": name, "kind": _kind(problem, name), "count": has[k, r]},
            # An infinite tolerance is no constraint.
            "constrained": bool(np.isfinite(problem.eps_association[r])),
            **{
                key: {stage: getattr(found[stage], key)[k, r] for stage in STAGES}
                for key in ("inside", "outside", "gap")
            },
        }
        for k, group in enumerate(problem.groups)
        for r, name in enumerate(problem.labels)
    ]


def _labels(table, problem, solution, stages) -> list[dict[str, Any]]:
    share = {stage: prevalence(table.labels, weights) for stage, weights in stages.items()}
    has = {stage: weights @ (table.labels == 1) for stage, weights in stages.items()}
    # The weight of a label whose examples all had the mean weight eta; 1e-300 only avoids 0 / 0.
    fair = np.maximum(solution.eta * has["before"], 1e-300)
    return [
        {
            **{"name": name, "kind": _kind(problem, name), "count": int(has["before"][r])},
            "constrained": bool(np.isfinite(problem.eps_association[r])),
            "share": {stage: share[stage][r] for stage in STAGES},
            "shift": {stage: share[stage][r] - share["before"][r] for stage in STAGES},
            "kept": has["weighted"][r] / fair[r] if has["before"][r] else None,
            "drawn_count": int(has["drawn"][r]),
        }
        for r, name in enumerate(problem.labels)
    ]


def _kind(problem: Problem, name: str) -> str:
    return "proxy" if name in problem.proxies else "label"


def _largest(groups, pairs, stage: str) -> dict[str, Any]:
    """Absolute values; a stage without examples on one side has no number, which differs from 0."""
    bias = [abs(row["bias"][stage]) for row in groups if np.isfinite(row["bias"][stage])]
    gaps = [
        (abs(row["gap"][stage]), f"{row['name']} ({row['group']})")
        for row in pairs
        if row["constrained"] and row["count"] and np.isfinite(row["gap"][stage])
    ]
    largest, pair = max(gaps, default=(None, None))
    return {
        "representation": max(bias, default=None),
        "association": largest,
        "pair": pair,
        "mean_association": float(np.mean([gap for gap, _ in gaps])) if gaps else None,
    }


def _weights(table: CountTable, problem: Problem, weights: np.ndarray) -> dict[str, Any]:
    counts, margin = table.counts, AT_BOUND * problem.cap
    # The rows are distinct ones: `counts` makes the bars numbers of examples.
    bars, edges = np.histogram(weights, BINS, range=(0, problem.cap), weights=counts)
    return {
        **{"mean": counts @ weights / counts.sum(), "min": weights.min(), "max": weights.max()},
        "at_zero": counts[weights <= margin].sum() / counts.sum(),
        "at_cap": counts[weights >= problem.cap - margin].sum() / counts.sum(),
        "effective": effective_sample_size(weights, counts),
        "histogram": {"edges": edges, "rows": bars},
    }


def _draw(drawn: Drawn) -> dict[str, Any]:
    copies, squares = int(drawn.copies.sum()), int(drawn.squares.sum())
    # Kish's (sum w)^2 / sum w^2; Python integers, because the square of a count may exceed 64 bits.
    effective = copies**2 / squares if squares else None
    return {
        "seed": drawn.seed,
        "draw": drawn.draw,
        "kept": drawn.kept.sum(),
        "copies": copies,
        "effective": effective,
    }


def _saturated(problem: Problem, solution: Solution) -> list[dict[str, Any]]:
    return [
        {
            "constraint": constraint_name(problem, k, r),
            "moment": solution.moments[k, r],
            "tolerance": solution.tolerances[k, r],
        }
        for k, r in np.argwhere(solution.saturated).tolist()
    ]
