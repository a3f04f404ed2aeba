"""Losses of arrays whose type says how they are spread: JAX's explicit mesh axes.

`jax.make_mesh` makes explicit axes by default. There a product of rows with rows is an error of the
trace, because JAX does not choose by itself which of the two is gathered. The losses leave that
choice to the compiler, as under automatic axes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def on_explicit_axes(*, per_row: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator: the loss also takes arrays that are spread over explicit axes.

    Inside the loss these axes are automatic. Its result is spread as the rows of its first argument
    are, or is whole on each device. Arrays without explicit axes go straight to the loss, and so do
    those inside `shard_map`, where each device has its own rows.

    Args:
      per_row: whether the result has one value per row, or is one number.
    """

    def decorate(loss: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(loss)
        def call(*args: Any, **kwargs: Any) -> Any:
            found = [explicit_mesh(x) for x in jax.tree.leaves((args, kwargs))]
            mesh = next((mesh for mesh in found if mesh is not None), None)
            if mesh is None:
                return loss(*args, **kwargs)
            rows = _spec_of_rows(args, kwargs) if per_row else PartitionSpec()
            return _in_automatic_axes(loss, mesh, rows, args, kwargs)

        return call

    return decorate


def _in_automatic_axes(
    loss: Callable[..., Any], mesh: Any, out: PartitionSpec, args: Any, kwargs: Any
) -> Any:
    leaves, tree = jax.tree.flatten((args, kwargs))
    # Words, None and plain numbers stay outside of the trace: the checks of the losses read them.
    places = [i for i, x in enumerate(leaves) if hasattr(x, "dtype")]

    def on_arrays(*arrays: Any) -> Any:
        whole = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
        args, kwargs = jax.tree.unflatten(tree, list(whole.values()))
        return loss(*args, **kwargs)

    names = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Explicit
    )
    with jax.sharding.use_abstract_mesh(mesh):
        run = jax.sharding.auto_axes(on_arrays, axes=names, out_sharding=out)
        return run(*(leaves[i] for i in places))


def explicit_mesh(x: Any) -> Any:
    """The mesh in the array's type if it has explicit axes, else None."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        return None
    sharding = getattr(jax.typeof(x), "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    explicit = mesh is not None and AxisType.Explicit in (mesh.axis_types or ())
    return mesh if explicit else None


def _spec_of_rows(args: Any, kwargs: Any) -> PartitionSpec:
    """How the rows of the first array that is spread are spread."""
    for x in jax.tree.leaves((args, kwargs)):
        if explicit_mesh(x) is not None and x.ndim:
            # Only the first axis: the result has rows but no width.
            return PartitionSpec(jax.typeof(x).sharding.spec[0])
    return PartitionSpec()
