"""What a caller can get wrong and what a trace can know: said before any arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def check_pairs(**embeddings: Array) -> None:
    """Raises unless all are float arrays [rows, width] of one shape."""
    for name, z in embeddings.items():
        if z.ndim != 2 or not jnp.issubdtype(z.dtype, jnp.floating):
            raise ValueError(
                f"{name}: got {z.dtype}{list(z.shape)}, expected float embeddings [rows, width]"
            )
    if len({z.shape for z in embeddings.values()}) > 1:
        shapes = ", ".join(f"{name}{list(z.shape)}" for name, z in embeddings.items())
        raise ValueError(f"got {shapes}, expected one shape: row i of each is the same example")


def check_ids(rows: int, **ids: Array | None) -> None:
    """Raises unless each is None or one integer per row."""
    for name, x in ids.items():
        if x is not None and (x.shape != (rows,) or not jnp.issubdtype(x.dtype, jnp.integer)):
            raise ValueError(
                f"{name}: got {x.dtype}{list(x.shape)}, expected integer ids [{rows}], one per row"
            )


def check_weights(rows: int, **weights: Array | None) -> None:
    """Raises unless each is None or one non-negative number per row."""
    for name, x in weights.items():
        if x is not None and x.shape != (rows,):
            raise ValueError(f"{name}: got shape {x.shape}, expected ({rows},), one per row")
        if is_known(x) and np.any(np.asarray(x) < 0):
            smallest = np.asarray(x).min()
            raise ValueError(f"{name}: got {smallest} as smallest, expected no negative weight")


def is_known(x: Array | float | None) -> bool:
    """Tells whether the values can be looked at: not inside a transformation, not on other hosts.

    Look with NumPy: inside `jit` a jax operation on a known array gives an unknown one.
    """
    if x is None or isinstance(x, jax.core.Tracer):
        return False
    return getattr(x, "is_fully_addressable", True)


def check_choice(*, choices: tuple[str, ...], **choice: str) -> None:
    """Raises unless a word is one of the listed ones."""
    for name, x in choice.items():
        if x not in choices:
            raise ValueError(f"{name}: got {x!r}, expected one of {', '.join(map(repr, choices))}")


def check_positives(rows: int, positives: Array | None) -> None:
    """Raises unless None or booleans, one line for each local row."""
    if positives is not None and (
        positives.ndim != 2 or positives.shape[0] != rows or positives.dtype != jnp.bool_
    ):
        raise ValueError(
            f"positives: got {positives.dtype}{list(positives.shape)}, "
            f"expected bool[{rows}, rows of all devices]"
        )


def check_prior(rows: int, prior: Array | float) -> None:
    """Raises unless a probability below 1: a number, one per row, or two per row."""
    if jnp.shape(prior) not in ((), (rows,), (rows, 2)):
        raise ValueError(
            f"prior: got shape {jnp.shape(prior)}, expected a number, ({rows},) or ({rows}, 2)"
        )
    if is_known(prior) and not np.all((np.asarray(prior) >= 0) & (np.asarray(prior) < 1)):
        low, high = np.min(np.asarray(prior)), np.max(np.asarray(prior))
        raise ValueError(f"prior: got values from {low} to {high}, expected them in [0, 1)")


def check_bias_labels(rows: int, bias_labels: Array) -> None:
    """Raises unless one integer per row, or one line of probabilities."""
    if bias_labels.ndim == 2 and jnp.issubdtype(bias_labels.dtype, jnp.floating):
        good = bias_labels.shape[0] == rows
    else:
        good = bias_labels.shape == (rows,) and jnp.issubdtype(bias_labels.dtype, jnp.integer)
    if not good:
        raise ValueError(
            f"bias_labels: got {bias_labels.dtype}{list(bias_labels.shape)}, "
            f"expected integer ids [{rows}] or float probabilities [{rows}, values]"
        )
