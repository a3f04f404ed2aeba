"""Numbers that tell whether the arrays that were read are the arrays that were written."""

import json
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from bias_clip.train.sharding import path_name

_HALF = 0xFFFF
# Odd multipliers of a 32-bit mix whose output bits each depend on each input bit (C. Wellons, 2018).
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B
_SPREAD = 0x9E3779B1  # 2**32 / golden ratio, odd: makes the second hash another function


def checksums(tree: Any) -> dict[str, str]:
    """Returns a 256-bit number per array, as 64 hexadecimal digits: eight sums modulo 2**32.

    An array is read as words w_i of up to 32 bits, i the row-major index. For each half h of a word
    (lower and upper 16 bits) there are three sums, for each of two hashes one:

        sum_i h_i     sum_i (i mod 2**16) h_i     sum_i floor(i / 2**16) h_i     sum_i hash(w_i, i)

    *Every* change of one or two words changes the number, in arrays of up to 2**32 words. Let a half
    change by d at i. The first sum then demands -d at j, so the others change by (i' - j') d, where i'
    and j' are 16-bit halves of the indices. Both factors are below 2**16 in size, so the product is
    zero modulo 2**32 only where i' = j'; that holds for both halves of the indices only if i = j. A
    change of more words, such as a long burst, goes unnoticed with a chance of about 2**-64.

    Computed where the array lies, with one read of it, by integers alone: the number is the same
    under any sharding, on any number of devices and hosts.

    Args:
      tree: of arrays with elements of 1, 2, 4 or 8 bytes; all processes call with the same.

    Returns:
      By path, "params/img/kernel".
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    found = jax.device_get(_checksums(leaves))
    return {name: "".join(f"{int(x):08x}" for x in lanes) for name, lanes in found.items()}


def text_checksum(value: Any) -> int:
    """Returns the CRC of what JSON holds of `value`, whatever the order of keys and the spacing."""
    # Through JSON first, so that a tuple and a list, or 1 and "1" as a key, are what the file will hold.
    plain = json.loads(json.dumps(value))
    # Sorted keys: the sum must not depend on the order in which they were written.
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


@jax.jit
def _checksums(leaves: dict[str, Array]) -> dict[str, tuple[UInt32[Array, ""], ...]]:
    """One program for all arrays: one for each shape took seconds to compile."""
    return {name: _checksum(leaf) for name, leaf in leaves.items()}


@jax.jit  # inside of the program above: traced once for all arrays of a shape, such as moments
def _checksum(x: Array) -> tuple[UInt32[Array, ""], ...]:
    words = _bits(x)
    index = _index(words.shape)
    low, high = index & _HALF, index >> 16
    terms = [
        term for half in (words & _HALF, words >> 16) for term in (half, half * low, half * high)
    ]
    where = _mix(index ^ jnp.uint32(_SPREAD))
    terms += [_mix(words ^ where), _mix(words * jnp.uint32(_SPREAD) + _mix(where))]
    # One reduction of eight operands, so that the array is read once: eight sums were 30 times slower
    # on a CPU. Of a sharded array XLA gathers the parts' eight numbers alone.
    zeros = (jnp.uint32(0),) * len(terms)
    return jax.lax.reduce(tuple(terms), zeros, _add, tuple(range(words.ndim)))


def _add(one: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _index(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The row-major index of each word in the whole array, modulo 2**32."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):  # not of the flattened array, which sharding would gather
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        index += stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A bijection of 32 bits that no sum and no exclusive or commutes with."""
    x = (x ^ (x >> 16)) * jnp.uint32(_FIRST)
    x = (x ^ (x >> 15)) * jnp.uint32(_SECOND)
    return x ^ (x >> 16)


def _bits(x: Array) -> UInt32[Array, "..."]:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)  # two per element, in a last axis
    # The bits and not the values: NaN has a sum, and 0 differs from -0.
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
