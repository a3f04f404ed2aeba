"""In-cell batches: the examples of a step, as a pure function of (seed, stage, epoch, step).

Any host can compute any row of any step, without state and without replaying earlier steps. So a
restart, or another number of hosts, changes nothing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from bias_clip.core.hashing import make_key, mix
from bias_clip.stages._bijection import permute

MODES = ("batch", "mask")
SEQUENCES = ("shuffle", "round_robin")


class BatchPlan(NamedTuple):
    """All that defines the batches of a stage; see `make_batch_plan`.

    Attributes:
      order: the examples sorted by cell.
      offsets: where each cell begins in `order`; the last entry is the end.
      batch_size: examples per step, over all hosts.
      seed, stage: seeds of all draws.
      mode, sequence: as given.
    """

    order: Int[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " c_plus_1"]
    batch_size: int
    seed: int
    stage: int
    mode: str
    sequence: str


class PlanStats(NamedTuple):
    """The numbers of an epoch.

    Attributes:
      cells: number of cells.
      small: number of cells with fewer examples than a batch.
      steps: steps per epoch.
      used, dropped: examples. Each epoch draws again which ones are dropped, except those of small
        cells in mode "batch", which are in no epoch.
      never: the dropped examples of such small cells.
    """

    cells: int
    small: int
    steps: int
    used: int
    dropped: int
    never: int


class Epoch(NamedTuple):
    """What the steps of one epoch share.

    Attributes:
      slots: the batch of each step. Numbers below the count of one-cell batches are such batches,
        sorted by cell; the others are mixed batches.
      packing: the order in which the rests of the cells fill the mixed batches.
      ends: where the part of each cell, in that order, ends in the mixed rows.
      keys: the key of each cell's permutation.
    """

    slots: Int64[np.ndarray, " steps"]
    packing: Int64[np.ndarray, " c"]
    ends: Int64[np.ndarray, " c"]
    keys: np.ndarray


def make_batch_plan(
    cells: Int[np.ndarray, " n"],
    *,
    batch_size: int,
    seed: int,
    stage: int,
    mode: str = "batch",
    sequence: str = "shuffle",
) -> BatchPlan:
    """Makes the plan of a stage whose negatives come from the anchor's cell.

    Each epoch permutes the examples of each cell and cuts them into floor(n_c / batch_size) batches of
    one cell. No example occurs twice in an epoch.

    Args:
      cells: the cell of each example, numbered 0, 1, ... without gaps.
      batch_size: examples per step, over all hosts.
      seed: seed of the run.
      stage: stage of the run; other stages draw independently.
      mode: what happens to the rest of each cell, and to cells smaller than a batch. "batch" drops
        it. "mask" packs it into batches of several cells, for which the loss needs the `cells`, and
        drops less than one batch. An example there may be the only one of its cell.
      sequence: "shuffle" mixes the steps of all cells evenly. "round_robin", as the authors do, takes
        the cells in turn, then those with steps left, and mixed batches last.

    Raises: ValueError for cells that are not numbered in this way, an unknown word, or no full batch.

    Reference: Zhang et al., ECCV 2024. Differs from the authors' code, where each device permutes
      alone: there, on 8 devices, an epoch misses a third of the examples, and a batch may contain an
      example twice.

    Example:
      >>> import numpy as np
      >>> from bias_clip.stages.mcl_plan import make_batch_plan, global_rows
      >>> cells = np.array([0, 1, 0, 1, 1])
      >>> plan = make_batch_plan(cells, batch_size=2, seed=0, stage=1)
      >>> sorted(cells[global_rows(plan, step)].tolist() for step in (0, 1))
      [[0, 0], [1, 1]]
    """
    cells = np.asarray(cells)
    _check(cells, batch_size, mode, sequence)
    counts = np.bincount(cells)
    if not counts.all():
        raise ValueError(
            f"cells: none is {np.flatnonzero(counts == 0)[:5].tolist()}; leave no gaps."
        )
    narrow = cells.astype(np.uint16) if len(counts) <= 2**16 else cells  # sorts in linear time
    # uint32 is half of the memory of int64; a billion examples are 4 GB.
    order = np.argsort(narrow, kind="stable").astype(np.uint32 if len(cells) < 2**32 else np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    plan = BatchPlan(order, offsets, batch_size, seed, stage, mode, sequence)
    if not plan_stats(plan).steps:
        raise ValueError(
            f"got {len(cells)} examples in {len(counts)} cells, of which the largest has "
            f"{counts.max()}: no batch of {batch_size}. Use a smaller batch, fewer clusters, mode "
            "'mask', or merge small cells."
        )
    return plan


def plan_stats(plan: BatchPlan) -> PlanStats:
    """Counts what an epoch of the plan uses; the same for every epoch."""
    counts = np.diff(plan.offsets)
    steps, small = _num_whole(plan) + _num_mixed(plan), counts < plan.batch_size
    used = steps * plan.batch_size
    never = int(counts[small].sum()) if plan.mode == "batch" else 0
    return PlanStats(len(counts), int(small.sum()), steps, used, len(plan.order) - used, never)


def make_epoch(plan: BatchPlan, epoch: int) -> Epoch:
    """Draws what the steps of an epoch share; its size is that of the steps and cells."""
    counts = np.diff(plan.offsets)
    whole, mixed = _num_whole(plan), _num_mixed(plan)
    if plan.sequence == "shuffle":
        slots = _shuffled(whole + mixed, plan, epoch, "steps")
    else:
        cell, visit = _split(plan, np.arange(whole))
        # Round r takes the r-th batch of each cell that has one; mixed batches come last.
        slots = np.concatenate([np.lexsort((cell, visit)), np.arange(whole, whole + mixed)])
    # What each cell leaves over is laid end to end, in this order, and cut into mixed batches.
    packing = _shuffled(len(counts), plan, epoch, "cells")
    base = make_key(plan.seed, plan.stage, epoch, "members")
    # A key per cell: its members are permuted by a bijection, without an array of them.
    keys = mix(base ^ np.arange(len(counts), dtype=np.uint64))
    # What a cell has beyond its whole batches.
    ends = np.cumsum((counts % plan.batch_size)[packing])
    return Epoch(slots, packing, ends, keys)


def epoch_rows(
    plan: BatchPlan, epoch: Epoch, step: int, first: int = 0, last: int | None = None
) -> Int64[np.ndarray, " b"]:
    """The examples in the rows [first, last) of a step of the epoch; by default of all its rows."""
    rows = np.arange(first, plan.batch_size if last is None else last)
    counts, slot = np.diff(plan.offsets), int(epoch.slots[step])
    mixed = slot - _num_whole(plan)
    if mixed < 0:
        cell, visit = _split(plan, np.full(len(rows), slot))
        place = visit * plan.batch_size + rows
    else:
        rest = mixed * plan.batch_size + rows
        packed = np.searchsorted(epoch.ends, rest, side="right")
        cell = epoch.packing[packed]
        # What is left of a cell is the end of its permutation.
        place = counts[cell] - (epoch.ends[packed] - rest)
    member = permute(place, counts[cell], epoch.keys[cell])
    return plan.order[plan.offsets[cell] + member].astype(np.int64)


def global_rows(plan: BatchPlan, step: int) -> Int64[np.ndarray, " b"]:
    """The examples of a training step; steps are counted from 0 through all epochs."""
    epoch, step = divmod(step, plan_stats(plan).steps)
    return epoch_rows(plan, make_epoch(plan, epoch), step)


def _num_whole(plan: BatchPlan) -> int:
    """The number of one-cell batches in an epoch."""
    return int((np.diff(plan.offsets) // plan.batch_size).sum())


def _num_mixed(plan: BatchPlan) -> int:
    if plan.mode == "batch":
        return 0
    return int((np.diff(plan.offsets) % plan.batch_size).sum()) // plan.batch_size


def _split(plan: BatchPlan, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each one-cell batch, and the number of earlier batches of that cell."""
    ends = np.cumsum(np.diff(plan.offsets) // plan.batch_size)
    cell = np.searchsorted(ends, slots, side="right")
    return cell, slots - np.where(cell > 0, ends[cell - 1], 0)


def _shuffled(size: int, plan: BatchPlan, epoch: int, what: str) -> Int64[np.ndarray, " size"]:
    # Sorts raw words: NumPy promises to keep only this stream the same in all versions.
    key = int(make_key(plan.seed, plan.stage, epoch, what))
    # `stable`: equal words, however rare, sort the same way everywhere.
    return np.argsort(np.random.Philox(key=key).random_raw(size), kind="stable")


def _check(cells: np.ndarray, batch_size: int, mode: str, sequence: str) -> None:
    if cells.ndim != 1 or not cells.size or cells.dtype.kind not in "iu" or cells.min() < 0:
        raise ValueError(
            f"cells: got {cells.dtype}{list(cells.shape)}; expected one integer of 0 or more per example."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; expected at least 1.")
    for name, value, valid in (("mode", mode, MODES), ("sequence", sequence, SEQUENCES)):
        if value not in valid:
            raise ValueError(f"{name}: got {value!r}; expected one of {valid}.")
