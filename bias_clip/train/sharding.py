"""Which device holds what: the mesh, the batch over it, and the rules for parameters."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
AXES = (*BATCH_AXES, "tensor")
MIN_FSDP_SIZE = 2**14  # elements; gathering a smaller leaf costs more than holding it whole


def make_mesh(
    *, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns a mesh with axes "data", "fsdp" and "tensor".

    The batch is split over the first two, and every device of a "tensor" group sees the same rows.
    One of the sizes may be -1: all remaining devices.

    Args:
      data: parts of the batch whose devices exchange only gradients.
      fsdp: parts of the batch over which parameters and optimiser state are split as well.
      tensor: parts of attention heads, hidden units and vocabulary.
      devices: all by default.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices, data does not divide over
        the TPU slices, or a tensor group spans processes, which read different rows.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and known > 0 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices) or min(sizes.values()) < 1:
        raise ValueError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {len(devices)} devices; "
            "their product must be the number of devices, and one of them may be -1."
        )
    mesh = _on_network(sizes, devices)
    for group in mesh.devices.reshape(-1, sizes["tensor"]):
        if len({device.process_index for device in group}) > 1:
            raise ValueError(
                f"mesh tensor={sizes['tensor']} puts devices of several processes into one group, "
                "which must see the same rows; take a size that divides the devices of a process, or a "
                "smaller one."
            )
    return mesh


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


class Layout(NamedTuple):
    """How a tree of parameters is split over a mesh: two trees of shardings.

    Attributes:
      held: between steps: split by every axis of its rule.
      used: in the towers: whole over the axes that split the batch. Without this constraint the
        partitioner often gathers activations instead of weights, and every device of an fsdp group
        then computes all rows of the group.
    """

    held: Any
    used: Any


def make_layout(held: Any) -> Layout:
    """Returns the layout of parameters that have the shardings `held` between steps."""
    return Layout(held, jax.tree.map(_gathered, held))


def gather(params: Any) -> Any:
    """Returns parameters as the towers use them, see `Layout`; what is already so is not copied.

    An evaluation calls it once for all its batches; a train step gathers in every step.

    Args:
      params: arrays, as they are held between steps.
    """
    held = jax.tree.map(lambda x: x.sharding, params)
    return jax.device_put(params, make_layout(held).used)


def tree_shardings(tree: Any, rules: Sequence[tuple[str, Any]], mesh: Mesh) -> Any:
    """Returns a sharding for every leaf of `tree`, by the first rule that matches its path.

    Args:
      tree: arrays or ShapeDtypeStructs. A leaf's path is its keys joined by "/".
      rules: `(regex, spec)`, searched for in the path. `spec` is one of

        "replicate"        every device holds the leaf whole
        "fsdp"             splits the largest dimension that the axis divides and that no other axis
                           splits; small leaves stay whole
        "tensor@-2"        splits that dimension; it is counted as in NumPy
        "tensor@-2?"       the same where the axis divides the dimension, else not
        "tensor@-2,fsdp"   both, each on a dimension of its own
        (None, "fsdp")     one axis name or None for each dimension; a leaf of another rank is whole

      mesh: from `make_mesh`. An axis of size 1 splits nothing.

    Raises:
      ValueError: for a leaf that no rule matches, a spec that cannot be read, a dimension that does
        not exist or is already split, or an axis that does not divide its dimension.
    """
    for rule in rules:
        compile_rule(rule, "sharding")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _leaf_spec(path_name(path), leaf, rules, mesh)),
        tree,
    )


def state_shardings(state: Any, params: Any, shardings: Any) -> Any:
    """Returns a sharding for every leaf of a state: that of the parameter whose path its path ends with.

    A factored moment lacks one dimension of its parameter; its other dimensions are split as those of
    the parameter. Every device holds the whole of a leaf that belongs to no parameter or has another
    shape.

    Args:
      state: ShapeDtypeStructs: parameters, optimiser state and averages.
      params: the parameters alone.
      shardings: of `params`, from `tree_shardings`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {
        path_name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }
    mesh = jax.tree.leaves(shardings)[0].mesh

    def of_leaf(path, leaf):
        parts = path_name(path).split("/")
        for start in range(1, len(parts)):  # the longest end first
            # Optimisers nest parameters at different depths, but a moment's path always ends in its
            # parameter's.
            if (name := "/".join(parts[start:])) in known:
                shape, sharding = known[name]
                return NamedSharding(mesh, _spec_of_part(leaf.shape, shape, sharding.spec))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def path_name(path: Sequence[Any]) -> str:
    """Returns a tree path as the string that regexes in configs see, "img/blocks/mlp/kernel"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def compile_rule(rule: Any, what: str) -> tuple[re.Pattern[str], Any]:
    """Returns a rule `(regex, value)` with its regex compiled.

    Args:
      rule: from a config.
      what: the argument that it comes from, for the message.

    Raises:
      ValueError: it is not a pair, or its first part is not a regex.
    """
    if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
        raise ValueError(f"{what}: expected pairs of a regex and a value, got {rule!r}.")
    try:
        return re.compile(rule[0]), rule[1]
    except (re.error, OverflowError) as error:  # the latter of a huge count, "a{99999999999}"
        raise ValueError(f"{what}: {rule[0]!r} is not a regex ({error}).") from None


def check_batch_size(batch_size: int, mesh: Mesh, steps: int = 1) -> None:
    """Raises ValueError unless the batch, in `steps` microbatches, splits evenly over the mesh."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    parts = shards * steps
    if batch_size < 1 or batch_size % parts:
        near = max(parts, batch_size // parts * parts)
        times = f" times {steps} microbatches" if steps > 1 else ""
        raise ValueError(
            f"a batch of {batch_size} does not divide over {shards} devices{times}; try {near}."
        )


def _on_network(sizes: dict[str, int], devices: list[jax.Device]) -> Mesh:
    # Auto axes: under explicit ones, the default of jax.make_mesh, x @ x.T raises.
    types = (AxisType.Auto,) * len(sizes)
    shape, names = tuple(sizes.values()), tuple(sizes)
    # A device that is only compiled for has no slice.
    slices = {getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"}
    if len(slices) > 1:
        return Mesh(_over_slices(sizes, devices, len(slices)), names, axis_types=types)
    try:
        return jax.make_mesh(shape, names, axis_types=types, devices=devices)
    except NotImplementedError:
        # fsdp=16 on 8x8 chips is not a product of whole sides; by default jax splits sides on v5e only.
        split = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(split, names, axis_types=types)


def _over_slices(sizes: dict[str, int], devices: list[jax.Device], slices: int) -> np.ndarray:
    """Puts the slices along "data": only gradients, once per step, cross the slow network between them."""
    if sizes["data"] % slices:
        raise ValueError(
            f"mesh data={sizes['data']} does not divide over {slices} TPU slices; parameters are not "
            f"split across slices, so data must be a multiple of {slices}."
        )
    within = (sizes["data"] // slices, sizes["fsdp"], sizes["tensor"])
    return mesh_utils.create_hybrid_device_mesh(
        within, (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def _gathered(sharding: NamedSharding) -> NamedSharding:
    kept = (None if axis in BATCH_AXES else axis for axis in sharding.spec)
    # Every axis that splits the batch is gathered; "tensor" stays, because towers are computed with it.
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def _spec_of_part(
    part: tuple[int, ...], whole: tuple[int, ...], spec: PartitionSpec
) -> PartitionSpec:
    axes = (*spec, *(None,) * (len(whole) - len(spec)))
    if part == whole:
        return spec
    # Only if one dimension alone can be missing is it known which; otherwise the moment is held whole.
    found = {
        axes[:i] + axes[i + 1 :] for i in range(len(whole)) if whole[:i] + whole[i + 1 :] == part
    }
    return PartitionSpec(*found.pop()) if len(found) == 1 else PartitionSpec()


def _leaf_spec(name: str, leaf: Any, rules: Sequence, mesh: Mesh) -> PartitionSpec:
    for pattern, spec in rules:  # noqa: B007 - both are used after the loop
        if re.search(pattern, name):
            break
    else:
        raise ValueError(
            f"no sharding rule matches {name!r} of shape {leaf.shape}; "
            f"rules are {[pattern for pattern, _ in rules]}; end them with ('.*', 'replicate')."
        )
    if spec == "replicate" or leaf.ndim == 0:
        return PartitionSpec()
    where = f"sharding rule {pattern!r}: {spec!r}"
    if isinstance(spec, str):
        return _named_spec(where, spec, name, leaf.shape, mesh)
    if not isinstance(spec, tuple | list):
        raise ValueError(f"{where} is neither a text nor a tuple with an entry per dimension.")
    # A rule for another rank: a norm's scale may match the regex of a kernel.
    if len(spec) != leaf.ndim:
        return PartitionSpec()
    for size, axis in zip(leaf.shape, spec, strict=True):
        if axis is not None:
            _check_divides(where, name, leaf.shape, axis, size, mesh)
    return PartitionSpec(*spec)


_TERM = re.compile(r"(?P<axis>[a-z]+)(@(?P<dimension>-?\d+)(?P<maybe>\?)?)?")


def _named_spec(
    where: str, spec: str, name: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
    """The spec of "fsdp", "tensor@-2" or "tensor@-2,fsdp"."""
    axes: list[str | None] = [None] * len(shape)
    terms = [_TERM.fullmatch(term.strip()) for term in spec.split(",")]
    # Named dimensions first, so that fsdp then takes the largest that is left.
    for term in sorted(terms, key=lambda term: term is None or term["dimension"] is None):
        if term is None or term["axis"] not in mesh.shape:
            raise ValueError(
                f"{where} is not 'replicate', 'fsdp', or an axis of {AXES} with a dimension, such "
                "as 'tensor@-1' or 'tensor@-2,fsdp'."
            )
        axis = term["axis"]
        if term["dimension"] is None and axis != "fsdp":
            raise ValueError(f"{where} does not say which dimension; write '{axis}@-1'.")
        if term["dimension"] is None:
            place = _largest(shape, axes, mesh.shape["fsdp"])
        else:
            place = _dimension(where, term, name, shape, axes, mesh)
        if place is not None and mesh.shape[axis] > 1:
            axes[place] = axis
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def _dimension(
    where: str, term: re.Match, name: str, shape: tuple[int, ...], axes: list, mesh: Mesh
) -> int | None:
    given = int(term["dimension"])
    if not -len(shape) <= given < len(shape):
        raise ValueError(f"{where}: {name!r} of shape {shape} has no dimension {given}.")
    place = given % len(shape)
    if axes[place] is not None:
        raise ValueError(f"{where} splits dimension {given} of {name!r} twice.")
    if term["maybe"] and shape[place] % mesh.shape[term["axis"]]:
        return None
    _check_divides(where, name, shape, term["axis"], shape[place], mesh)
    return place


def _check_divides(
    where: str, name: str, shape: tuple[int, ...], axis: str, size: int, mesh: Mesh
) -> None:
    if size % mesh.shape[axis]:
        raise ValueError(
            f"{where} splits {name!r} of shape {shape} by axis {axis!r} of size "
            f"{mesh.shape[axis]}, which does not divide {size}; change mesh.{axis} or the rule."
        )


def _largest(shape: tuple[int, ...], axes: list[str | None], parts: int) -> int | None:
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % parts == 0]
    if parts == 1 or not free or np.prod(shape) < MIN_FSDP_SIZE:
        return None
    # Ties go to the last dimension.
    return max(free, key=lambda i: (shape[i], i))
