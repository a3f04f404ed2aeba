"""Training on cells: every batch comes from one cell, or the loss gets each example's cell.

The table says which cell each example is in; `tools/multistage.py` makes it, and training looks it up.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from bias_clip.core.hashing import array_sha256
from bias_clip.data.records import Source, column
from bias_clip.data.stream.batch import CELLS
from bias_clip.data.stream.examples import Order
from bias_clip.data.stream.plan import Phase, Plan, plain_plan
from bias_clip.data.tables import KEY, Table, join, read_table, write_table
from bias_clip.stages.mcl import Cells, accumulate, merge_small
from bias_clip.stages.mcl_plan import (
    BatchPlan,
    PlanStats,
    epoch_rows,
    make_batch_plan,
    make_epoch,
    plan_stats,
)

KIND, CLUSTER = "cells", "cluster"  # of the table, and its column
SMALL = ("merge", "drop")
TUPLES = "tuples"  # in the manifest: the clusters behind each number of `cluster`
_BLOCK = 64  # rows of a step that are looked up at once


class CellsStats(NamedTuple):
    """The result of reading a table.

    Attributes:
      found: cells with examples of the source.
      merged: how many of them were merged into a sibling.
      plan: what an epoch uses; None for a single cell, which is the plain data.
    """

    found: int
    merged: int
    plan: PlanStats | None


class CellsPlan(NamedTuple):
    """The plan of a run, and its statistics."""

    plan: Plan
    stats: CellsStats


def make_cells_plan(
    source: Source,
    *,
    table: str,
    batch_size: int,
    seed: int,
    mode: str = "batch",
    small: str | None = None,
    sequence: str = "shuffle",
) -> CellsPlan:
    """Makes the plan of a run whose negatives come from the anchor's own cell.

    Batches have the key `cells`, from which every loss makes a mask. An epoch of this plan leaves out a
    part of the data, see `make_batch_plan`; durations still count epochs of the whole source. A record
    that cannot be read is replaced by one of the same cell. A single cell restricts nothing: the run is
    then identical to the plain one, without the key.

    Args:
      source: of the records, whose ids the table has.
      table: path of a table of cells: columns `id` and `cluster`. Its manifest may have `tuples`, see
        `write_cells`; without them, all cells are siblings.
      batch_size: of the run, over all hosts.
      seed: of the run.
      mode: "batch": each batch comes from one cell; or "mask": in addition, the remaining examples of
        all cells are packed into mixed batches.
      small: for cells smaller than a batch in mode "batch": "merge" (the default) merges them with a
        sibling, see `merge_small`; "drop" leaves them out.
      sequence: the order of the batches' cells: "shuffle", or "round_robin" as the authors do.

    Raises: ValueError for an unknown word; for a table that is not of cells, lacks a record or holds
      anything except cluster numbers; and if no cell fills a batch.

    Reference: Zhang et al., Learning the Unlearned, ECCV 2024.

        make_cells_plan(source, table="runs/mcl/stage0/cells.parquet", batch_size=128, seed=0).plan
    """
    _check_words(mode, small)
    found = _read_cells(table, column(source, KEY))
    number = len(found.tuples)
    # A single cell must train exactly as without cells, so that stages can be compared with plain runs.
    if number == 1:
        return CellsPlan(plain_plan(source), CellsStats(1, 0, None))
    cells = found.cells
    if mode == "batch" and small != "drop":
        # Returns the new number of each cell, [cells]; indexed by the examples' cells it is [n].
        cells = merge_small(np.bincount(cells), found.tuples, least=batch_size)[cells]
    plan = make_batch_plan(
        cells,
        batch_size=batch_size,
        seed=seed,
        stage=found.tuples.shape[1],
        mode=mode,
        sequence=sequence,
    )
    phase = Phase(source, {CELLS: cells}, make_order(plan, cells))
    identity: dict[str, Any] = {"mode": mode, "sequence": sequence, "sha256": array_sha256(cells)}
    identity["stage"] = plan.stage
    stats = CellsStats(number, number - int(cells.max()) - 1, plan_stats(plan))
    return CellsPlan(Plan((phase,), 0, {"cells": identity}), stats)


def make_order(plan: BatchPlan, cells: Int32[np.ndarray, " n"]) -> Order:
    """The order of a stream that reads the plan: its position p is row p % batch of step p // batch."""
    steps, size = plan_stats(plan).steps, plan.batch_size
    # Threads work ahead, so steps of two epochs are needed at the same time.
    epoch_of = functools.lru_cache(maxsize=4)(functools.partial(make_epoch, plan))

    @functools.lru_cache(maxsize=1024)
    def block(step: int, first: int) -> Int64[np.ndarray, " b"]:
        epoch, place = divmod(step, steps)
        return epoch_rows(plan, epoch_of(epoch), place, first, min(first + _BLOCK, size))

    def index(position: int) -> int:
        step, row = divmod(position, size)
        return int(block(step, row - row % _BLOCK)[row % _BLOCK])

    def another(position: int, rng: np.random.Generator) -> int:
        cell = int(cells[index(position)])
        # `order` lists the examples cell by cell, those of a cell from its offset to the next.
        return int(plan.order[rng.integers(plan.offsets[cell], plan.offsets[cell + 1])])

    return Order(index, another)


