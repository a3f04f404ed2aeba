"""Turns a table of annotations into a table of weights, in chunks of rows.

The annotations are read twice: first to count their distinct rows, on which M4 is solved, then to
look up the weight of each row. Memory holds a chunk of rows, the count table, all ids and utilities.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from bias_clip.balancing import (
    CountTable,
    Problem,
    Solution,
    allocate,
    count,
    keep,
    lookup,
    make_cells,
    merge,
)
from bias_clip.balancing.balanced_draw import cell_copies, cells_to_json
from bias_clip.balancing.problem import constraint_name, group_values
from bias_clip.core.plans import check_same_plan
from bias_clip.curation.annotate_source import KIND as ANNOTATIONS
from bias_clip.curation.captions import Names
from bias_clip.curation.given import read_scores
from bias_clip.curation.quality.kept import read_kept
from bias_clip.data.tables import (
    KEY,
    SHOWN,
    file_sha256,
    join,
    manifest_path,
    open_table,
    read_manifest,
    write_shards,
)

KIND = "weights"
NO_CELL = -1  # of a row that a filter dropped
OF_ANNOTATIONS = ("ids_sha256", "file_sha256", "rows", "source")  # their entry in the manifest

_PLAN = ("config", "annotations")  # entries of the manifest on which the weights depend

OnRows = Callable[[int], Any]


class Utility(NamedTuple):
    """The utility of each example, in the order of the annotations, and its origin.

    Attributes:
      edges: edges of the buckets whose middles replace the values, or None for the exact values.
      about: entry of the manifest.
    """

    values: Float[np.ndarray, " n"]
    edges: tuple[float, ...] | None
    about: dict[str, Any]


class Kept(NamedTuple):
    """Which annotated examples a filter keeps, in the order of the annotations, and its origin."""

    rows: Bool[np.ndarray, " n"]
    about: dict[str, Any]


class Counted(NamedTuple):
    """The distinct rows of a table of annotations, its manifest, and the utility they include.

    Attributes:
      kept: if given, only the rows that a filter keeps are counted; the others get weight 0.
    """

    table: CountTable
    annotations: dict[str, Any]
    utility: Utility | None
    kept: Kept | None = None


class Drawn(NamedTuple):
    """The result of a draw by the weights, per row of the count table.

    Attributes:
      kept: number of examples with at least one copy.
      copies: number of copies of all examples.
      squares: sum over examples of the squared number of copies.
    """

    seed: int
    draw: str
    kept: Int64[np.ndarray, " g"]
    copies: Int64[np.ndarray, " g"]
    squares: Int64[np.ndarray, " g"]


def read_names(path: str | Path) -> Names:
    """The attributes, labels and proxies of the table of annotations at `path`.

    Raises: ValueError for a table whose manifest does not list them.
    """
    manifest = read_manifest(path, kind=ANNOTATIONS)
    lacks = [key for key in (*Names._fields, *OF_ANNOTATIONS) if key not in manifest]
    if lacks:
        raise ValueError(
            f"{manifest_path(path)} lacks {lacks}; write the annotations with tools/annotate.py."
        )
    return Names(*(tuple(manifest[kind]) for kind in Names._fields))


def read_utility(
    path: str | Path, column: str, *, scores: str | Path | None = None, buckets: int = 64
) -> Utility:
    """Reads the utility of the annotated examples.

    Args:
      path: path of the table of annotations.
      column: a column of that table or, with `scores`, of that Parquet file; the column `id` of the
        file must contain all examples.
      buckets: number of intervals between quantiles. If there are more distinct values, each becomes
        the middle of its interval.

    Raises: ValueError for a column that is missing or not numeric, for values that are negative or
      not finite, and for examples without a value.
    """
    ids, given = [], []
    manifest, batches = open_table(path, kind=ANNOTATIONS)
    if scores is None:
        _check_present(path, [column], manifest)
    for rows in batches:
        ids.append(rows[KEY])
        # With scores from a file only the ids are needed; an empty part keeps the lists of equal length.
        given.append(rows[column] if scores is None else rows[KEY][:0])
    every, values = np.concatenate(ids), np.concatenate(given)
    about: dict[str, Any] = {"column": column}
    if scores is not None:
        values = join(read_scores(scores, [column]), every)[column]
        about["scores_sha256"] = file_sha256(scores)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"utility {column!r}: got values of {values.dtype}, expected numbers.")
    values = values.astype(np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ValueError(
            f"utility {column!r}: {wrong.sum()} of {len(values)} values are negative or not finite, "
            f"such as {values[wrong][:SHOWN].tolist()} of {every[wrong][:SHOWN].tolist()}; give every "
            "example a number of at least 0."
        )
    return Utility(values, _edges(values, buckets), about)


def count_annotations(
    path: str | Path,
    problem: Problem,
    utility: Utility | None = None,
    *,
    kept: Kept | None = None,
    on_rows: OnRows = lambda rows: None,
) -> Counted:
    """Counts the distinct rows, of those that a filter keeps, in the columns of the problem.

    Raises: ValueError for columns that the table does not have, or with values other than 1, 0, -1.
    """
    manifest, batches = open_table(path, kind=ANNOTATIONS)
    both = sorted(set(problem.attributes) & set(problem.labels))
    if both:
        raise ValueError(f"{both} are attributes and labels at once; name them as one of the two.")
    _check_present(path, [*problem.attributes, *problem.labels], manifest)
    tables: list[CountTable] = []
    for rows, used, some in _with_utility(batches, utility, kept):
        attributes, labels = (values[some] for values in _arrays(rows, problem))
        used = None if used is None else used[some]
        part = count(attributes, labels, used, edges=utility and utility.edges)
        # Merged after each chunk: memory holds the distinct rows, however many chunks there are.
        tables = [merge([*tables, part])]
        on_rows(len(rows[KEY]))
    return Counted(tables[0], manifest, utility, kept)


def read_filter(path: str | Path, filtered: str | Path) -> Kept:
    """Reads which examples of the annotations at `path` the filter at `filtered` keeps.

    Raises: ValueError for a table that is not of a filter, or that lacks an annotated example.
    """
    _, batches = open_table(path, kind=ANNOTATIONS)
    ids = np.concatenate([rows[KEY] for rows in batches])
    about = {"rule": read_manifest(filtered, kind=KIND).get("filter", {}).get("rule")}
    return Kept(read_kept(filtered, ids), {**about, "sha256": file_sha256(filtered)})


def release_rare(problem: Problem, table: CountTable, least: int) -> Problem:
    """Frees labels that fewer than `least` examples inside or outside some group have.

    They get no constraint, because almost only zero weights could make such a label as frequent
    inside a group as outside. Labels that no example has do not change.
    """
    values, has = measured_groups(problem, table), table.labels == 1
    # Examples with each label outside (0) and inside (1) of each group.
    seen = [(table.counts * (values == side).T) @ has for side in (0, 1)]  # [k, c] each
    rare = ((seen[0] < least) | (seen[1] < least)).any(0) & (sum(seen) > 0).any(0)
    eps = np.where(rare, np.inf, problem.eps_association)
    return dataclasses.replace(problem, eps_association=tuple(eps.tolist()))


def measured_groups(problem: Problem, table: CountTable) -> Int8[np.ndarray, "g k"]:
    """Attributes and intersections of each row; unknown counts as no if the problem says so."""
    values = group_values(problem, table.attributes)
    # Unknown is -1: the maximum with 0 makes it a no.
    return values if problem.unknown == "masked" else np.maximum(values, 0)


def make_manifest(
    counted: Counted, problem: Problem, solution: Solution, *, min_retained: float
) -> dict[str, Any]:
    """How the weights were made, as JSON; a tolerance of None means no constraint.

    `problem` and `solution` determine the weight of a row with utility u / mean(u) and moments a (see
    `make_problem`): clip(eta u - sum (v[0] - v[1]) a - mu, 0, cap). `config_sha256` covers `config`
    and `annotations`, which is everything that the weights depend on.
    """
    used = counted.utility and {**counted.utility.about, "edges": counted.utility.edges}
    settings = {"utility": used, "min_retained": min_retained}
    settings |= {"filter": counted.kept.about} if counted.kept else {}
    plan = plain(
        {
            "config": {"problem": dataclasses.asdict(problem), **settings},
            "annotations": {key: counted.annotations[key] for key in OF_ANNOTATIONS},
        }
    )
    # Sorted keys, so that the digest does not depend on the order in which the plan was built.
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    names = [constraint_name(problem, *at) for at in np.argwhere(solution.saturated).tolist()]
    own = {**solution._asdict(), "saturated": names}
    del own["weights"]
    cells = cells_to_json(make_cells(counted.table, problem))
    return {"kind": KIND, **plan, "config_sha256": digest, "solution": plain(own), "cells": cells}


def check_out(path: str | Path, manifest: Mapping[str, Any]) -> None:
    """Raises ValueError if `path` already has other weights or another table."""
    if not manifest_path(path).exists():
        return
    found = read_manifest(path, kind=KIND)
    check_same_plan(
        f"{path} has other weights",
        {key: found.get(key) for key in _PLAN},
        {key: manifest[key] for key in _PLAN},
        advice="Delete it, or write elsewhere.",
    )


def write_weights(
    path: str | Path,
    annotations: str | Path,
    counted: Counted,
    problem: Problem,
    weights: Float[np.ndarray, " g"],
    manifest: Mapping[str, Any],
    *,
    seed: int = 0,
    draw: str = "cube",
    on_rows: OnRows = lambda rows: None,
) -> Drawn:
    """Writes the id and weight of each example; returns the draw that `seed` gives.

    Args:
      counted: counts of the table at `annotations`.
      weights: weights of the rows of the count table.
      manifest: from `make_manifest`.

    Raises: ValueError if the annotations have changed since they were counted, or a table of other
      weights is at `path`.
    """
    check_out(path, manifest)
    found, batches = open_table(annotations, kind=ANNOTATIONS)
    if found["file_sha256"] != counted.annotations["file_sha256"]:
        raise ValueError(f"{annotations} has changed while it was being read; start again.")
    # taken: examples kept, copies, squared copies, per distinct row.
    taken, rows_of = np.zeros((3, len(weights)), np.int64), np.zeros(len(weights), np.int64)
    weights = np.clip(weights, 0, problem.cap)  # rounding may exceed the bounds by an ulp
    edges = counted.utility and counted.utility.edges

    def parts() -> Iterator[dict[str, np.ndarray]]:
        for rows, used, some in _with_utility(batches, counted.utility, counted.kept):
            attributes, labels = (values[some] for values in _arrays(rows, problem))
            used = None if used is None else used[some]
            place = lookup(counted.table, attributes, labels, used, edges=edges)
            # Counted again from the rows themselves: the draw must add up for what is written.
            rows_of[:] += np.bincount(place, minlength=len(rows_of))
            if draw == "coin":
                copies = keep(seed, rows[KEY][some], weights[place])
                for total, number in zip(taken, (copies > 0, copies, copies**2), strict=True):
                    np.add.at(total, place, number)
            # A dropped row is in no cell: the cube must not count it.
            weight, cell = np.zeros(len(rows[KEY])), np.full(len(rows[KEY]), NO_CELL, np.int32)
            weight[some], cell[some] = weights[place], place
            yield {KEY: rows[KEY], "weight": weight, "cell": cell}
            on_rows(len(weight))

    write_shards(path, parts(), manifest)
    if draw == "cube":  # the counts decide it: no id is needed again
        more = allocate(seed, rows_of, weights, make_cells(counted.table, problem))
        return Drawn(seed, draw, *cell_copies(rows_of, weights, more))
    return Drawn(seed, draw, *taken)


def plain(value: Any) -> Any:
    """Converts to JSON values: arrays to lists, NaN and infinity to None."""
    if isinstance(value, Mapping):
        return {str(key): plain(some) for key, some in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(some) for some in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _edges(values: np.ndarray, buckets: int) -> tuple[float, ...] | None:
    if buckets < 1:
        raise ValueError(f"buckets: got {buckets}, expected at least 1.")
    if len(np.unique(values)) <= buckets:
        return None
    # "inverted_cdf" gives values that occur, so that edges of repeated values coincide exactly.
    edges = np.quantile(values, np.linspace(0, 1, buckets + 1), method="inverted_cdf")
    # At least two edges remain: the smallest and the largest value, which differ.
    return tuple(np.unique(edges).tolist())


def _check_present(path: str | Path, names: list[str], manifest: Mapping[str, Any]) -> None:
    missing = [name for name in names if name not in manifest["columns"] or name == KEY]
    if missing:
        known = [name for name in manifest["columns"] if name != KEY]
        raise ValueError(f"{path} has no columns {missing}; it has {known}.")


def _with_utility(
    batches: Iterator[dict[str, np.ndarray]], utility: Utility | None, kept: Kept | None
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None, Any]]:
    """Yields parts of the annotations, their utilities or None, and which of their rows are kept."""
    start = 0
    for rows in batches:
        stop = start + len(rows[KEY])
        some = slice(None) if kept is None else kept.rows[start:stop]
        yield rows, None if utility is None else utility.values[start:stop], some
        start = stop


def _arrays(rows: Mapping[str, np.ndarray], problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    for name in (*problem.attributes, *problem.labels):
        # Before the cast to int8, which would wrap other numbers into valid ones.
        wrong = ~np.isin(rows[name], (1, 0, -1))
        if wrong.any():
            raise ValueError(
                f"column {name!r}: got {rows[name][wrong][:SHOWN].tolist()} for examples "
                f"{rows[KEY][wrong][:SHOWN].tolist()}; expected 1, 0, or -1 for unknown. A number of "
                "many values can be a --utility."
            )
    attributes = np.stack([rows[name].astype(np.int8) for name in problem.attributes], axis=1)
    # Not `np.stack`, which fails for a problem without labels.
    labels = np.zeros((len(rows[KEY]), len(problem.labels)), np.int8)
    for j, name in enumerate(problem.labels):
        labels[:, j] = rows[name]
    return attributes, labels
