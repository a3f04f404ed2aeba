"""Lengths of rows, right for every number that a float holds."""

import numpy as np
from jaxtyping import Float


def unit_rows(
    z: Float[np.ndarray, "*n d"],
) -> tuple[Float[np.ndarray, "*n d"], Float[np.ndarray, " *n"]]:
    """Divides each row by its length; a row of zeros stays zero.

    The squares of a float32 above 1.8e19 are infinite, and those below 1e-23 are zero. Where a row comes near
    to that, each row is first divided by a power of two near its largest number. This is exact, so that the
    bits of other rows do not depend on it.

    Args:
      z: rows in the dtype of the results.

    Returns:
      The rows of unit length, and the lengths before. A length beyond the dtype is infinite, and its unit row
      is right nevertheless.
    """
    largest = np.maximum(z.max(axis=-1, initial=0), -z.min(axis=-1, initial=0))
    # The exponent of infinity or NaN is not defined; such rows stay as they are.
    exponent = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    # Squares of numbers within this range are at most the square root of the largest float, or 1 over it.
    near = np.abs(exponent) <= np.finfo(z.dtype).maxexp // 4
    if near.all():
        length = np.linalg.norm(z, axis=-1)
        return z / np.where(length > 0, length, 1)[..., None], length
    z = np.ldexp(z, -exponent[..., None])
    length = np.linalg.norm(z, axis=-1)
    with np.errstate(over="ignore"):
        return z / np.where(length > 0, length, 1)[..., None], np.ldexp(length, exponent)
