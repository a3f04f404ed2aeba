"""k-means of embeddings that do not fit in memory: passes over chunks whose sums are merged."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from bias_clip.stages._lloyd import Sums, farthest, fill_empty, means, resting, sum_members
from bias_clip.stages._plus_plus import race, random_key
from bias_clip.stages._rows import Picked, compute_dtype, make_rows
from bias_clip.stages.kmeans import (
    KMeans,
    check_centres,
    check_choices,
    check_finite,
    check_numbers,
    check_rows,
    fit,
    settle_chunk_size,
)

Chunks = Callable[[], Iterator[np.ndarray]]
_SAMPLE = 2**32 - 1  # folded into the key of the sample; restarts fold in 0, 1, ...


class _Passes(NamedTuple):
    """The functions that run on a chunk; each takes (x, weights, centres)."""

    members: Callable[..., Any]  # to (Sums, labels)
    farthest: Callable[..., Picked]


def fit_stream(
    chunks: Chunks,
    k: int,
    *,
    seed: int = 0,
    init: Float[Array, "k d"] | None = None,
    sample_size: int = 200_000,
    n_init: int = 1,
    max_iterations: int = 300,
    tol: float = 1e-4,
    empty: str = "farthest",
    spherical: bool = False,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    on_pass: Callable[[int, float], None] | None = None,
) -> KMeans:
    """Clusters rows that are read again in chunks in each pass; equals `fit` from the same centres.

    An iteration is a pass over all rows, not a mini-batch. The first centres are those that `fit`
    finds on a sample. The seed and the row numbers choose the sample, so the cut into chunks does
    not matter. If the sample is the whole data set, this is `fit`.

    Args:
      chunks: yields the same rows in the same order at each call, as float arrays [any, width].
      k: number of clusters.
      seed: seed of the sample and the draws.
      init: centres to start from, instead of those of a sample.
      sample_size: number of rows in the sample.
      n_init: number of starts on the sample; the one with the least inertia there is kept.
      max_iterations: largest number of passes that move the centres; also per start on the sample.
      tol: as for `fit`.
      empty: as for `fit`; "farthest" costs one more pass when a cluster is empty.
      spherical: as for `fit`.
      chunk_size: rows whose distances a device holds at the same time; None: as for `fit`.
      mesh: the devices over which a chunk is spread; None for one device.
      on_pass: called after each iteration with its number and the inertia that it found.

    Returns: as `fit`; the labels (int32) of all rows and the counts are in host memory.

    Raises:
      ValueError: as `fit`; chunks that differ from pass to pass.

        fit_stream(lambda: np.split(x, 10), 10)
    """
    chunk_size = settle_chunk_size(chunk_size)
    check_choices(k, n_init, empty, chunk_size)
    check_numbers(max_iterations=max_iterations, tol=tol)
    if init is not None and n_init > 1:
        raise ValueError(f"n_init: got {n_init} starts from one init; expected 1 with it.")
    if init is not None:
        check_centres(init, k, init.shape[-1])
    alike: dict[str, Any] = {"max_iterations": max_iterations, "tol": tol, "empty": empty}
    alike |= {"spherical": spherical, "chunk_size": chunk_size}
    start: Any = init
    rows = None
    if start is None:
        sample, rows = _sample(chunks, sample_size, seed)
        start = fit(jnp.asarray(sample), k, seed=seed, n_init=n_init, **alike).centres
    centres = start.astype(compute_dtype(start))
    passes = _make_passes(mesh, chunk_size)
    iterations = 0
    for iterations in range(1, max_iterations + 1):
        sums, _, rows = _sum_chunks(chunks, passes, centres, mesh, rows)
        gaps = empty == "farthest" and bool((sums.weight == 0).any())
        far = _farthest(chunks, passes, centres, mesh) if gaps else None
        centres, shift, rest = _move(sums, far, centres, tol, spherical=spherical)
        if on_pass is not None:
            on_pass(iterations, float(sums.inertia))
        if not shift > rest:
            # `not shift > rest`, so that a NaN shift ends the loop too.
            break
    # The update moved the centres after the last sums: labels and inertia need one more pass.
    sums, labels, _ = _sum_chunks(chunks, passes, centres, mesh, rows)
    counts = np.bincount(labels, minlength=k)
    return KMeans(centres, labels, sums.inertia, np.asarray(iterations), counts)


@partial(jax.jit, static_argnames="spherical")
def _move(sums, far, centres, tol, *, spherical):
    """The new centres, their squared shift, and the shift at which they rest."""
    filled = sums if far is None else fill_empty(sums, far)
    new = means(filled, centres, spherical=spherical)
    return new, ((new - centres) ** 2).sum(), resting(sums, tol)


def _sum_chunks(
    chunks: Chunks, passes: _Passes, centres: Array, mesh: Mesh | None, rows: int | None
) -> tuple[Sums, Int[np.ndarray, " n"], int]:
    """A pass: sums merged in float64, labels of all rows, and their number, checked against `rows`."""
    merged, labels = None, []
    for length, (sums, own) in _walk(chunks, passes.members, centres, mesh):
        # Sums of float32 chunks lose digits over many chunks; float64 on the host does not.
        sums = jax.tree.map(lambda a: np.asarray(a, np.float64), sums)
        merged = sums if merged is None else jax.tree.map(np.add, merged, sums)
        labels.append(np.asarray(own)[:length])
    found = sum(map(len, labels))
    k = len(centres)
    if merged is None or found < k or (rows is not None and rows != found):
        raise ValueError(
            f"chunks: got {found:,} rows in a pass; expected "
            + (f"at least k={k}." if rows is None else f"{rows:,} as before.")
            + " It is called for each pass, and must give all rows each time."
        )
    # A row that is not finite shows in the inertia. Only then is it worth a pass to find it.
    if not np.isfinite(merged.inertia):
        _check_all_finite(chunks)
    # The count becomes a float too; an update does not read it.
    return (
        jax.tree.map(partial(jnp.asarray, dtype=centres.dtype), merged),
        np.concatenate(labels),
        found,
    )


def _farthest(chunks: Chunks, passes: _Passes, centres: Array, mesh: Mesh | None) -> Picked:
    """The k rows farthest from their centre; ties go to the first row."""
    held: Picked | None = None
    for _, new in _walk(chunks, passes.farthest, centres, mesh):
        new = jax.tree.map(np.asarray, new)
        # k rows of the past, and k of this chunk: never more are held.
        held = new if held is None else jax.tree.map(lambda *a: np.concatenate(a), held, new)
        order = np.argsort(held.scores, kind="stable")[: len(centres)]
        held = jax.tree.map(itemgetter(order), held)
    return jax.tree.map(jnp.asarray, held)


def _walk(
    chunks: Chunks, function: Callable[..., Any], centres: Array, mesh: Mesh | None
) -> Iterator[tuple[int, Any]]:
    """Yields each chunk and the result of `function`; reads the next chunk in the meantime."""
    pending: tuple[int, Any] | None = None
    devices, padded = 1 if mesh is None else mesh.size, 0
    for x in chunks():
        check_rows(x, centres.shape[1])
        padded = max(padded, -(-len(x) // devices) * devices)  # of one size, to compile once
        result = function(*_put(x, padded, mesh), centres)
        # The previous result is awaited while the device computes this one.
        if pending is not None:
            yield pending
        pending = len(x), result
    if pending is not None:
        yield pending


def _put(x: np.ndarray, rows: int, mesh: Mesh | None) -> tuple[Array, Array]:
    """A chunk padded with rows of weight 0, and the weights, on their devices."""
    weights = np.arange(rows) < len(x)
    if len(x) < rows:
        x = np.concatenate([x, np.zeros((rows - len(x), x.shape[1]), x.dtype)])
    if mesh is None:
        return jnp.asarray(x), jnp.asarray(weights)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.device_put(x, sharding), jax.device_put(weights, sharding)


# A new function is compiled again, so those of a mesh are kept between calls.
@lru_cache(maxsize=8)
def _make_passes(mesh: Mesh | None, chunk_size: int) -> _Passes:
    names = None if mesh is None else mesh.axis_names
    over: dict[str, Any] = {"chunk_size": chunk_size, "axis_name": names}

    def members(x: Array, weights: Array, centres: Array) -> tuple[Sums, Array]:
        return sum_members(make_rows(x, weights, names), centres, **over)[:2]

    def far(x: Array, weights: Array, centres: Array) -> Picked:
        rows = make_rows(x, weights, names)
        _, labels, distances = sum_members(rows, centres, **over)
        return farthest(rows, labels, distances, len(centres), names)

    if mesh is None:
        return _Passes(jax.jit(members), jax.jit(far))
    rows, whole = PartitionSpec(names), PartitionSpec()
    spread = partial(jax.shard_map, mesh=mesh, in_specs=(rows, rows, whole))
    return _Passes(
        jax.jit(spread(members, out_specs=(whole, rows))), jax.jit(spread(far, out_specs=whole))
    )


def _sample(chunks: Chunks, size: int, seed: int) -> tuple[Float[np.ndarray, "m d"], int]:
    """The `size` rows with the lowest race, in the order of the data, and the number of all rows."""
    key = jax.random.fold_in(random_key(seed), _SAMPLE)
    first, width, limit = 0, None, np.inf
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for x in chunks():
        check_rows(x, width)
        check_finite(x, first=first)
        # By number over all chunks, so the cut into chunks does not change the sample.
        times = np.asarray(_times(key, jnp.uint32(first), number=len(x)))
        # A row slower than the `size` fastest so far cannot be in the sample.
        early = times <= limit
        held.append((times[early], x[early]))
        first, width = first + len(x), x.shape[1]
        # At twice the size: sorting after every chunk would cost more than it frees.
        if sum(len(times) for times, _ in held) > 2 * size:
            held = [_lowest(held, size)]
            limit = held[0][0].max()
    if not held:
        raise ValueError("chunks: got no rows; expected some in each pass.")
    return _lowest(held, size)[1], first


def _lowest(held: list[tuple[np.ndarray, np.ndarray]], size: int) -> tuple[np.ndarray, np.ndarray]:
    times, rows = (np.concatenate(parts) for parts in zip(*held, strict=True))
    # Back in the order of the data, so that the sample does not depend on the chunks.
    kept = np.sort(np.argsort(times, kind="stable")[:size])
    return times[kept], rows[kept]


@partial(jax.jit, static_argnames="number")
def _times(key: Key[Array, ""], first: Array, *, number: int) -> Float[Array, " n"]:
    return race(key, first + jnp.arange(number, dtype=jnp.uint32))


def _check_all_finite(chunks: Chunks) -> None:
    first = 0
    for x in chunks():
        check_finite(x, first=first)
        first += len(x)
