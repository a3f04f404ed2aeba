"""From weights to rows so that the draw is as balanced as the weights are.

A coin per row (`thinning.keep`) gives each row its weight on average, but a label of ten rows may
lose five of its men and none of its women. Here the cube method decides how many rows of each cell
are taken, a cell being a row of the count table, and a hash of (seed, id) decides which.
"""

import base64
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int8, Int64

from bias_clip.balancing.counts import CountTable
from bias_clip.balancing.cube import cube
from bias_clip.balancing.landing import Constraints
from bias_clip.balancing.problem import Problem, group_values
from bias_clip.balancing.thinning import Ids, check_weights, hash64
from bias_clip.core.hashing import make_key

DRAWS = ("cube", "coin")
_GROUP_ROWS = 3  # more or less of a group do as much harm as one row of a label's gap


class Cells(NamedTuple):
    """What a draw should keep of the rows of a count table.

    Attributes:
      groups: 1, 0 or -1 (in no moment) for each attribute and intersection.
      labels: 1 where a label has a constraint and the row has it.
      targets: of the groups.
    """

    groups: Int8[np.ndarray, "g k"]
    labels: Int8[np.ndarray, "g c"]
    targets: tuple[float, ...]


def make_cells(table: CountTable, problem: Problem) -> Cells:
    """The cells of a count table; labels and groups without a constraint are left out."""
    values = group_values(problem, table.attributes)
    if problem.unknown == "unmasked":
        values = np.maximum(values, 0)
    held = np.isfinite(problem.eps_association)
    # As in the design: labels of rows in no group are in no moment, so that the draw need not keep them.
    labels = (table.labels[:, held] == 1) & (values >= 0).any(1, keepdims=True)
    return Cells(values, labels[:, labels.any(0)].astype(np.int8), problem.targets)


def allocate(
    seed: int,
    counts: Int64[np.ndarray, " g"],
    weights: Float[np.ndarray, " g"],
    cells: Cells,
) -> Int64[np.ndarray, " g"]:
    """How many rows of each cell get a copy beyond floor(weight): counts * (weight % 1), rounded.

    Rounded down or up by `cube`, which keeps the number of rows and, as far as whole rows can, each
    moment sum (group - target) label. The expectation over seeds is exact.
    """
    expected = counts * (weights - np.floor(weights))
    whole = np.floor(expected + 1e-9)  # 10 * 0.3 is 3
    # Rounding may leave a chance slightly below 0, or above 1.
    chances = np.clip(expected - whole, 0, 1)
    extra = cube(seed, chances, _constraints(counts * weights, cells))
    return (whole + extra).astype(np.int64)


def keep_balanced(
    seed: int,
    ids: Ids,
    weights: Float[np.ndarray, " n"],
    place: Int64[np.ndarray, " n"],
    cells: Cells,
) -> Int64[np.ndarray, " n"]:
    """Copies of each row: on average its weight, and balanced as the weights are.

    floor(weight), and one more for the rows of each cell that have the smallest hash of (seed, id),
    as many as `allocate` says. The order of the rows does not matter. All rows must be here: for
    shards, call `allocate` with the counts of all, then pass over them twice, to find each cell's
    k-th smallest `hash64` (from the k smallest of every shard), and to take the rows up to that one.

    Args:
      seed: an integer of 64 bits.
      ids: as in `keep`; distinct.
      weights: the same for all rows of a cell.
      place: the cell of each row, from `lookup`.

    Raises:
      ValueError: weights that are negative, not finite, or differ within a cell; a cell that is not
        there.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import count, keep_balanced, lookup, make_cells, make_problem
      >>> man, nurse = np.int8([[1], [1], [0], [0]] * 5), np.int8([[1], [0], [1], [0]] * 5)
      >>> table = count(man, nurse)
      >>> cells = make_cells(table, make_problem({"man": 0.5}, ["nurse"]))
      >>> copies = keep_balanced(0, np.arange(20), np.full(20, 0.5), lookup(table, man, nurse), cells)
      >>> [int(copies @ (man[:, 0] == s)) for s in (0, 1)]
      [5, 5]
    """
    weights, place = check_weights(weights, ids), np.asarray(place, np.int64)
    size = len(cells.groups)
    if len(place) and not (place.min() >= 0 and place.max() < size):
        raise ValueError(f"place: got {place.min()} to {place.max()}; expected 0 to {size - 1}.")
    each = np.zeros(size)
    each[place] = weights
    # Each row wrote its weight to its cell, so a cell of several weights disagrees with some row.
    if not (each[place] == weights).all():
        raise ValueError("weights: got several within a cell; expected one, as `solve` gives.")
    taken = allocate(seed, np.bincount(place, minlength=size), each, cells)
    return np.floor(weights).astype(np.int64) + _lowest(hash64(seed, ids), place, taken)


