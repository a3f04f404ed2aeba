"""Who a filter or weights keep, and what that does to the bias: numbers and text.

One report for a filter, for balancing, for both in turn and for the joint solve, so that they compare.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bias_clip.balancing import association_bias, effective_sample_size
from bias_clip.core.formatting import plain_percent
from bias_clip.curation.captions import Names
from bias_clip.curation.weights import plain

LEAST = 10  # rows of a label within and outside a group; gaps of fewer are noise
RESAMPLES = 200
_Z = 1.96  # 95 %

Columns = Mapping[str, np.ndarray]
Plans = Mapping[str, Float[np.ndarray, " n"]]


def kept_statistics(
    columns: Columns, names: Names, plans: Plans, *, least: int = LEAST, seed: int = 0
) -> dict[str, Any]:
    """Returns what each plan keeps, as JSON values; shares and gaps are from 0 to 1.

    Per plan: `kept`, the sum of the weights over the number of examples; `ess`, the effective share;
    `similarity`, its weighted mean, if there is such a column; `groups` and `labels` with their kept
    rates; `association`, the largest and the mean |gap| of labels between a group and the others, and
    how both `moved` from the data as they are.

    Kept rates have Wilson's interval of 95 %, as if each example were kept by a coin; they have none
    where a weight is above 1. The intervals of association are percentiles over 200 resamples of the
    examples, on which before and after are paired. Only labels with at least `least` examples inside and
    outside a group enter.

    Args:
      columns: 1, 0 or -1 per example for each name; optionally `similarity`.
      names: attributes, labels and proxies.
      plans: weights of each example by the name of the plan.

    Raises: ValueError for weights of another length, or without a positive one.
    """
    rows = len(next(iter(columns.values())))
    for name, weights in plans.items():
        if weights.shape != (rows,) or not (weights >= 0).all() or not weights.any():
            raise ValueError(f"{name}: got weights of shape {weights.shape} for {rows} examples.")
    attributes = _stack(columns, names.attributes, rows)
    labels = _stack(columns, (*names.labels, *names.proxies), rows)
    # First, because every other plan is compared with it.
    before = {"as it is": np.ones(rows), **plans}
    gaps = _association(attributes, labels, before, least=least, seed=seed)
    found: dict[str, Any] = {"rows": rows, "least": least, "plans": {}}
    for plan, weights in before.items():
        found["plans"][plan] = {
            "kept": weights.sum() / rows,
            "ess": effective_sample_size(weights) / rows,
            "similarity": _mean(columns.get("similarity"), weights),
            "groups": _groups(names, attributes, weights),
            "labels": _labels((*names.labels, *names.proxies), labels, weights),
            "association": gaps[plan],
        }
    return plain(found)


def kept_text(found: Mapping[str, Any], *, shown: int = 12) -> str:
    """Returns the report as lines of text."""
    plans = found["plans"]
    lines = [f"{found['rows']:,} examples", ""]
    lines += [
        f"{'':<20}{'kept':>9}{'effective':>11}{'similarity':>12}{'largest gap':>13}{'mean gap':>10}"
        f"{'mean gap moved by (95 %)':>30}"
    ]
    for name, plan in plans.items():
        gap = plan["association"]
        similarity = "" if plan["similarity"] is None else f"{plan['similarity']:.4f}"
        moved = "" if gap["moved_mean"] is None else _interval(gap["moved_mean"])
        lines.append(
            f"{name:<20}{_percent(plan['kept']):>9}{_percent(plan['ess']):>11}{similarity:>12}"
            f"{_percent(gap['largest']):>13}{_percent(gap['mean']):>10}{moved:>30}"
        )
    for name, plan in list(plans.items())[1:]:
        lines += ["", f"{name}: {'kept rate':<30}{'examples':>10}{'kept':>9}{'95 %':>18}"]
        lines += [_line(row) for row in plan["groups"]]
        rest = [row for row in plan["labels"] if row["count"] >= found["least"]]
        lines += [_line(row) for row in sorted(rest, key=lambda row: row["kept"])[:shown]]
    lines += [
        "",
        f"Labels enter the gaps with at least {found['least']} examples on both sides; of labels the least "
        "kept are shown. A group is whom captions or an annotator name, not who a person is.",
    ]
    return "\n".join(lines)


def _groups(names: Names, attributes: np.ndarray, weights: np.ndarray) -> list[dict[str, Any]]:
    sides = ((1, ""), (0, "not "), (-1, "unknown "))
    return [
        {"name": f"{said}{name}", **_rate(weights, attributes[:, k] == side)}
        for k, name in enumerate(names.attributes)
        for side, said in sides
        if (attributes[:, k] == side).any()
    ]


def _labels(names: Sequence[str], labels: np.ndarray, weights: np.ndarray) -> list[dict[str, Any]]:
    has = labels == 1
    return [
        {"name": name, **_rate(weights, has[:, r])}
        for r, name in enumerate(names)
        if has[:, r].any()
    ]


def _rate(weights: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    count, kept = int(rows.sum()), float(weights[rows].mean())
    # Wilson's interval is of a share of ones; weights above 1 are not chances to be kept.
    low, high = (None, None) if weights.max() > 1 else _wilson(kept, count)
    return {"count": count, "kept": kept, "low": low, "high": high}


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval; Wilson: Probable Inference, the Law of Succession, 1927."""
    middle = share + _Z**2 / (2 * count)
    half = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _association(
    attributes: np.ndarray, labels: np.ndarray, plans: Plans, *, least: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Largest and mean |gap| of each plan, and how they moved from the first one."""
    empty = {"largest": None, "mean": None, "labels": 0, "moved_largest": None, "moved_mean": None}
    if not attributes.size or not labels.size:
        return dict.fromkeys(plans, empty)
    cells, counts = _cells(attributes, labels, plans)
    m, c = attributes.shape[1], labels.shape[1]
    s, y = cells[:, :m].astype(np.int8), cells[:, m : m + c].astype(np.int8)
    has = [((s == side).T * counts) @ (y == 1) for side in (1, 0)]
    # Chosen by the data as they are, the same labels for every plan.
    enough = (has[0] >= least) & (has[1] >= least)
    if not enough.any():
        return dict.fromkeys(plans, empty)
    rng = np.random.default_rng(seed)
    # [resamples, cells]: a bootstrap of the examples, by how often each distinct row is drawn.
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    sizes = {}  # [1 + resamples, 2] of each plan: largest and mean, the whole data first
    for p, name in enumerate(plans):
        used = cells[:, m + c + p]
        sizes[name] = np.stack(
            [_sizes(s, y, used * times, enough) for times in np.concatenate([counts[None], drawn])]
        )
    first = next(iter(sizes.values()))
    return {
        name: {
            "largest": values[0, 0],
            "mean": values[0, 1],
            "labels": int(enough.sum()),
            # The same resamples before and after: differences are paired, and their intervals narrower.
            "moved_largest": None if values is first else _moved((values - first)[:, 0]),
            "moved_mean": None if values is first else _moved((values - first)[:, 1]),
        }
        for name, values in sizes.items()
    }


def _cells(
    attributes: np.ndarray, labels: np.ndarray, plans: Plans
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of attributes, labels and all weights, and how often each occurs."""
    # The weights are part of a cell: rows of equal annotations may be weighted differently.
    whole = np.column_stack([attributes, labels, *plans.values()]).astype(np.float64)
    return np.unique(whole, axis=0, return_counts=True)


def _sizes(
    s: np.ndarray, y: np.ndarray, weights: np.ndarray, enough: np.ndarray
) -> tuple[float, float]:
    gaps = np.abs(association_bias(s, y, weights).gap[enough])
    gaps = gaps[np.isfinite(gaps)]
    return (float(gaps.max()), float(gaps.mean())) if len(gaps) else (np.nan, np.nan)


def _moved(values: np.ndarray) -> dict[str, float]:
    # Row 0 is of the data themselves.
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _mean(values: np.ndarray | None, weights: np.ndarray) -> float | None:
    if values is None or not (some := np.isfinite(values)).any():
        return None
    return float((weights[some] @ values[some]) / weights[some].sum())


def _stack(columns: Columns, names: Sequence[str], rows: int) -> np.ndarray:
    found = np.zeros((rows, len(names)), np.int8)
    for j, name in enumerate(names):
        found[:, j] = columns[name]
    return found


def _line(row: Mapping[str, Any]) -> str:
    low, high = row["low"], row["high"]
    between = "" if low is None else f"{_percent(low)} to {_percent(high)}"
    return f"  {row['name']:<34}{row['count']:>10,}{_percent(row['kept']):>9}{between:>18}"


def _interval(moved: Mapping[str, float]) -> str:
    points = [f"{100 * moved[key]:+.2f}" for key in ("value", "low", "high")]
    return f"{points[0]} ({points[1]} to {points[2]})"


def _percent(value: float | None) -> str:
    return plain_percent(value)


def word_shifts(
    texts: Sequence[str], plans: Plans, *, words: int = 50, letters: int = 3
) -> dict[str, Any]:
    """Returns the share of examples with each of the commonest words, as they are and under each plan.

    Words are runs of letters, in lower case; those of fewer than `letters` are left out, because they say
    little. An example counts once per word.

    Args:
      texts: the captions of each example, joined.
      plans: weights of each example by the name of the plan.
    """
    found = [
        {w for w in re.findall(r"[^\W\d_]+", t.casefold()) if len(w) >= letters} for t in texts
    ]
    counts = collections.Counter(word for some in found for word in some)
    # By the word too, so that words of equal counts come in a fixed order.
    common = [word for word, _ in sorted(counts.items(), key=lambda p: (-p[1], p[0]))[:words]]
    # reshape, because without texts the array would be [0] and not [0, words].
    has = np.array([[word in some for word in common] for some in found], bool).reshape(
        -1, len(common)
    )
    every = {"as it is": np.ones(len(texts)), **plans}
    shares = {name: (w @ has) / w.sum() for name, w in every.items()}
    return {
        w: {name: float(share[j]) for name, share in shares.items()} for j, w in enumerate(common)
    }


def words_text(found: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a line per word, the share of examples under each plan."""
    if not found:
        return "no words"
    names = list(next(iter(found.values())))
    lines = [f"{'word':<16}" + "".join(f"{name:>12}" for name in names)]
    lines += [
        f"{word:<16}" + "".join(f"{_percent(shares[name]):>12}" for name in names)
        for word, shares in found.items()
    ]
    return "\n".join(lines)
