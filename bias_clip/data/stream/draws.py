"""From a table of weights to the rows of an epoch: the same rows in every epoch, or a fresh draw for each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from bias_clip.balancing.balanced_draw import (
    DRAWS,
    Cells,
    cells_from_json,
    epoch_seed,
    keep_balanced,
)
from bias_clip.balancing.thinning import keep
from bias_clip.core.hashing import make_key
from bias_clip.data.stream.examples import Order, shuffled_index
from bias_clip.data.tables import Table, join, read_table

KIND, WEIGHT, CELL = "weights", "weight", "cell"  # of the table, and its columns
DRAWN = "rows"  # of a folder of columns: the drawn rows
CELLS = "cells"  # of its manifest
MAX_WEIGHT = 1e6  # copies of one record; beyond it only a mistake explains a weight
MAX_DRAWN = 2**31 - 1  # rows of an epoch


class Weighted(NamedTuple):
    """The records of a source by their weights.

    Attributes:
      path: of the table, for messages.
      place: the cell of each record, negative for one that a filter dropped; None where the table has none, nor `cells`.
    """

    path: str
    ids: np.ndarray
    weights: Float[np.ndarray, " n"]
    place: Int64[np.ndarray, " n"] | None
    cells: Cells | None


def read_weights(path: str, ids: np.ndarray) -> Weighted:
    """Reads the weights of the records with these ids.

    Raises:
      ValueError: a table that does not hold weights, lacks a record, or has weights that are
        negative, not finite, too large or all 0.
    """
    table = _read(path)
    if WEIGHT not in table.columns:
        raise ValueError(
            f"{path} has columns {sorted(table.columns)}, expected {WEIGHT!r} of each."
        )
    try:
        columns = join(table, ids)
        cells = _cells_of(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    weights = columns[WEIGHT]
    _check_weights(path, weights)
    place = None if cells is None else columns[CELL].astype(np.int64)
    return Weighted(path, ids, weights.astype(np.float64), place, cells)


def draw_rows(weighted: Weighted, seed: int, draw: str | None) -> Int64[np.ndarray, " rows"]:
    """Each record's index as often as it is drawn.

    Args:
      draw: "cube", see `keep_balanced`; "coin", see `keep`; None is the cube where the table has the
        cells that it needs, as those of `bias-clip balance` have, and a coin elsewhere.

    Raises:
      ValueError: an unknown draw, a cube without cells, or more rows than an epoch may have.
    """
    if draw is not None and draw not in DRAWS:
        raise ValueError(f"balance: got draw={draw!r}, expected one of {list(DRAWS)}.")
    ids, weights, place, cells = weighted[1:]
    if draw == "cube" and cells is None:
        raise ValueError(
            f"{weighted.path} has no cells, which draw='cube' needs; write it with this version of "
            "tools/balance.py, or take draw='coin'."
        )
    expected = float(weights.sum())
    if expected > MAX_DRAWN:  # told before memory is taken for it
        raise ValueError(
            f"{weighted.path}: thinning would draw {expected:.0f} rows of {len(ids)} records, expected "
            f"at most {MAX_DRAWN}; scale the weights down."
        )
    # Tables of other tools have no cells, so each record is decided by itself.
    if draw == "coin" or place is None or cells is None:
        copies = keep(seed, ids, weights)
    else:
        some = place >= 0  # the others were dropped by a filter and have weight 0
        copies = np.zeros(len(ids), np.int64)
        copies[some] = keep_balanced(seed, ids[some], weights[some], place[some], cells)
    return np.repeat(np.arange(len(ids)), copies)


def fresh_order(weighted: Weighted, seed: int, run_seed: int) -> Order:
    """Visits a draw of its own in each epoch, so that over a run a record is seen as it weighs.

    All epochs have the same number of positions, the sum of the weights rounded up. The cube draws as
    many rows or one less, whose position then goes to another row of the draw. So what stands at a
    position is a function of it and the seeds, and a run resumes where it stopped without a replay.

    Args:
      seed: of the draws; the first epoch is the draw that is not fresh.
      run_seed: of the order within an epoch.

    Raises:
      ValueError: as `draw_rows`.
    """
    # Rounded first: a sum of 1000.0000001 by float error must not add a position.
    length = int(np.ceil(round(float(weighted.weights.sum()), 6)))
    rows_of = _last_epochs(lambda e: draw_rows(weighted, epoch_seed(seed, e), "cube"))

    def at(position: int) -> int:
        epoch = position // length
        rows, place = rows_of(epoch), shuffled_index(position, length, run_seed)
        # The draw may have one row less than there are positions: this position repeats a seeded one.
        if place >= len(rows):
            place = int(make_key("fill", seed, position)) % len(rows)
        return int(rows[place])

    def another(position: int, random: np.random.Generator) -> int:
        rows = rows_of(position // length)
        return int(rows[random.integers(len(rows))])

    return Order(at, another)


def _last_epochs(make: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
    """Remembers two epochs, for batches are made ahead; a dict, because workers get it pickled."""
    known: dict[int, np.ndarray] = {}

    def rows_of(epoch: int) -> np.ndarray:
        rows = known.get(epoch)
        if rows is None:
            rows = make(epoch)
            for old in sorted(known)[:-1]:
                known.pop(old, None)  # of two threads one may have been here
            known[epoch] = rows
        return rows

    return rows_of


def _read(path: str) -> Table:
    """A table of weights, or all shards of a folder, whose cells are those of one solve.

    Raises:
      ValueError: a folder without shards, or with shards of several solves.
    """
    if not Path(path).is_dir():
        return read_table(path, kind=KIND)
    parts = [read_table(part, kind=KIND) for part in sorted(Path(path).glob("*.parquet"))]
    solves = {json.dumps([p.manifest.get(CELLS), p.manifest.get("config")]) for p in parts}
    if len(solves) != 1:
        raise ValueError(
            f"{path} has {len(parts)} tables of {len(solves)} solves; expected the shards of one, as "
            "bias-clip balance --counts writes them."
        )
    whole = {k: np.concatenate([p.columns[k] for p in parts]) for k in parts[0].columns}
    return Table(whole, parts[0].manifest)


def _cells_of(table: Table) -> Cells | None:
    if CELL not in table.columns or CELLS not in table.manifest:
        return None
    return cells_from_json(table.manifest[CELLS])


def _check_weights(path: str, weights: np.ndarray) -> None:
    if weights.dtype.kind not in "iuf" or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{path}: {WEIGHT!r} must hold finite numbers of at least 0.")
    if weights.max() > MAX_WEIGHT:
        raise ValueError(
            f"{path}: the largest weight is {weights.max():g}, expected at most {MAX_WEIGHT:g}: a record "
            "would be drawn so often in each epoch. Solve again with a bound on the weights."
        )
    if not weights.any():
        raise ValueError(f"{path}: every weight is 0, which leaves nothing to train on.")
