"""k-means of embeddings in memory, on any number of devices; `kmeans_stream` takes larger sets."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from bias_clip.stages._lloyd import Run, empty_run, lloyd, nearest
from bias_clip.stages._plus_plus import plus_plus, random_key
from bias_clip.stages._rows import AxisName, Values, compute_dtype, fold_rows, make_rows

EMPTY = ("farthest", "keep")
CHUNK_SIZE, CPU_CHUNK_SIZE = 16_384, 1024
"""Rows at a time, by default: many for an accelerator, few for a CPU, where they stay in the cache."""
_SMALL = 1 / 8  # Distances are small that need at most this share of the memory of the rows.
SHOWN = 5  # rows in an error


class KMeans(NamedTuple):
    """A clustering.

    Attributes:
      centres: the means of their members, normalised to unit length if `spherical`.
      labels: the nearest centre of each (local) row; ties go to the lowest number.
      inertia: weighted sum of squared distances of all rows to their centre.
      iterations: passes that moved the centres, including the one that found them at rest.
      counts: rows of positive weight per label; 0 if a centre is the nearest of no row.

    `fit` returns JAX arrays; `fit_stream` returns labels, iterations and counts as NumPy arrays.
    """

    centres: Float[Values, "k d"]
    labels: Int[Values, " b"]
    inertia: Float[Values, ""]
    iterations: Int[Values, ""]
    counts: Int[Values, " k"]


def fit(
    x: Float[Array, "b d"],
    k: int,
    *,
    seed: int = 0,
    init: Float[Array, "k d"] | None = None,
    weights: Shaped[Array, " b"] | None = None,
    n_init: int = 1,
    max_iterations: int = 300,
    tol: float = 1e-4,
    empty: str = "farthest",
    spherical: bool = False,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> KMeans:
    """Clusters rows by Lloyd's iterations from k-means++ centres; keeps the best of `n_init` starts.

    ::

        label(i)  = argmin_c |x_i - centre_c|^2
        centre_c <- sum of w_i x_i with label c / sum of w_i with label c

    Under `axis_name` every device must hold the same number of rows. All devices get the same
    centres: up to rounding, those of one device with all rows. Draws depend on the seed and on row
    numbers over all devices (below 2^31), so padding (weight 0) must follow the rows of the last
    device.

    Memory: distances to all centres for `chunk_size` rows at a time; while the first centres are
    drawn, 2 + log k numbers per row.

    Args:
      x: embeddings. Distances are Euclidean; for unit-norm rows they rank like cosines. bfloat16 and
        float16 rows are computed in float32.
      k: number of clusters.
      seed: seed of the draws.
      init: centres to start from instead.
      weights: one non-negative number or boolean per row, 0 for padding; None is 1 for all rows.
      n_init: number of starts; the one with the least inertia is kept.
      max_iterations: largest number of iterations per start.
      tol: centres rest when the sum of their squared shifts is at most tol times the mean variance
        of a column, as in scikit-learn; 0 continues until nothing moves.
      empty: where a cluster without members goes: "farthest" moves it to the row farthest from its
        centre (the second such cluster to the second such row), "keep" leaves it in place.
      spherical: normalises centres to unit length after each update.
      chunk_size: rows whose distances are held at the same time; None: as the platform takes them
        best, `CHUNK_SIZE` or `CPU_CHUNK_SIZE`; on a CPU all rows if k is at most an eighth of their
        width.
      axis_name: mapped axis or axes over which the rows are spread; None for one device.

    Raises:
      ValueError: arguments of wrong shape or value; fewer rows, or fewer distinct rows, than
        clusters; rows that are not finite, or have numbers above 1.8e13 in float32, whose sums of
        squares may not be. The values of traced arrays are not checked: there, zeros in `counts` and a
        non-finite inertia are the signs.

    Reference: Lloyd, Least squares quantization in PCM, 1982; Arthur and Vassilvitskii, k-means++,
      2007. Multistage contrastive learning (Zhang et al., 2024) uses scikit-learn's mini-batches;
      here each iteration passes over all rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.stages.kmeans import fit
      >>> found = fit(jnp.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), 2)
      >>> found.counts[found.labels].tolist()
      [1, 2, 2]
    """
    chunk_size = settle_chunk_size(chunk_size, x, k)
    _check(x, k, init=init, weights=weights, n_init=n_init, empty=empty, chunk_size=chunk_size)
    check_numbers(max_iterations=max_iterations, tol=tol)
    rows = x.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    if k > rows:
        raise ValueError(f"got {rows} rows for k={k} clusters; expected at least as many as k.")
    if _is_known(x, weights):
        # The check reads values, which are unknown under a trace or on other hosts.
        _check_values(x, None if weights is None else np.asarray(weights), k)
    found, distinct = _fit(
        *(jnp.asarray(x), init, weights, seed, n_init, max_iterations, tol),
        k=k,
        empty=empty,
        spherical=spherical,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    # Under jit the number is not known yet; the docstring says what to look at there.
    if _is_known(distinct) and distinct < k:
        raise ValueError(
            f"got {int(distinct)} distinct rows for k={k} clusters (nearer than a thousandth of their "
            "length, or than 1e-19, counts as the same in float32); choose a smaller k, or check whether the "
            "embeddings have collapsed."
        )
    return found


def assign(
    x: Float[Array, "b d"], centres: Float[Array, "k d"], *, chunk_size: int | None = None
) -> Int[Array, " b"]:
    """The nearest centre of each row; ties go to the lowest number.

    Raises: ValueError if the rows are not floats [rows, width] of the centres' width.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.stages.kmeans import assign
      >>> assign(jnp.array([[0.9], [0.1], [0.5]]), jnp.array([[0.0], [1.0]])).tolist()
      [1, 0, 0]
    """
    check_rows(x)
    check_centres(centres, centres.shape[0], x.shape[1])
    chunk_size = settle_chunk_size(chunk_size, x, centres.shape[0])
    return _assign(jnp.asarray(x), jnp.asarray(centres), chunk_size=chunk_size)


def check_rows(x: Float[Values, "b d"], width: int | None = None) -> None:
    """Raises unless floats [rows, width] with some rows."""
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating) or not x.shape[0]:
        raise ValueError(f"x: got {x.dtype}{list(x.shape)}; expected float rows [rows, width].")
    if width is not None and x.shape[1] != width:
        raise ValueError(f"x: got rows of width {x.shape[1]}; expected {width} as before.")


def check_centres(centres: Float[Values, "k d"], k: int, width: int) -> None:
    """Raises unless floats [k, width]."""
    if centres.shape != (k, width) or not jnp.issubdtype(centres.dtype, jnp.floating):
        raise ValueError(
            f"centres: got {centres.dtype}{list(centres.shape)}; expected floats {[k, width]}, "
            "one row per cluster."
        )


def check_numbers(**numbers: float | int) -> None:
    """Raises unless each is 0 or more."""
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"{name}: got {value}; expected a number of 0 or more.")


def check_finite(x: Values, weights: np.ndarray | None = None, first: int = 0) -> None:
    """Raises, naming the rows that are not finite, or so large that sums of squares are not.

    x[0] is row `first`.
    """
    most = min(float(jnp.finfo(x.dtype).max), _largest(compute_dtype(x)))
    # A NumPy array stays on the host: no copy to a device for a check.
    on_host = isinstance(x, np.ndarray)
    within = (np.abs(x) <= most).all(axis=1) if on_host else np.asarray(_within(x, most))
    bad = np.flatnonzero(~within & (True if weights is None else weights > 0))
    if len(bad):
        raise ValueError(
            f"x: got {len(bad)} rows with numbers that are not finite, or above {most:.2g}, such as "
            f"{(first + bad[:SHOWN]).tolist()}; leave them out (weight 0), divide all rows by one number, "
            "or use a model that has not diverged."
        )


def settle_chunk_size(chunk_size: int | None, x: Values | None = None, k: int = 0) -> int:
    """The given number of rows, or the platform's for these rows and k centres.

    A CPU copies a chunk before it multiplies it: 1,024 rows stay in the cache meanwhile, and all rows
    need no copy at all.
    """
    if chunk_size is not None:
        return chunk_size
    if jax.default_backend() != "cpu":
        return CHUNK_SIZE
    if x is None or x.ndim != 2 or k > _SMALL * x.shape[1]:
        return CPU_CHUNK_SIZE
    # Rows of a narrower type would all be copied to the type of the arithmetic.
    return (
        max(1, x.shape[0]) if x.dtype == jnp.promote_types(x.dtype, jnp.float32) else CPU_CHUNK_SIZE
    )


def check_choices(k: int, n_init: int, empty: str, chunk_size: int) -> None:
    """Raises unless these are integers of at least 1, and `empty` is one of `EMPTY`."""
    for name, value in {"k": k, "n_init": n_init, "chunk_size": chunk_size}.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: got {value!r}; expected an integer of at least 1.")
    if empty not in EMPTY:
        raise ValueError(f"empty: got {empty!r}; expected one of {EMPTY}.")


@partial(
    jax.jit,
    static_argnames=("k", "empty", "spherical", "chunk_size", "axis_name"),
)
def _fit(x, init, weights, seed, n_init, max_iterations, tol, *, k, chunk_size, axis_name, **words):
    rows = make_rows(x, weights, axis_name)
    over = {"chunk_size": chunk_size, "axis_name": axis_name}

    def start(number: Array) -> tuple[Array, Array]:
        if init is not None:
            return init.astype(compute_dtype(x)), jnp.int32(k)
        # Each restart has a key of its own, so its draw does not depend on how many there are.
        return plus_plus(rows, jax.random.fold_in(random_key(seed), number), k, **over)

    def restart(number: Array, best: tuple[Run, Array]) -> tuple[Run, Array]:
        centres, distinct = start(number)
        iterating = {"max_iterations": max_iterations, "tol": tol, **words, **over}
        run = lloyd(rows, centres, **iterating)
        better = (number == 0) | (run.sums.inertia < best[0].sums.inertia)
        return jax.tree.map(partial(jnp.where, better), (run, distinct), best)

    # The carry needs a value before the first start; `number == 0` never lets it win.
    none = empty_run(k, x.shape[1], compute_dtype(x)), jnp.int32(0)
    (centres, sums, iterations), distinct = jax.lax.fori_loop(0, n_init, restart, none)
    labels = _assign(x, centres, chunk_size=chunk_size)
    return KMeans(centres, labels, sums.inertia, iterations, sums.counts), distinct


@partial(jax.jit, static_argnames="chunk_size")
def _assign(x, centres, *, chunk_size):
    centres = centres.astype(compute_dtype(x))
    return fold_rows(lambda _, x: ((), nearest(x, centres)[0]), (), x, chunk_size)[1]


@jax.jit
def _within(x, most):
    return (jnp.abs(x) <= most).all(axis=1)  # NaN is not


def _largest(dtype: Any) -> float:
    """The largest number whose squares may be added a million million times."""
    return float(jnp.finfo(dtype).max) ** 0.5 / 1e6


def _check(x, k, *, init, weights, n_init, empty, chunk_size) -> None:
    check_rows(x)
    check_choices(k, n_init, empty, chunk_size)
    if init is not None:
        check_centres(init, k, x.shape[1])
        if n_init > 1:
            raise ValueError(f"n_init: got {n_init} starts from one init; expected 1 with it.")
    if weights is not None and weights.shape != (x.shape[0],):
        raise ValueError(
            f"weights: got shape {list(weights.shape)}; expected [{x.shape[0]}], one per row."
        )


def _check_values(x: Values, weights: np.ndarray | None, k: int) -> None:
    if weights is not None:
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(
                "weights: got negative or non-finite values; expected finite numbers of 0 or more."
            )
        if (weights > 0).sum() < k:
            raise ValueError(
                f"got {(weights > 0).sum()} rows of positive weight for k={k} clusters; expected at "
                "least as many as k."
            )
    check_finite(x, weights)


def _is_known(*arrays: Array | None) -> bool:
    return all(
        not isinstance(a, jax.core.Tracer) and getattr(a, "is_fully_addressable", True)
        for a in arrays
        if a is not None
    )
