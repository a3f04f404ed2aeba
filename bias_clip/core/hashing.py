"""Numbers that look random and are a function of what they are made from, on every machine."""

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: the step of SplitMix64


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output of SplitMix64 at state x: a bijection in which every bit depends on every bit of x.

    Sums and products wrap around, which NumPy does for arrays without a warning, not for scalars.

    Args:
      x: states, an array of any shape.

    Reference: Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014, section 4;
    the constants are David Stafford's variant 13, as in Java's SplittableRandom.
    """
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_key(*parts: int | str) -> np.uint64:
    """A key of 64 bits for a list of numbers and words: other lists, other keys."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def array_sha256(values: np.ndarray) -> str:
    """The SHA-256 of an array's numbers, little-endian on every machine, in hexadecimal digits."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()
