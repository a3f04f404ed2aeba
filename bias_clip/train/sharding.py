"""Which device holds what: the mesh, the batch over it, and the rules for parameters."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
MIN_FSDP_SIZE = 2**14  # elements; smaller leaves cost more to gather than to hold


def make_mesh(
    *, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns a mesh with axes "data" (replicated parameters) and "fsdp" (sharded ones).

    The batch is split over both. One of the sizes may be -1: all devices that are left.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp}
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and known > 0 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices) or min(sizes.values()) < 1:
        raise ValueError(
            f"mesh data={data}, fsdp={fsdp} does not fit {len(devices)} devices; their product "
            "must be the number of devices, and one of them may be -1."
        )
    # Auto axes: under explicit ones, the default of jax.make_mesh, x @ x.T raises.
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of everything that has one row per example."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Returns this process's rows as part of global arrays, sharded over the batch axes."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def tree_shardings(tree: Any, rules: Sequence[tuple[str, Any]], mesh: Mesh) -> Any:
    """Returns a sharding for every leaf of `tree`, by the first rule that matches its path.

    Args:
      tree: arrays or ShapeDtypeStructs. A leaf's path is its keys joined by "/", and an
        optimiser's leaf carries the path of its parameter, so one rule reaches both.
      rules: `(regex, spec)`, searched for in the path. `spec` is "replicate"; "fsdp", which splits
        the largest dimension that the fsdp axis divides and leaves small leaves whole; or one axis
        name or None for each dimension. A leaf of another rank (a factored moment) is replicated.
      mesh: from `make_mesh`.

    Raises:
      ValueError: for a leaf that no rule matches, or an axis that does not divide its dimension.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _leaf_spec(path_name(path), leaf, rules, mesh)),
        tree,
    )


def path_name(path: Sequence[Any]) -> str:
    """Returns a tree path as the string that regexes in configs see, "img/blocks/mlp/kernel"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the batch splits evenly over the mesh."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % shards:
        near = max(shards, batch_size // shards * shards)
        raise ValueError(
            f"a batch of {batch_size} does not divide over {shards} devices; try {near}."
        )


def _leaf_spec(name: str, leaf: Any, rules: Sequence, mesh: Mesh) -> PartitionSpec:
    for pattern, spec in rules:  # noqa: B007 - both are read after the loop
        if re.search(pattern, name):
            break
    else:
        raise ValueError(
            f"no sharding rule matches {name!r} of shape {leaf.shape}; "
            f"rules are {[pattern for pattern, _ in rules]}; end them with ('.*', 'replicate')."
        )
    if spec == "replicate" or leaf.ndim == 0:
        return PartitionSpec()
    if spec == "fsdp":
        return _split_largest(leaf.shape, mesh.shape["fsdp"])
    if isinstance(spec, str):
        raise ValueError(f"sharding rule {pattern!r}: {spec!r} is not 'replicate' or 'fsdp'.")
    if len(spec) != leaf.ndim:
        return PartitionSpec()
    for size, axis in zip(leaf.shape, spec, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"rule {pattern!r} splits {name!r} of shape {leaf.shape} by axis {axis!r} of size "
                f"{mesh.shape[axis]}, which does not divide {size}."
            )
    return PartitionSpec(*spec)


def _split_largest(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    divisible = [i for i, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not divisible or np.prod(shape) < MIN_FSDP_SIZE:
        return PartitionSpec()
    largest = max(divisible, key=lambda i: (shape[i], i))
    return PartitionSpec(*("fsdp" if i == largest else None for i in range(len(shape))))