def write_cells(
    path: str | Path, tables: Sequence[Sequence[str | Path]], **manifest: Any
) -> dict[str, Any]:
    """Accumulates tables of clusters into the table of cells that the next stage trains on.

    Args:
      path: of the table to write. Its `cluster` numbers the cells, and its manifest has `tuples`: for
        each number a list of the clusters it stands for, one per stage.
      tables: for each stage, the first stage first: one table, or several (of images and of texts),
        whose clusters together are those of the stage.
      manifest: other information for readers, as JSON.

    Returns: the manifest as written.
    Raises: ValueError for tables that are not of cells, or not of the same examples.

        write_cells("cells.parquet", [["stage0/image.parquet"], ["stage1/image.parquet"]])
    """
    read = [[read_table(own, kind=KIND) for own in stage] for stage in tables]
    ids = read[0][0].columns[KEY]
    labels = [_of_stage([_clusters(table, ids) for table in stage]) for stage in read]
    cells, tuples = accumulate(labels)
    about = {"kind": KIND, TUPLES: tuples.tolist(), **manifest}
    return write_table(path, {KEY: ids, CLUSTER: cells}, about)


def describe(stats: CellsStats, batch_size: int) -> str:
    """Describes the result of reading a table, in one line."""
    if stats.plan is None:
        return "cells: a single one, which is the plain data"
    plan, merged = stats.plan, f" ({stats.merged} of {stats.found} merged)" if stats.merged else ""
    total = plan.used + plan.dropped
    return (
        f"cells: {plan.cells}{merged}, {plan.small} of them smaller than the batch of {batch_size}; "
        f"an epoch has {plan.steps} steps of {plan.used} examples and leaves out {plan.dropped} "
        f"({plan.dropped / total:.1%}), {plan.never} of which are in no epoch"
    )


def _read_cells(path: str, ids: np.ndarray) -> Cells:
    """The cells of these examples, numbered without gaps."""
    table = read_table(path, kind=KIND)
    try:
        clusters = _clusters(table, ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    there, cells = np.unique(clusters, return_inverse=True)
    tuples = there[:, None].astype(np.int64)
    if TUPLES in table.manifest:
        tuples = np.asarray(table.manifest[TUPLES], np.int64)
        if tuples.ndim != 2 or there[-1] >= len(tuples):
            raise ValueError(f"{path}: {TUPLES!r} of its manifest lack a number of {CLUSTER!r}.")
        tuples = tuples[there]
    return Cells(cells.astype(np.int32), tuples)


def _clusters(table: Table, ids: np.ndarray) -> np.ndarray:
    if CLUSTER not in table.columns:
        raise ValueError(f"it has columns {sorted(table.columns)}, expected {CLUSTER!r} of each.")
    clusters = join(table, ids)[CLUSTER]
    if clusters.dtype.kind not in "iu" or clusters.min() < 0:
        raise ValueError(f"{CLUSTER!r} must hold integers of at least 0.")
    return clusters


def _of_stage(labels: Sequence[np.ndarray]) -> np.ndarray:
    return labels[0] if len(labels) == 1 else accumulate(labels).cells


def _check_words(mode: str, small: str | None) -> None:
    if small not in (None, *SMALL):
        raise ValueError(f"cells: got small={small!r}, expected one of {list(SMALL)}, or None.")
    if mode == "mask" and small is not None:
        raise ValueError(
            f"cells: got small={small!r} in mode 'mask', which packs small cells; leave it out."
        )
