"""k-means over the rows of embeddings, on all devices, and the table of cells that it writes."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from bias_clip.data.stream.cells import CLUSTER, KIND
from bias_clip.data.tables import KEY, file_sha256, manifest_path, write_table
from bias_clip.data.tables.embeddings import Embeddings, check_finite, chunks
from bias_clip.data.tables.embeddings_writer import write_array
from bias_clip.stages import KMeans, fit, fit_stream
from bias_clip.stages.kmeans import check_centres

AXIS = "rows"


def cluster(embeddings: Embeddings, args: argparse.Namespace) -> KMeans:
    """Clusters a modality over all devices; labels and the rest are in host memory.

    Raises: ValueError for an absent modality, fewer (distinct) rows than clusters, rows
      that are not finite, or a start that does not fit.
    """
    next(chunks(embeddings, args.modality, 1))  # says which modalities there are
    rows, width = len(embeddings.ids), embeddings.manifest["width"]
    if args.k > rows:
        raise ValueError(f"got {rows} rows for --k {args.k}; choose a smaller k.")
    mesh = Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))
    arguments: dict[str, Any] = {"seed": args.seed, "init": _init(args, width)}
    arguments |= {"n_init": args.n_init, "max_iterations": args.iterations, "tol": args.tol}
    arguments |= {"empty": args.empty, "spherical": args.spherical}
    with tqdm(total=rows, unit=" rows", disable=None, desc="reading") as bar:
        if rows <= args.in_memory_rows:
            x, weights = _read_all(embeddings, args.modality, mesh, bar)
            bar.set_description(f"clustering on {mesh.size} devices")
            found = _fit_on(mesh, x, weights, args.k, **arguments)
        else:
            found = _fit_stream(embeddings, args, mesh, bar, **arguments)
    found = jax.tree.map(np.asarray, found)
    # Without the rows that only filled the devices.
    found = found._replace(labels=found.labels[:rows])
    if args.empty == "farthest" and not found.counts.all():
        raise ValueError(
            f"{(found.counts == 0).sum()} of {args.k} clusters are empty: the embeddings have fewer "
            "distinct rows, or --iterations ended it. Choose a smaller --k, or look whether the "
            "model has collapsed."
        )
    return found


def write_cells(
    path: Path, embeddings: Embeddings, found: KMeans, args: argparse.Namespace
) -> dict[str, Any]:
    """Writes the centres, then the table; the manifest, last of all, is what makes them a whole."""
    file = path.with_suffix(".centres.npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest_path(path).unlink(missing_ok=True)  # what it spoke of is about to go
    # Centres before the table: the manifest names their sum.
    write_array(file, np.asarray(found.centres))
    about = {key: embeddings.manifest[key] for key in ("ids_sha256", "plan", "notes")}
    manifest = {
        "kind": KIND,
        "k": args.k,
        "seed": args.seed,
        "modality": args.modality,
        "inertia": float(found.inertia),
        "iterations": int(found.iterations),
        "counts": found.counts.tolist(),
        "centres": {"file": file.name, "sha256": file_sha256(file)},
        "method": {
            "form": "memory" if len(embeddings.ids) <= args.in_memory_rows else "stream",
            "init": None if args.init is None else file_sha256(args.init),
            **{name: getattr(args, name) for name in ("n_init", "tol", "empty", "spherical")},
        },
        "embeddings": {"path": str(args.embeddings), **about},
    }
    columns = {KEY: np.asarray(embeddings.ids), CLUSTER: np.asarray(found.labels)}
    return write_table(path, columns, manifest)


def to_text(found: KMeans, modality: str) -> str:
    """The report: how the iterations ended, and the size of each cluster."""
    rows = int(found.counts.sum())
    lines = [
        f"{len(found.counts)} clusters of {rows:,} {modality} embeddings: {int(found.iterations)} "
        f"iterations, inertia {float(found.inertia):.6g} ({float(found.inertia) / rows:.4g} per row)",
        "cluster        rows   share",
    ]
    lines += [f"{c:7d}{n:12,d}{n / rows:8.2%}" for c, n in enumerate(found.counts.tolist())]
    return "\n".join(lines)


def _init(args: argparse.Namespace, width: int) -> Float[Array, "k d"] | None:
    if args.init is None:
        return None
    if not args.init.is_file():
        raise ValueError(f"--init: there is no file {args.init}; expected a .centres.npy.")
    from bias_clip.data.bad_records import file_fault

    with file_fault(args.init):
        centres = jnp.asarray(np.load(args.init, allow_pickle=False))
    check_centres(centres, args.k, width)
    return centres


def _read_all(
    embeddings: Embeddings, modality: str, mesh: Mesh, bar: Any
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """All rows, each device its part, filled up with rows of weight 0; and the weights."""
    matrix: Any = getattr(embeddings, modality)
    rows, width = matrix.shape
    # Each device holds equally many rows; those that fill up have weight 0.
    padded = -(-rows // mesh.size) * mesh.size
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def read(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(padded)
        # In the dtype of the file: float16 on disk takes half the device's memory.
        x = np.zeros((stop - start, width), matrix.dtype)
        there = max(min(stop, rows) - start, 0)
        x[:there] = matrix[start : start + there]
        check_finite(modality, embeddings.ids[start : start + there], x[:there])
        bar.update(there)
        return x

    x = jax.make_array_from_callback((padded, width), sharding, read)
    return x, jax.device_put((np.arange(padded) < rows).astype(np.float32), sharding)


def _fit_on(mesh: Mesh, x: Array, weights: Array, k: int, *, init: Any, **arguments: Any) -> KMeans:
    rows, whole = PartitionSpec(AXIS), PartitionSpec()

    def own(x: Array, weights: Array, init: Any) -> KMeans:
        return fit(x, k, weights=weights, init=init, axis_name=AXIS, **arguments)

    # Labels stay with the rows; centres and sums are equal on all devices.
    specs = KMeans(*cast(Any, (whole, rows, whole, whole, whole)))
    spread = jax.shard_map(own, mesh=mesh, in_specs=(rows, rows, whole), out_specs=specs)
    return jax.jit(spread)(x, weights, init)


def _fit_stream(
    embeddings: Embeddings, args: argparse.Namespace, mesh: Mesh, bar: Any, **arguments: Any
) -> KMeans:
    passes = 0

    def read() -> Iterator[np.ndarray]:
        nonlocal passes
        bar.reset()
        first = 0
        for x in chunks(embeddings, args.modality, args.chunk_rows):
            # Every pass reads the same rows: once checked is enough.
            if passes == 0:
                check_finite(args.modality, embeddings.ids[first : first + len(x)], x)
            first += len(x)
            yield x
            bar.update(len(x))
        passes += 1

    def on_pass(iterations: int, inertia: float) -> None:
        bar.set_description(f"iteration {iterations}, inertia {inertia:.5g}")

    given = {"sample_size": args.sample_rows, "mesh": mesh, "on_pass": on_pass}
    return fit_stream(read, args.k, **given, **arguments)
