"""The gradient of a batch, at once or in microbatches, so that a larger batch fits the memory.

| mode | value and gradient | forward passes | activations held |
|---|---|---|---|
| "none" | of the batch | 1 | of the batch |
| "microbatch" | mean over microbatches, each a batch by itself: fewer negatives | 1 | of one part |
| "cached" | of the batch, exactly, for every term | 2 | of one part, and all embeddings |

A microbatch is a part of the rows of *every* device: no image changes its device.

Reference for "cached": Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup, 2021.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from bias_clip.models.two_towers import Outputs
from bias_clip.train.sharding import BATCH_AXES, Layout

MODES = ("none", "microbatch", "cached")


class Gradient(NamedTuple):
    """Results of one batch: the loss, its terms, the outputs of all rows in order, the gradient."""

    loss: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    outputs: Outputs
    grads: Any


class _Pieces(NamedTuple):
    apply: Callable
    objective: Callable
    mesh: Mesh
    layout: Layout
    steps: int


def make_gradient(
    *,
    apply: Callable,
    objective: Callable,
    mesh: Mesh,
    layout: Layout,
    frozen: Any = None,
    mode: str = "none",
    steps: int = 1,
) -> Callable[[Any, dict[str, Array]], Gradient]:
    """Returns `gradient(params, batch) -> Gradient`, not yet jitted.

    Args:
      apply: `apply(params, image, text) -> Outputs`; inputs may be None.
      objective: from `make_objective`.
      mesh: from `make_mesh`; the batch is split over its batch axes.
      layout: of the parameters, and of the gradient.
      frozen: a tree of booleans, from `frozen_leaves`; the gradient of a frozen parameter is zero and costs
        no backward pass. None: all are trained.
      mode: one of `MODES`.
      steps: number of microbatches; the rows of each device must divide by it.

    Raises:
      ValueError: for an unknown mode, or a number of steps that the mode does not allow.
    """
    if mode not in MODES:
        raise ValueError(f"accumulation mode is {mode!r}; expected one of {MODES}.")
    if steps < 1 or (mode == "none" and steps > 1):
        raise ValueError(
            f"accumulation mode {mode!r} with steps={steps}: expected at least 1, and exactly 1 for "
            "'none'; choose 'cached' (exact) or 'microbatch' (fewer negatives) for more."
        )
    pieces = _Pieces(apply, objective, mesh, layout, steps)
    make = {"none": _at_once, "microbatch": _microbatches, "cached": _cached}[mode]
    if frozen is None or not any(jax.tree.leaves(frozen)):
        return make(pieces)
    return _of_trained(make, pieces, jax.tree.leaves(frozen))


def split_rows(tree: Any, steps: int, mesh: Mesh) -> Any:
    """Returns `[b, ...]` as `[steps, b / steps, ...]`, each device dividing its own rows."""
    whole, parts = PartitionSpec(BATCH_AXES), PartitionSpec(None, BATCH_AXES)
    # Inside of shard_map the reshape is local. Outside, the first of `steps` parts would be the rows of the
    # first devices, and every part would have to move.
    return jax.shard_map(
        lambda local: jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), local),
        mesh=mesh,
        in_specs=(whole,),
        out_specs=parts,
    )(tree)


def merge_rows(tree: Any, mesh: Mesh) -> Any:
    """Undoes `split_rows`: every row is where it was."""
    whole, parts = PartitionSpec(BATCH_AXES), PartitionSpec(None, BATCH_AXES)
    return jax.shard_map(
        lambda local: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), local),
        mesh=mesh,
        in_specs=(parts,),
        out_specs=whole,
    )(tree)


def _at_once(pieces: _Pieces) -> Callable[[Any, dict[str, Array]], Gradient]:
    def loss_fn(params, batch):
        outputs = pieces.apply(params, batch["image"], batch["text"])
        loss, parts = pieces.objective(outputs, batch)
        return loss, (parts, outputs)

    def gradient(params, batch):
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        # Gathered outside of the function that is differentiated: the gradient by the gathered parameters
        # is then reduced once, in `_hold`, and not by the transpose of the gathering.
        (loss, (parts, outputs)), grads = grad_fn(_use(params, pieces.layout), batch)
        return Gradient(loss, parts, outputs, _hold(grads, pieces.layout))

    return gradient


def _microbatches(pieces: _Pieces) -> Callable[[Any, dict[str, Array]], Gradient]:
    at_once = _at_once(pieces)

    def gradient(params, batch):
        params = _use(params, pieces.layout)

        def add(grads, part):
            one = at_once(params, part)
            # The scan stacks what it returns, so the gradients must travel in the carry.
            # A gradient as large as the parameters stays once in memory, not once per microbatch.
            return _add(grads, one.grads), one._replace(grads=None)

        start = _hold(jax.tree.map(jnp.zeros_like, params), pieces.layout)
        parts = split_rows(batch, pieces.steps, pieces.mesh)
        grads, each = jax.lax.scan(add, start, parts)
        # Microbatches are equally large, so the mean of their means is the mean over all rows.
        mean = jax.tree.map(jnp.mean, (each.loss, each.parts))
        zimg, ztxt = merge_rows((each.outputs.zimg, each.outputs.ztxt), pieces.mesh)
        # Scale and bias are the same in all microbatches.
        outputs = Outputs(zimg, ztxt, each.outputs.scale[0], each.outputs.bias[0])
        # Sums over microbatches; each has the mean loss of its own rows.
        return Gradient(*mean, outputs, jax.tree.map(lambda g: g / pieces.steps, grads))

    return gradient


def _cached(pieces: _Pieces) -> Callable[[Any, dict[str, Array]], Gradient]:
    def towers(params, inputs):
        outputs = pieces.apply(params, inputs["image"], inputs["text"])
        return outputs.zimg, outputs.ztxt

    def scalars(params):
        outputs = pieces.apply(params, None, None)
        return outputs.scale, outputs.bias

    def gradient(params, batch):
        params = _use(params, pieces.layout)
        # The objective reads the other columns from the whole batch.
        inputs = {name: batch[name] for name in ("image", "text")}
        inputs = split_rows(inputs, pieces.steps, pieces.mesh)
        # First pass: embeddings alone. Nothing is differentiated, so no activations are kept.
        _, stacked = jax.lax.scan(lambda _, part: (None, towers(params, part)), None, inputs)
        # Scale and bias do not depend on rows: their gradient is taken once, not in each microbatch.
        numbers, numbers_vjp = jax.vjp(scalars, params)
        outputs = Outputs(*merge_rows(stacked, pieces.mesh), *numbers)
        # The loss needs all rows at once. Its gradient by each embedding then goes back through the
        # towers, one microbatch at a time: the activations of only one are ever in memory.
        value_fn = jax.value_and_grad(pieces.objective, has_aux=True)
        (loss, parts), cotangents = value_fn(outputs, batch)
        # The sum over microbatches starts with the part of scale and bias.
        (start,) = numbers_vjp((cotangents.scale, cotangents.bias))

        def add(grads, part):
            inputs, cotangents = part
            # The towers run again for each microbatch: this is the second forward pass of the table above.
            _, towers_vjp = jax.vjp(lambda params: towers(params, inputs), params)
            (more,) = towers_vjp(cotangents)
            return _add(grads, _hold(more, pieces.layout)), None

        # Divided exactly as the inputs were, so that each embedding's gradient meets its own rows.
        split = split_rows((cotangents.zimg, cotangents.ztxt), pieces.steps, pieces.mesh)
        grads, _ = jax.lax.scan(add, _hold(start, pieces.layout), (inputs, split))
        return Gradient(loss, parts, outputs, grads)

    return gradient


def _of_trained(
    make: Callable[[_Pieces], Callable], pieces: _Pieces, frozen: list[bool]
) -> Callable[[Any, dict[str, Array]], Gradient]:
    """The gradient by the trained leaves alone; zeros stand for the others.

    A zero cotangent would not do: a frozen tower's backward pass ends in its parameters, and sums over
    microbatches would hold a gradient of their size.
    """

    def trained(tree):
        return [
            x for x, is_frozen in zip(jax.tree.leaves(tree), frozen, strict=True) if not is_frozen
        ]

    def joined(leaves, like):
        rest = iter(leaves)
        whole, form = jax.tree.flatten(like)
        return form.unflatten([x if f else next(rest) for x, f in zip(whole, frozen, strict=True)])

    # The layout of the trained leaves alone, as lists, in which `_use` and `_hold` take them.
    layout = Layout(*map(trained, pieces.layout))

    def gradient(params, batch):
        # All parameters are gathered here, the frozen ones too, which `make` does not see.
        used = _use(params, pieces.layout)

        def apply(leaves, image, text):
            return pieces.apply(joined(leaves, used), image, text)

        found = make(pieces._replace(apply=apply, layout=layout))(trained(params), batch)
        # The optimiser takes a tree of all parameters; a frozen leaf has no state that zeros could change.
        zeros = jax.tree.map(jnp.zeros_like, params)
        return found._replace(grads=joined(found.grads, zeros))

    return gradient


def _use(params: Any, layout: Layout) -> Any:
    return jax.lax.with_sharding_constraint(params, layout.used)


def _hold(grads: Any, layout: Layout) -> Any:
    """Sums gradients in the layout of use, then splits them.

    Without the first constraint the partitioner would split the activations in the same way.
    """
    return jax.lax.with_sharding_constraint(_use(grads, layout), layout.held)


def _add(total: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, total, more)
