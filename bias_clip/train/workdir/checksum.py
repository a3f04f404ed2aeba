"""Numbers that tell whether the arrays that were read are the arrays that were written."""

import json
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from bias_clip.train.sharding import path_name

_SPREAD, _START = 0x9E3779B1, 0x85EBCA6B  # odd multiplier and offset of a multiplicative hash


def checksums(tree: Any) -> dict[str, int]:
    """Returns a 32-bit number per array: the sum of its elements' bits, each times a weight.

        sum_i (weight(i) | 1) * bits(x_i)   modulo 2**32, i the row-major index

    Computed where the array lies, one read of it, and by integers alone: the number is the same under
    any sharding, on any number of devices and hosts. One changed element always changes it (an odd
    weight is invertible), more do except with a chance of 2**-32.

    Args:
      tree: of arrays with elements of 1, 2, 4 or 8 bytes; all processes call with the same.

    Returns:
      By path, "params/img/kernel".
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = {path_name(path): _checksum(leaf) for path, leaf in leaves}
    return {name: int(value) for name, value in jax.device_get(sums).items()}


def text_checksum(value: Any) -> int:
    """Returns the CRC of what JSON holds of `value`, whatever the order of keys and the spacing."""
    plain = json.loads(json.dumps(value))
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


@jax.jit
def _checksum(x: Array) -> UInt32[Array, ""]:
    bits = _bits(x)
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):  # not of the flattened array, which sharding would gather
        stride = jnp.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
        index += stride * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    weight = index * jnp.uint32(_SPREAD) + jnp.uint32(_START)
    weight = (weight ^ (weight >> 15)) | 1
    return jnp.sum(weight * bits, dtype=jnp.uint32)


def _bits(x: Array) -> UInt32[Array, "..."]:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)  # two per element, in a last axis
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
