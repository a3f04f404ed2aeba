"""Finds the candidates nearest to each row, in blocks, so that n x m scores never exist at once."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bias_clip.core.norms import unit_rows

_BLOCK_ELEMENTS = 2**22  # scores held at a time when no block size is given: 32 MB in float64
_DEVICE_ELEMENTS = 2**24  # the same in float32, on the device: 64 MB


def unit(z: Float[np.ndarray, "*n d"], *, dtype: Any = np.float32) -> Float[np.ndarray, "*n d"]:
    """Divides each row by its length, in `dtype`; a row of zeros stays zero."""
    return unit_rows(np.asarray(z, dtype))[0]


def similarity(
    z: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """Dot products, taken in float64 and rounded to float32.

    The last bit of a float32 matrix product may depend on the shapes of the operands. After rounding
    from float64, equal embeddings have equal scores at any position, so block sizes do not matter.
    """
    # Callers with many blocks pass float64, which is then not copied for each.
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

    Scores are those of `similarity`. All of them in float64 would take minutes, so the device computes
    them in float32, and only those that rounding could put on the wrong side are computed exactly.

    Returns:
      Ranks 0..m-1; m for a row without a correct candidate, or whose scores are NaN.
    """
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    best, first = _best_pairs(z, candidates, rows, columns)
    margin = _margins(z, candidates)
    # Converted and sent once, not for every block.
    z32, c32 = z.astype(np.float32), jnp.asarray(candidates, jnp.float32)
    # Blocks of one size, so that one program is compiled: the last one is padded.
    size = min(block_size or max(1, _DEVICE_ELEMENTS // max(len(candidates), 1)), max(len(z), 1))
    ranks = np.full(len(z), len(candidates))
    for block in row_blocks(len(z), len(candidates), size if block_size is None else block_size):
        part = [_padded(x[block], size) for x in (z32, best, margin)]
        # above [b] counts; near [b, m] marks the few candidates whose order float32 cannot tell.
        above, near = _compare(*part, c32)
        ranks[block] = np.asarray(above)[: block.stop - block.start]
        at, column = np.nonzero(np.asarray(near)[: block.stop - block.start])
        at += block.start
        exact = _pair_scores(z, candidates, at, column)
        before = ~(exact <= best[at])  # not ">": a NaN score must not win
        before |= (exact == best[at]) & (column < first[at])
        # Weights of bincount are float64; the sums are counts, so that the cast is exact.
        ranks += np.bincount(at, before, len(z)).astype(ranks.dtype)
    return ranks


def _best_pairs(
    z: np.ndarray, candidates: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The score of each row's best correct candidate and the first candidate that has it."""
    own = _pair_scores(z, candidates, rows, columns)
    # -inf stays for a row without a correct candidate: all candidates are then above it, for rank m.
    best = np.full(len(z), -np.inf, np.float32)
    # Not `best[rows] = ...`, which keeps only the last of several pairs of a row.
    np.maximum.at(best, rows, own)
    at_best = own == best[rows]
    first = np.full(len(z), len(candidates))
    np.minimum.at(first, rows[at_best], columns[at_best])
    return best, first


def _pair_scores(
    z: np.ndarray, candidates: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """`similarity` of the pairs alone, in parts of at most 2**22 numbers."""
    scores = np.empty(len(rows), np.float32)
    for part in row_blocks(len(rows), z.shape[1]):
        # Indexed in parts: all pairs at once would copy [p, d] of both sides.
        a, b = z[rows[part]], candidates[columns[part]]
        scores[part] = np.einsum("pd,pd->p", a.astype(np.float64), b.astype(np.float64))
    return scores


def _margins(z: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """How far a score in float32 may be from the exact one, for each row.

    The rounding of d products and sums behaves as a random walk: its deviation is below sqrt(d) / 4
    epsilons of the rows' lengths. This takes eight times as much, and never less than a few epsilons.
    """
    longest = np.linalg.norm(candidates, axis=1).max(initial=0)
    epsilons = 4 + 2 * math.sqrt(z.shape[1])
    return (np.finfo(np.float32).eps * epsilons * longest * np.linalg.norm(z, axis=1)).astype(
        np.float32
    )


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))


@jax.jit
def _compare(z: Array, best: Array, margin: Array, candidates: Array) -> tuple[Array, Array]:
    """Counts the candidates clearly above a row's best correct one, and marks those too near to say."""
    # HIGHEST: a TPU would multiply in bfloat16 otherwise, and a GPU in TF32.
    scores = jnp.matmul(z, candidates.T, precision=jax.lax.Precision.HIGHEST)
    high, low = (best + margin)[:, None], (best - margin)[:, None]
    above = ~(scores <= high)  # not ">": NaN must not win
    return above.sum(axis=1), (scores >= low) & ~above


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
    # A full stable sort and not argpartition, which would break ties in any order.
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]
