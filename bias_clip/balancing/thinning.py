"""From weights to rows: decides which rows are kept and how often, for each row independently.

The decision is a function of only (seed, id, weight). The order of the rows, the shard, the worker and
earlier calls have no influence. (This is the project's way to draw; we do not know the paper's.)
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64, UInt64

from bias_clip.core.hashing import mix

Ids = np.ndarray | Sequence[str] | Sequence[bytes]  # an array of integers or of strings


def keep(
    seed: int,
    ids: Ids,
    weights: Float[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """The number of copies of each row, on average its weight: floor(weight), plus one at random.

    With weights up to 1 this is 0 or 1. With the same seed, a row that is kept at some weight is kept
    at any larger weight. Rows with the same id get the same draw; another seed draws again.

    Args:
      seed: an integer of 64 bits.
      ids: distinct integers, strings or bytes. Strings are hashed as UTF-8 by BLAKE2b, about a
        million per second; integers are much faster. 5 and "5" are different ids.
      weights: weights from `solve`, looked up per row.

    Raises:
      ValueError: weights that are negative, not finite or not one per id; ids of another type.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import keep
      >>> keep(0, ["a", "b", "c", "d"], np.array([1.0, 0.0, 2.0, 0.5]))[:3]
      array([1, 0, 2])
    """
    weights = check_weights(weights, ids)
    whole = np.floor(weights)
    # The same number decides at every weight, so raising a weight never drops a row.
    return (whole + (hash01(seed, ids) < weights - whole)).astype(np.int64)


def hash01(seed: int, ids: Ids) -> Float[np.ndarray, " n"]:
    """One number in [0, 1) per (seed, id), uniform over ids, with 53 random bits.

    Reference: the mixing function of SplitMix64; Steele, Lea, Flood, Fast splittable pseudorandom
    number generators, 2014.
    """
    # A float64 holds 53 bits, so that the 11 lowest are cut before the division.
    return (hash64(seed, ids) >> np.uint64(11)) * 2.0**-53


def hash64(seed: int, ids: Ids) -> UInt64[np.ndarray, " n"]:
    """The 64 bits that `hash01` is made of; distinct integers have distinct ones."""
    key = mix(np.array([seed % 2**64], np.uint64))
    # Each is mixed before they meet. Otherwise seed 1 with id 2 would give the draw of seed 2 with id 1.
    return mix(mix(_integers(ids)) ^ key)


def check_weights(weights: Float[np.ndarray, " n"], ids: Ids) -> Float[np.ndarray, " n"]:
    """The weights as float64; raises ValueError unless there is a finite one of at least 0 per id."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(ids),):
        raise ValueError(f"weights: got shape {weights.shape}; expected ({len(ids)},), one per id.")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            "weights: got negative or non-finite values; expected finite numbers of 0 or more."
        )
    return weights


def _integers(ids: Ids) -> UInt64[np.ndarray, " n"]:
    words = not isinstance(ids, np.ndarray) and all(isinstance(x, str | bytes) for x in ids)
    # Strings are not made an array: NumPy would pad all of them to the longest.
    array = np.zeros(len(ids), object) if words else np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"ids: got shape {array.shape}; expected one id per row.")
    if array.dtype.kind == "i":
        # Negative ids keep their bits, so that different ids stay different.
        return array.astype(np.int64).view(np.uint64)
    if array.dtype.kind == "u":
        return array.astype(np.uint64)
    if not words and not all(isinstance(x, str | bytes) for x in ids):
        raise ValueError(f"ids: got {array.dtype}; expected integers, strings or bytes.")
    raw = (x.encode() if isinstance(x, str) else x for x in ids)
    # Not Python's `hash`, which differs between processes. "<u8": the same on every machine.
    digests = b"".join(hashlib.blake2b(x, digest_size=8).digest() for x in raw)
    return np.frombuffer(digests, "<u8").astype(np.uint64)
