"""Random permutations whose entries are computed one at a time; no permutation is stored."""

import numpy as np
from jaxtyping import Int64, UInt64

from bias_clip.core.hashing import mix

_ROUNDS = 24  # 8 leave the order of 7 entries visibly uneven, 12 no longer


def permute(
    places: Int64[np.ndarray, " n"],
    sizes: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """The entry at `places[i]` of the permutation of `range(sizes[i])` that `keys[i]` selects.

    Each round pairs x with pivot - x for all entries. A hash of the larger one decides whether the
    pair is swapped. This is a bijection at every size.

    Reference: Hoang, Morris, Rogaway, An enciphering scheme based on a card shuffle, 2012.
    """
    sizes = sizes.astype(np.uint64)
    # Per round a pivot and a salt; wrapping around in uint64 is intended.
    turns = keys + np.arange(2 * _ROUNDS, dtype=np.uint64)[:, None]
    pivots, salts = np.split(mix(turns), 2)
    pivots %= sizes
    x = places.astype(np.uint64)
    for pivot, salt in zip(pivots, salts, strict=True):
        partner = (pivot + sizes - x) % sizes
        # x and its partner compute the same larger entry, so they agree whether to swap.
        swap = mix(salt ^ np.maximum(x, partner)) & np.uint64(1)
        x = np.where(swap, partner, x)
    return x.astype(np.int64)