def cell_copies(
    counts: Int64[np.ndarray, " g"],
    weights: Float[np.ndarray, " g"],
    taken: Int64[np.ndarray, " g"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a copy or more, copies, and the sum of squared copies, of each cell of a draw."""
    low = np.floor(weights).astype(np.int64)
    kept = np.where(low > 0, counts, taken)
    squares = (counts - taken) * low**2 + taken * (low + 1) ** 2
    return kept, counts * low + taken, squares


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's own draw; the first epoch's is the seed itself."""
    return int(make_key("draw of epoch", seed, epoch)) if epoch else seed


def cells_to_json(cells: Cells) -> dict[str, Any]:
    """As a manifest can hold it: the columns row by row, a byte each, by zlib and base 64."""
    rows = np.concatenate([cells.groups, cells.labels], axis=1)
    text = base64.b64encode(zlib.compress(np.ascontiguousarray(rows).tobytes(), 9)).decode()
    return {"targets": list(cells.targets), "shape": list(rows.shape), "zlib": text}


def cells_from_json(found: Mapping[str, Any]) -> Cells:
    """Reads what `cells_to_json` made.

    Raises:
      ValueError: something else.
    """
    try:
        targets, shape = tuple(map(float, found["targets"])), tuple(map(int, found["shape"]))
        # Bounded: a few damaged bytes must not become gigabytes.
        raw = zlib.decompressobj().decompress(base64.b64decode(found["zlib"]), shape[0] * shape[1])
        rows = np.frombuffer(raw, np.int8).reshape(shape)
    except (KeyError, TypeError, IndexError, ValueError, zlib.error) as error:
        raise ValueError(f"cells: {error!r}; expected those of `cells_to_json`.") from error
    return Cells(rows[:, : len(targets)], rows[:, len(targets) :], targets)


def _constraints(mass: Float[np.ndarray, " g"], cells: Cells) -> Constraints:
    """Moments of the cells, in shares of the weight that is known of each group."""
    targets = np.array(cells.targets)
    known = cells.groups >= 0
    z = np.where(known, cells.groups - targets, 0.0)
    width = cells.labels.shape[1] + 1
    # A gap between groups of shares t and 1 - t is the moment over t (1 - t) and the weight known.
    spread = np.where(targets * (1 - targets) > 0, targets * (1 - targets), 1.0)
    scale = 1 / (spread * np.maximum(mass @ known, 1.0))

    def moments(rows: np.ndarray) -> np.ndarray:
        y = np.concatenate([cells.labels[rows], np.ones((len(rows), 1), np.int8)], axis=1)
        return (z[rows][:, :, None] * y[:, None, :]).reshape(len(rows), z.shape[1] * width)

    # The sums that the weights give. Tolerances leave them off 0, and the draw must keep them there.
    sums = (z * mass[:, None]).T @ np.concatenate([cells.labels, np.ones((len(z), 1))], axis=1)
    return Constraints(
        moments, (scale[:, None] / _allowed(sums, scale, targets)).ravel(), sums.ravel()
    )


def _allowed(
    sums: Float[np.ndarray, "k c1"],
    scale: Float[np.ndarray, " k"],
    targets: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "k c1"]:
    """How far each moment may be from 0 before it does harm: of labels one number for all.

    A tenth above the largest that the weights leave, and what one row can do. A label far below the
    largest gap may come up to it, which is why they share the number.
    """
    now, row = np.abs(sums) * scale[:, None], scale * np.maximum(targets, 1 - targets)
    largest = (1.1 * now[:, :-1].max(1, initial=0) + row).max()
    allowed = np.full(now.shape, largest)
    # The last column is the group itself: it has a tolerance of its own, and many rows.
    allowed[:, -1] = 1.1 * now[:, -1] + _GROUP_ROWS * row
    return allowed


def _lowest(
    hashes: np.ndarray, place: Int64[np.ndarray, " n"], taken: Int64[np.ndarray, " g"]
) -> Int64[np.ndarray, " n"]:
    """1 for the rows of the `taken` smallest hashes of their cell."""
    # Cells together, and each cell's rows by their hash.
    order = np.lexsort((hashes, place))
    size = np.bincount(place, minlength=len(taken))
    # The place of each sorted row within its own cell.
    rank = np.arange(len(place)) - np.repeat(np.cumsum(size) - size, size)
    found = np.zeros(len(place), np.int64)
    found[order] = rank < taken[place[order]]
    return found
