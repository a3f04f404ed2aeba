"""Finds the candidates nearest to each row, in blocks, so that n x m scores never exist at once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

_BLOCK_ELEMENTS = 2**22  # scores held at a time when no block size is given: 32 MB in float64


def unit(z: Float[np.ndarray, "*n d"], *, dtype: Any = np.float32) -> Float[np.ndarray, "*n d"]:
    """Divides each row by its length, in `dtype`; a row of zeros stays zero."""
    z = np.asarray(z, dtype)
    length = np.linalg.norm(z, axis=-1, keepdims=True)
    return z / np.where(length > 0, length, 1)


def similarity(
    z: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """Dot products, taken in float64 and rounded to float32.

    The last bit of a float32 matrix product may depend on the shapes of the operands. After rounding
    from float64, equal embeddings have equal scores at any position, so block sizes do not matter.
    """
    wide = candidates.astype(np.float64, copy=False)
    return (z.astype(np.float64, copy=False) @ wide.T).astype(np.float32)


def row_blocks(rows: int, columns: int, block_size: int | None = None) -> Iterator[slice]:
    """Slices that cover `rows`, with `block_size` rows each, or as many as fit in 32 MB of scores."""
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected at least 1, or None to choose.")
    size = block_size or max(1, _BLOCK_ELEMENTS // max(columns, 1))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def best_ranks(
    z: Float[np.ndarray, "n d"],
    candidates: Float[np.ndarray, "m d"],
    rows: Int[np.ndarray, " p"],
    columns: Int[np.ndarray, " p"],
    *,
    block_size: int | None = None,
) -> Int[np.ndarray, " n"]:
    """For each row, the number of candidates that come before its best correct one.

    Pair (rows[p], columns[p]) means that candidate columns[p] is correct for row rows[p]; a row may
    have several correct candidates or none. Candidates are sorted by decreasing score, ties by
    increasing index. Rank 0 is a hit at 1; a rank below k is a hit at k.

    Returns:
      Ranks 0..m-1; m for a row without a correct candidate, or whose scores are NaN.
    """
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    ranks = np.full(len(z), len(candidates))
    candidates = candidates.astype(np.float64)  # converted once, not for every block
    for block in row_blocks(len(z), len(candidates), block_size):
        low, high = np.searchsorted(rows, (block.start, block.stop))
        scores = similarity(z[block], candidates)
        ranks[block] = score_ranks(scores, rows[low:high] - block.start, columns[low:high])
    return ranks


def score_ranks(
    scores: Float[np.ndarray, "n m"], rows: Int[np.ndarray, " p"], columns: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " n"]:
    """`best_ranks` from given scores."""
    own = scores[rows, columns]
    best = np.full(len(scores), -np.inf, scores.dtype)
    np.maximum.at(best, rows, own)
    at_best = own == best[rows]
    first = np.full(len(scores), scores.shape[1])
    np.minimum.at(first, rows[at_best], columns[at_best])
    before = ~(scores <= best[:, None])  # not ">": a NaN score must not win
    tied = (scores == best[:, None]) & (np.arange(scores.shape[1]) < first[:, None])
    return np.sum(before | tied, axis=1)


def top_columns(
    z: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"], count: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """The `count` best candidates of each row, best first, and their scores; meant for few rows."""
    scores = similarity(z, candidates)
    top = top_of_scores(scores, count)
    return top, np.take_along_axis(scores, top, axis=1)


def top_of_scores(scores: Float[np.ndarray, "n m"], count: int) -> Int[np.ndarray, "n k"]:
    """The `count` best candidates of each row (all if there are fewer); ties by increasing index."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]
