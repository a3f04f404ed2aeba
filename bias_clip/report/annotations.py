"""Statistics of a table of annotations: counts, shares, and associations with each attribute.

Counts of the parts of a table are added, so only one part is in memory.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from bias_clip.core.formatting import plain_percent
from bias_clip.curation.captions import NO, UNKNOWN, YES, Names

SHOWN = 20  # labels in the text and in a chart
VALUES = (YES, NO, UNKNOWN)
PLURALS = {"label": "labels", "proxy": "proxies"}


class Counts(NamedTuple):
    """Counts of each value, and of each pair of values of an attribute and another column.

    The last axes are in the order of `VALUES`.

    Attributes:
      single: counts of all attributes, labels and proxies, in this order.
      pairs: counts of each attribute with each label or proxy.
    """

    single: Int64[np.ndarray, "k 3"]
    pairs: Int64[np.ndarray, "m c 3 3"]


def count(columns: Mapping[str, np.ndarray], names: Names) -> Counts:
    """Counts the values in one part of a table; `add` adds the counts of several parts.

    Raises: ValueError for a value that is none of yes (1), no (0) and unknown (-1).
    """
    every = [name for kind in names for name in kind]
    wrong = [name for name in every if not np.isin(columns[name], VALUES).all()]
    if wrong:
        raise ValueError(f"columns {wrong} have values other than 1, 0 and -1 (unknown).")
    # [k, 3, n]; a product in float64 is fast, and its sums of ones are exact
    hot = np.asarray([[columns[name] == value for value in VALUES] for name in every], np.float64)
    m, rows = len(names.attributes), hot.shape[-1]
    # [3 m, 3 c]: one product counts every pair of values of every pair of columns.
    flat = hot[:m].reshape(3 * m, rows) @ hot[m:].reshape(-1, rows).T
    # To [m, c, 3, 3]: attribute, other column, value of the first, value of the second.
    pairs = flat.reshape(m, 3, len(every) - m, 3).transpose(0, 2, 1, 3)
    return Counts(hot.sum(axis=-1).astype(np.int64), pairs.astype(np.int64))


def add(first: Counts, second: Counts) -> Counts:
    """Returns the counts of two parts together."""
    return Counts(first.single + second.single, first.pairs + second.pairs)


def statistics(counts: Counts, names: Names) -> dict[str, Any]:
    """Returns prevalence, unknown rate and co-occurrence as JSON values.

    `single`: for each column its kind, the counts of the answers, `prevalence` among the known, and
    `unknown_rate`. `pairs`: for each attribute s and label or proxy y, among examples where both are
    known, the counts n_11 (s yes, y yes), n_10, n_01, n_00, `p_yes` = P(y|s), `p_no` = P(y|not s),
    their difference `gap` and its standard error `error`; None where a group is empty.
    """
    kinds = [(kind[:-1] if kind != "proxies" else "proxy", n) for kind, n in _by_kind(names)]
    single = [
        {"name": name, "kind": kind, **_single(*row)}
        for (kind, name), row in zip(kinds, counts.single.tolist(), strict=True)
    ]
    others = kinds[len(names.attributes) :]
    pairs = [
        # :2 leaves unknown out: only examples where both are known count.
        {"attribute": s, "name": y, "kind": kind, **_pair(counts.pairs[i, j, :2, :2])}
        for i, s in enumerate(names.attributes)
        for j, (kind, y) in enumerate(others)
    ]
    return {"rows": int(counts.single[0].sum()), "single": single, "pairs": pairs}


def to_text(found: Mapping[str, Any], *, shown: int = SHOWN) -> str:
    """Returns the statistics as lines of text, with the `shown` largest gaps per kind."""
    lines = [f"{found['rows']:,} examples", ""]
    lines.append(f"{'attribute':<22}{'yes':>10}{'no':>10}{'unknown':>10}{'prevalence':>12}")
    for row in found["single"]:
        if row["kind"] == "attribute":
            share = plain_percent(row["prevalence"])
            lines.append(
                f"{row['name']:<22}{row['yes']:>10,}{row['no']:>10,}{plain_percent(row['unknown_rate']):>10}"
                f"{share:>12}"
            )
    for kind, plural in PLURALS.items():
        rows = [row for row in found["single"] if row["kind"] == kind]
        if rows:
            seen = sum(row["yes"] > 0 for row in rows)
            lines += ["", f"{plural}: {seen} of {len(rows)} occur"]
        for attribute in attribute_names(found):
            lines += _gap_lines(found, attribute, kind, shown)
    return "\n".join(lines)


def largest_gaps(
    found: Mapping[str, Any], attribute: str, kind: str, shown: int = SHOWN
) -> list[Mapping[str, Any]]:
    """Returns the non-zero pairs of an attribute with columns of a kind, the largest gaps first."""
    pairs = [p for p in found["pairs"] if (p["attribute"], p["kind"]) == (attribute, kind)]
    # A gap of 0 and one that does not exist (None) are both left out.
    return sorted((p for p in pairs if p["gap"]), key=lambda p: -abs(p["gap"]))[:shown]


def attribute_names(found: Mapping[str, Any]) -> list[str]:
    """The names of the attributes."""
    return [row["name"] for row in found["single"] if row["kind"] == "attribute"]


def _by_kind(names: Names) -> list[tuple[str, str]]:
    return [(kind, name) for kind, some in names._asdict().items() for name in some]


def _single(yes: int, no: int, unknown: int) -> dict[str, Any]:
    known, rows = yes + no, yes + no + unknown
    return {
        **{"yes": yes, "no": no, "unknown": unknown},
        "prevalence": yes / known if known else None,
        "unknown_rate": unknown / rows if rows else None,
    }


def _pair(table: Int64[np.ndarray, "2 2"]) -> dict[str, Any]:
    (n_11, n_10), (n_01, n_00) = table.tolist()
    counted = {"n_11": n_11, "n_10": n_10, "n_01": n_01, "n_00": n_00}
    sizes = n_11 + n_10, n_01 + n_00
    if not all(sizes):
        return {**counted, "p_yes": None, "p_no": None, "gap": None, "error": None}
    p, q = n_11 / sizes[0], n_01 / sizes[1]
    # The standard error of a difference of two independent shares.
    error = float(np.sqrt(p * (1 - p) / sizes[0] + q * (1 - q) / sizes[1]))
    return {**counted, "p_yes": p, "p_no": q, "gap": p - q, "error": error}


def _gap_lines(found: Mapping[str, Any], attribute: str, kind: str, shown: int) -> list[str]:
    pairs = largest_gaps(found, attribute, kind, shown)
    if not pairs:
        return []
    head = f"{kind:<22}{'count':>10}{'P(.|yes)':>10}{'P(.|no)':>10}{'gap':>10}{'error':>8}   {attribute}"
    return [head] + [
        f"{p['name']:<22}{p['n_11'] + p['n_01']:>10,}{plain_percent(p['p_yes']):>10}"
        f"{plain_percent(p['p_no']):>10}{100 * p['gap']:>+10.2f}{100 * p['error']:>8.2f}"
        for p in pairs
    ]
