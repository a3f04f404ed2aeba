"""Weights of annotations in shards, solved on the counts that the Beam pipeline writes.

The solver sees only the table of counts, so the annotations are read once, shard by shard, to look their
weights up; each shard of annotations gives one of weights, of the same rows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.balancing import CountTable, Problem, Solution, allocate, make_cells, merge
from bias_clip.balancing.balanced_draw import cell_copies
from bias_clip.curation.counts_file import NamedCounts
from bias_clip.curation.weights import (
    ANNOTATIONS,
    Counted,
    Drawn,
    make_manifest,
    write_weights,
)
from bias_clip.data.tables import read_manifest

PATTERN = "annotations-*.parquet"  # what the pipeline calls its shards


class Shards(NamedTuple):
    """Shards of annotations: their paths and manifests."""

    paths: list[Path]
    manifests: list[dict[str, Any]]


def find_shards(folder: str | Path) -> Shards:
    """Returns the shards of annotations in a folder, by name.

    Raises: ValueError for none, or one that is unfinished.
    """
    paths = sorted(Path(folder).glob(PATTERN))
    if not paths:
        raise ValueError(
            f"{folder} has no {PATTERN}; expected the folder of bias-clip beam-annotate."
        )
    return Shards(paths, [read_manifest(path, kind=ANNOTATIONS) for path in paths])


def select_counts(counts: NamedCounts, problem: Problem) -> CountTable:
    """Returns the counts of the columns of a problem, in its order.

    Raises: ValueError for a column that was not counted.
    """
    own = (counts.names.attributes, (*counts.names.labels, *counts.names.proxies))
    missing = sorted({*problem.attributes} - {*own[0]} | {*problem.labels} - {*own[1]})
    if missing:
        raise ValueError(f"the counts have no columns {missing}; they have {own}.")
    s = counts.table.attributes[:, [own[0].index(name) for name in problem.attributes]]
    y = counts.table.labels[:, [own[1].index(name) for name in problem.labels]]
    return merge([counts.table._replace(attributes=s, labels=y)])  # rows may have become equal


def write_shard_weights(
    out: str | Path,
    shards: Shards,
    table: CountTable,
    problem: Problem,
    solution: Solution,
    *,
    min_retained: float,
    seed: int = 0,
    on_rows: Callable[[int], Any] = lambda rows: None,
) -> Drawn:
    """Writes a table of weights per shard; returns the draw that `seed` gives over all of them.

    Raises: ValueError if the counts are not those of the shards, or other weights are there.
    """
    # The number of rows must agree: a missing shard would be weighted as if its rows were drawn.
    rows = sum(manifest["rows"] for manifest in shards.manifests)
    if rows != table.counts.sum():
        raise ValueError(
            f"the counts are of {table.counts.sum()} examples, the {len(shards.paths)} shards have {rows}; "
            "expected counts.parquet of the same run of the pipeline, and all of its shards."
        )
    out = Path(out)
    for path, manifest in zip(shards.paths, shards.manifests, strict=True):
        # The counts are of all shards; the manifest is that of this one.
        part = Counted(table, manifest, None)
        about = make_manifest(part, problem, solution, min_retained=min_retained)
        name = path.name.replace("annotations", "weights", 1)
        write_weights(out / name, path, part, problem, solution.weights, about, on_rows=on_rows)
    # The draw is of all shards together, and the counts decide it.
    return _drawn(table, problem, solution.weights, seed)


def _drawn(
    table: CountTable, problem: Problem, weights: Float[np.ndarray, " g"], seed: int
) -> Drawn:
    weights = np.clip(weights, 0, problem.cap)
    more = allocate(seed, table.counts, weights, make_cells(table, problem))
    return Drawn(seed, "cube", *cell_copies(table.counts, weights, more))
