"""Random permutations that are computed one entry at a time, and stored nowhere."""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 24  # 8 leave the order of 7 entries visibly uneven, 12 no longer


def make_key(*parts: int | str) -> np.uint64:
    """A key of 64 bits for a list of numbers and words: other lists, other keys."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def mix(x: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """SplitMix64: every bit of the result depends on every bit of x; wraps around by design."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(
    places: Int64[np.ndarray, " n"],
    sizes: Int64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """The entry at `places[i]` of the permutation of `range(sizes[i])` that `keys[i]` names.

    Each round pairs all entries, x with pivot - x, and swaps a pair or not by a hash of the larger: a
    bijection at every size, two or two billion.

    Reference: Hoang, Morris, Rogaway, An enciphering scheme based on a card shuffle, 2012.
    """
    sizes = sizes.astype(np.uint64)
    turns = keys + np.arange(2 * _ROUNDS, dtype=np.uint64)[:, None]
    pivots, salts = np.split(mix(turns), 2)
    pivots %= sizes
    x = places.astype(np.uint64)
    for pivot, salt in zip(pivots, salts, strict=True):
        partner = (pivot + sizes - x) % sizes
        swap = mix(salt ^ np.maximum(x, partner)) & np.uint64(1)
        x = np.where(swap, partner, x)
    return x.astype(np.int64)
