"""Cells: groups of examples that all earlier stages of multistage contrastive learning found alike.

The clusters of a stage refine those of earlier stages: examples are in the same cell if every stage
put them in the same cluster. The next stage uses only negatives from the anchor's cell, see `mcl_plan`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, Int64


class Cells(NamedTuple):
    """A partition of examples.

    Attributes:
      cells: the cell of each example; cells are numbered 0, 1, ... without gaps.
      tuples: the clusters of each cell, one per stage, the first stage first. Cell numbers follow the
        order of the tuples.
    """

    cells: Int32[np.ndarray, " n"]
    tuples: Int64[np.ndarray, "c s"]


def accumulate(labels: Sequence[Int[np.ndarray, " n"]]) -> Cells:
    """Makes cells from the clusters of all stages.

    ::

        cell(i) = cell(j)  <=>  label_s(i) = label_s(j) for every stage s

    Args:
      labels: the cluster of each example, per stage, the first stage first; numbered from 0.

    Raises: ValueError for no stages, stages of different lengths, or labels that are not such numbers.

    Reference: Zhang et al., Learning the Unlearned: Mitigating Feature Suppression in Contrastive
      Learning, ECCV 2024. Differs from the authors' code, whose script reads the clusters of the
      newest stage for every digit, so earlier stages do not count. This is the rule of the paper.

    Example:
      >>> import numpy as np
      >>> from bias_clip.stages.mcl import accumulate
      >>> accumulate([np.array([0, 0, 2, 2]), np.array([1, 0, 1, 1])]).cells.tolist()
      [1, 0, 2, 2]
    """
    arrays = [np.asarray(label) for label in labels]
    _check_labels(arrays)
    cells = np.zeros(len(arrays[0]), np.int64)
    tuples = np.zeros((1, 0), np.int64)
    for label in arrays:
        width = int(label.max()) + 1
        # Renumbered after each stage: a product over all stages could exceed 64 bits, and this cannot,
        # since neither the examples nor the clusters of a stage reach 2^31.
        keys, cells = np.unique(cells * width + label, return_inverse=True)
        tuples = np.column_stack([tuples[keys // width], keys % width])
    return Cells(cells.astype(np.int32), tuples.astype(np.int64))


def merge_small(
    counts: Int[np.ndarray, " c"],
    tuples: Int[np.ndarray, "c s"],
    *,
    least: int,
    centres: Float[np.ndarray, "c d"] | None = None,
) -> Int32[np.ndarray, " c"]:
    """Merges cells of fewer than `least` examples with a sibling, the smallest first.

    Siblings have the same clusters in all stages except the last. A cell is merged with the sibling
    that has the nearest centre or, without centres, with the largest; ties go to the first. So only
    the division of the newest stage becomes coarser. A cell stays too small if its whole family is.

    Args:
      counts: number of examples per cell.
      tuples: clusters of each cell, see `Cells`.
      least: smallest size; cells of at least this size are not merged into others.
      centres: centre of each cell; that of merged cells is the mean of their examples.

    Returns: the number of the merged cell for each cell: 0, 1, ... in the order of their first cells.
    Raises: ValueError for arguments that do not belong together.

    Example:
      >>> import numpy as np
      >>> from bias_clip.stages.mcl import merge_small
      >>> merge_small(np.array([9, 2, 5, 1]), np.array([[0, 0], [0, 1], [0, 2], [1, 0]]), least=4)
      array([0, 0, 1, 2], dtype=int32)
    """
    counts, tuples = np.asarray(counts), np.asarray(tuples)
    _check_cells(counts, tuples, least, centres)
    # Wider than the counts may be: merged sizes grow.
    sizes = counts.astype(np.int64)
    # A copy, because merging moves the means.
    means = None if centres is None else np.array(centres, np.float64)
    into = np.arange(len(counts))
    _, family = np.unique(tuples[:, :-1], axis=0, return_inverse=True)
    for number in range(family.max() + 1):
        _merge_family(np.flatnonzero(family == number).tolist(), sizes, means, into, least)
    # Merged cells take the order of their first cell, so numbers do not depend on the merges.
    _, first, merged = np.unique(into, return_index=True, return_inverse=True)
    # The rank of each first cell is the number of its merged cell.
    return np.argsort(np.argsort(first)).astype(np.int32)[merged]


def _merge_family(
    alive: list[int], sizes: np.ndarray, means: np.ndarray | None, into: np.ndarray, least: int
) -> None:
    """Updates `into`, and the sizes and means of the cells that absorb others."""
    while len(alive) > 1:
        # Ties to the first cell: the same result on every machine.
        small = min(alive, key=lambda cell: (sizes[cell], cell))
        if sizes[small] >= least:
            return
        alive.remove(small)
        if means is None:
            taker = max(alive, key=lambda cell: (sizes[cell], -cell))
        else:
            squares = np.square(means[alive] - means[small]).sum(axis=1)
            taker = alive[int(squares.argmin())]
            # The weighted mean of both, without their sums; two empty cells stay where they are.
            share = sizes[small] / max(sizes[small] + sizes[taker], 1)
            means[taker] += share * (means[small] - means[taker])
        sizes[taker] += sizes[small]
        into[into == small] = taker


def _check_labels(arrays: Sequence[np.ndarray]) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not arrays[0].size:
        raise ValueError(
            f"labels: got shapes {[array.shape for array in arrays]}; expected one stage or more, "
            "each with one label per example."
        )
    for stage, array in enumerate(arrays):
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 2**31:
            raise ValueError(
                f"labels of stage {stage}: got {array.dtype} from {array.min()} to {array.max()}; "
                "expected cluster numbers from 0 on."
            )


def _check_cells(
    counts: np.ndarray, tuples: np.ndarray, least: int, centres: np.ndarray | None
) -> None:
    fits = centres is None or (np.ndim(centres) == 2 and len(centres) == len(counts))
    if counts.ndim != 1 or tuples.ndim != 2 or len(tuples) != len(counts) or not fits:
        raise ValueError(
            f"got counts {list(counts.shape)}, tuples {list(tuples.shape)} and centres "
            f"{None if centres is None else list(np.shape(centres))}; expected one of each per cell."
        )
    if not len(counts) or not tuples.shape[1]:
        raise ValueError("got no cells, or cells without a stage; expected at least one of each.")
    if least < 1:
        raise ValueError(f"least: got {least}; expected a size of at least 1.")
