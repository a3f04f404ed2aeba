"""Checks the arguments of the losses before any arithmetic, as far as a trace can know them.

Shapes, dtypes and words are known while tracing, so they are always checked. Values are checked when
they are known (`is_known`): in a plain number, or an array made outside of a transformation. The
values of a traced array are unknown, so a negative weight or a prior of 1 in it passes unnoticed.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Scalar: TypeAlias = Float[Array, ""] | Float[Array, "1"] | float
"""One number, such as a scale, a bias or a temperature."""


def check_pairs(**embeddings: Array) -> None:
    """Raises unless all are float arrays [rows, width] of one shape."""
    for name, z in embeddings.items():
        if z.ndim != 2 or not jnp.issubdtype(z.dtype, jnp.floating):
            raise ValueError(f"{name}: got {_describe(z)}, expected float embeddings [rows, width]")
    if len({z.shape for z in embeddings.values()}) > 1:
        shapes = ", ".join(f"{name}{list(z.shape)}" for name, z in embeddings.items())
        raise ValueError(f"got {shapes}, expected one shape: row i of each is the same example")


def check_ids(rows: int, **ids: Array | None) -> None:
    """Raises unless each is None or one integer per row."""
    for name, x in ids.items():
        if x is not None and not _is_array(x, (rows,), jnp.integer):
            raise ValueError(
                f"{name}: got {_describe(x)}, expected integer ids [{rows}], one per row"
            )


def check_labels(rows: int, **labels: Array) -> None:
    """Raises unless each is given and has one integer per row."""
    for name, x in labels.items():
        if x is None:
            raise ValueError(f"{name}: got None, expected integer ids [{rows}], one per row")
    check_ids(rows, **labels)


def check_weights(rows: int, **weights: Array | None) -> None:
    """Raises unless each is None or one non-negative number per row."""
    for name, x in weights.items():
        if x is None:
            continue
        if not _is_real(x) or jnp.shape(x) != (rows,):
            raise ValueError(f"{name}: got {_describe(x)}, expected numbers [{rows}], one per row")
        # `not all(x >= 0)` and not `any(x < 0)`, which NaN would pass.
        if is_known(x) and not np.all(np.asarray(x) >= 0):
            smallest = np.asarray(x).min()
            raise ValueError(f"{name}: got {smallest} as smallest, expected no negative weights")


def check_values(values: Array) -> None:
    """Raises unless floats, one per row."""
    if not _is_real(values) or values.ndim != 1 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"values: got {_describe(values)}, expected floats [rows], one per row")


def check_scalars(**scalars: Scalar) -> None:
    """Raises unless each is one number, of shape [] or [1]."""
    for name, x in scalars.items():
        if not _is_real(x) or jnp.shape(x) not in ((), (1,)):
            raise ValueError(f"{name}: got {_describe(x)}, expected one number")


def as_scalar(x: Scalar, dtype: jnp.dtype) -> Float[Array, ""]:
    """The number without axes: big_vision and others keep scale and bias as arrays of shape [1]."""
    return jnp.asarray(x, dtype).reshape(())


def check_temperature(temperature: Scalar) -> None:
    """Raises unless one number above 0."""
    check_scalars(temperature=temperature)
    # `not x > 0` refuses NaN too.
    if is_known(temperature) and not np.asarray(temperature) > 0:
        raise ValueError(f"temperature: got {temperature}, expected a number above 0")


def check_not_negative(**scalars: Scalar) -> None:
    """Raises unless each is one number of 0 or more."""
    check_scalars(**scalars)
    for name, x in scalars.items():
        if is_known(x) and not np.asarray(x) >= 0:
            raise ValueError(f"{name}: got {x}, expected a number of 0 or more")


def check_chunk_size(chunk_size: int | None) -> None:
    """Raises unless None or a whole number of rows."""
    if chunk_size is None:
        return
    if not isinstance(chunk_size, int | np.integer) or chunk_size < 1:
        raise ValueError(
            f"chunk_size: got {chunk_size}, expected a positive number of rows or None"
        )


def is_known(x: Array | float | None) -> bool:
    """Whether the values can be read: they are neither traced nor on other hosts.

    Read them with NumPy: inside `jit`, a jax operation on a known array returns an unknown one.
    """
    if x is None or isinstance(x, jax.core.Tracer):
        return False
    return getattr(x, "is_fully_addressable", True)


def check_choice(*, choices: tuple[str, ...], **choice: str) -> None:
    """Raises unless each word is one of the choices."""
    for name, x in choice.items():
        if x not in choices:
            raise ValueError(f"{name}: got {x!r}, expected one of {', '.join(map(repr, choices))}")


def check_positives(rows: int, all_rows: int, positives: Array | None) -> None:
    """Raises unless None or booleans [local rows, all rows]."""
    if positives is not None and not _is_array(positives, (rows, all_rows), jnp.bool_):
        raise ValueError(
            f"positives: got {_describe(positives)}, expected bool[{rows}, {all_rows}]: "
            "one row per local row, one column per row of all devices"
        )


def check_prior(rows: int, prior: Array | float) -> None:
    """Raises unless a probability below 1: a number, one per row, or two per row."""
    if not _is_real(prior) or jnp.shape(prior) not in ((), (rows,), (rows, 2)):
        raise ValueError(
            f"prior: got {_describe(prior)}, expected a number, or numbers [{rows}] or [{rows}, 2]"
        )
    if is_known(prior) and not np.all((np.asarray(prior) >= 0) & (np.asarray(prior) < 1)):
        low, high = np.min(np.asarray(prior)), np.max(np.asarray(prior))
        raise ValueError(f"prior: got values from {low} to {high}, expected them in [0, 1)")


def check_bias_labels(rows: int, bias_labels: Array) -> None:
    """Raises unless one integer per row, or one vector of probabilities per row."""
    if getattr(bias_labels, "ndim", 0) == 2 and _is_real(bias_labels):
        good = bias_labels.shape[0] == rows and jnp.issubdtype(bias_labels.dtype, jnp.floating)
    else:
        good = _is_array(bias_labels, (rows,), jnp.integer)
    if not good:
        raise ValueError(
            f"bias_labels: got {_describe(bias_labels)}, "
            f"expected integer ids [{rows}] or float probabilities [{rows}, values]"
        )
    if bias_labels.ndim == 2 and is_known(bias_labels):
        p = np.asarray(bias_labels, np.float64)
        if not np.all(p >= 0) or not np.all(p.sum(axis=1) <= 1 + _ROUNDING):
            raise ValueError(
                f"bias_labels: got values from {p.min()} and rows that sum up to "
                f"{p.sum(axis=1).max()}, expected probabilities: none below 0, no row above 1"
            )


# Probabilities rounded to bfloat16 may sum to slightly more than 1.
_ROUNDING = 0.02


def _is_array(x: Any, shape: tuple[int, ...], kind: Any) -> bool:
    return getattr(x, "shape", None) == shape and jnp.issubdtype(x.dtype, kind)


def _is_real(x: Any) -> bool:
    if not hasattr(x, "dtype"):
        return isinstance(x, int | float)
    return any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _describe(x: Any) -> str:
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype}{list(x.shape)}"
    return repr(x) if isinstance(x, int | float | str | type(None)) else type(x).__name__
