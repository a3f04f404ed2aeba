"""Which records are copies of others, from hashes of 64 bits."""

import itertools

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BLOCK = 2048  # hashes whose pairs are compared at a time: 32 MB of differences


def copies_of(
    groups: np.ndarray,
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Returns the size of each record's group, and whether the record is the first of its group."""
    _, first, place, counts = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    is_first = np.zeros(len(groups), bool)
    is_first[first] = True
    return counts[place], is_first


def near_groups(hashes: UInt64[np.ndarray, " n"], *, bits: int) -> Int64[np.ndarray, " n"]:
    """Numbers groups of hashes: those that differ by at most `bits` bits are in one group.

    Chains count: a and c are in one group if both are near b. Of `bits + 1` pieces of two near hashes,
    at least one is equal (the pigeonhole principle), so only hashes with an equal piece are compared.

    Raises: ValueError for bits outside 0..15; beyond that, unlike images are near.
    """
    if not 0 <= bits <= 15:
        raise ValueError(f"got bits={bits}; expected 0 to 15 of 64.")
    values, place = np.unique(hashes, return_inverse=True)  # exact copies need no comparison
    # bits + 1 pieces of nearly equal length: longer pieces are shared by fewer unlike hashes.
    edges = np.linspace(0, 64, bits + 2).astype(int)
    rows, columns = list[np.ndarray](), list[np.ndarray]()
    for low, high in itertools.pairwise(edges.tolist()):
        piece = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        for group in _equal(piece):
            i, j = _near_pairs(values[group], bits)
            rows.append(group[i])
            columns.append(group[j])
    i, j = (np.concatenate(parts or [np.zeros(0, np.int64)]) for parts in (rows, columns))
    # Components join chains of near pairs.
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(len(values), len(values)))
    return connected_components(graph, directed=False)[1][place].astype(np.int64)


def _equal(piece: np.ndarray) -> list[np.ndarray]:
    """The indices of each value that occurs twice or more."""
    order = np.argsort(piece, kind="stable")
    # The appended number differs from the last one, so that the last group ends too.
    ends = np.flatnonzero(np.diff(piece[order], append=piece[order[-1:]] + np.uint64(1)) != 0) + 1
    return [part for part in np.split(order, ends) if len(part) > 1]


def _near_pairs(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for start in range(0, len(values), _BLOCK):
        for other in range(start, len(values), _BLOCK):
            a, b = values[start : start + _BLOCK], values[other : other + _BLOCK]
            i, j = np.nonzero(np.bitwise_count(a[:, None] ^ b[None]) <= bits)
            found.append((i + start, j + other))
    i, j = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Each pair once, and no hash with itself.
    return i[i < j], j[i < j]
