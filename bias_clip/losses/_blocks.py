"""How a loss reaches the rows of all devices: the fold over blocks, and the only reduction."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.losses._checks import check_chunk_size, check_values, check_weights

AxisName: TypeAlias = str | tuple[str, ...] | None
Tree: TypeAlias = Any

TURN_ROWS = 1_024
"""Smaller blocks go round the ring together, up to this many rows: a turn costs a TPU ten microseconds even
if it computes almost nothing, and 256 devices take 256 turns of one block (docs/speed.md)."""


def fold_blocks(
    step: Callable[[Tree, Tree], Tree],
    init: Tree,
    block: Tree,
    axis_name: AxisName = None,
    *,
    chunk_size: int | None = None,
) -> Tree:
    """Folds `step` over this device's block and then over every other device's.

    ::

        carry = init
        for k in range(devices):  carry = step(carry, block of the k-th device upstream)

    Blocks travel round a ring, so a device holds two of them at a time. Small blocks of neighbours
    travel as one, of at most `TURN_ROWS` rows. The backward pass recomputes the step, so the logits of
    a step are not kept. With `chunk_size` the same fold walks each block in chunks of that many rows,
    and blocks that travel as one have no more. Without `axis_name` and `chunk_size` this is just
    `step(init, block)`.

    Args:
      step: maps (carry, block or chunk) to a carry of the same shapes. The last chunk is padded
        with rows of zeros, which the step must leave out (`row_numbers` start at 1 for this).
      init: the carry to start with, any tree of arrays. Make it from local rows (`zeros_like`, not
        `zeros`): `shard_map` needs the start to differ between devices as the result does.
      block: any tree of arrays with the same number of rows in front; it travels as one.
      axis_name: mapped axis, or a tuple of axes used as one ring; None for one device.
      chunk_size: rows per chunk; need not divide the rows of the block. None for the whole block.

    Returns:
      The carry after all blocks.

    Raises:
      ValueError: chunk_size that is not an integer from 1 up.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import fold_blocks
      >>> total = fold_blocks(lambda total, x: total + x.sum(), 0.0, jnp.arange(5.0), chunk_size=2)
      >>> float(total)
      10.0
    """
    return fold_blocks_both(
        one_sided(step), init, block, (), axis_name, join=add_trees, chunk_size=chunk_size
    )[0]


def one_sided(
    step: Callable[[Tree, Tree], Tree],
) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]:
    """The step of `fold_blocks` as one of `fold_blocks_both`, for blocks whose carry is ()."""
    return lambda carry, block, _: (step(carry, block), ())


def fold_blocks_both(
    step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    block: Tree,
    block_init: Tree,
    axis_name: AxisName = None,
    *,
    join: Callable[[Tree, Tree], Tree],
    chunk_size: int | None = None,
) -> tuple[Tree, Tree]:
    """`fold_blocks` with a second statistic that belongs to the block and travels with it.

    ::

        carry, block_carry = step(carry, block, block_carry)

    One set of logits then serves both sides: rows reduce into the carry, columns into the block's
    carry, which is home again after a full turn of the ring. A second fold with swapped roles would
    compute all logits twice. This one costs a message of one number per row and turn instead.

    Args:
      step: maps (carry, block, block_carry) to the new (carry, block_carry).
      init: as for `fold_blocks`; it stays on this device.
      block: as for `fold_blocks`.
      block_init: the block's own carry, a tree with the block's number of rows in front. Where blocks
        travel as one, several devices start a carry for the same block, so it must be that of no rows.
      axis_name: as for `fold_blocks`.
      join: maps the block's carries of two sets of devices to that of both.
      chunk_size: as for `fold_blocks`.

    Returns:
      The carry and the block's carry after all blocks.
    """
    check_chunk_size(chunk_size)
    rows, given = jax.tree.leaves(block)[0].shape[0], chunk_size
    # A chunk as large as the block needs neither the padding nor the scan.
    chunk_size = rows if chunk_size is None else min(chunk_size, rows)
    chunked = chunk_size < rows
    ring = axis_name is not None and jax.lax.axis_size(axis_name) > 1
    if chunked or ring:
        # prevent_cse guards against merging the recomputation with the forward pass. Inside a scan
        # XLA cannot merge them, and the guard would only block other optimisations.
        step = jax.checkpoint(step, prevent_cse=False)
    walk = _in_chunks(step, rows, chunk_size) if chunked else step
    if not ring or axis_name is None:
        return walk(init, block, block_init)

    size = _blocks_to_a_turn(jax.lax.axis_size(axis_name), rows, given)

    def turn(state, _):
        carry, block, block_carry = state
        # Before the step, so that the message travels while the step computes.
        next_block = _rotate(block, axis_name, size)
        carry, block_carry = walk(carry, block, block_carry)
        # The block's carry moves after the step, because the step adds this device's share to it.
        return (carry, next_block, _rotate(block_carry, axis_name, size)), ()

    # All turns are alike, so the program does not grow with the number of devices. The price is that the
    # last turn sends a block that nobody reads.
    block_carry = jax.tree.map(lambda x: jnp.concatenate([x] * size), block_init)
    state = (init, _with_upstream(block, axis_name, size), block_carry)
    turns = jax.lax.axis_size(axis_name) // size
    (carry, _, block_carry), _ = jax.lax.scan(turn, state, length=turns)
    return carry, _joined(block_carry, axis_name, size, join)


def add_trees(a: Tree, b: Tree) -> Tree:
    """Joins the block's carries of `fold_blocks_both` where they are sums."""
    return jax.tree.map(jnp.add, a, b)


def row_numbers(rows: int, axis_name: AxisName = None) -> Int[Array, " b"]:
    """Numbers the rows of all devices from 1; 0 is not a row, so it marks padding."""
    # Unique over devices: `is_other` compares rows of different devices by these numbers.
    first = 1 if axis_name is None else 1 + rows * jax.lax.axis_index(axis_name)
    return first + jnp.arange(rows, dtype=jnp.int32)


def weighted_mean(
    values: Float[Array, " b"],
    weights: Float[Array, " b"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Averages rows over all devices: the anchor weights, and the only reduction of a loss.

    ::

        sum(weights * values) / sum(weights)

    A loss is a sum over pairs for each row. This divides by the number of rows, or by the sum of
    their weights, and never by the number of pairs. A row of weight 0 is left out of both sums. If
    all weights are 0, the result is 0. Under `axis_name` every device holds its own rows and gets
    the same result. Differentiate outside `shard_map`: inside `pmap`, or with `check_vma=False`, the
    gradient is too large by a factor of the number of devices.

    Args:
      values: one value per local row.
      weights: one non-negative anchor weight per local row; None gives all rows the same weight.
      axis_name: mapped axis or tuple of axes to reduce over; None for one device.

    Returns:
      The average, equal on all devices.

    Raises:
      ValueError: values that are not floats [rows]; weights that are negative or not one per row.
        The values of traced arrays are not checked.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import weighted_mean
      >>> float(weighted_mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([1.0, 1.0, 0.0])))
      1.5
    """
    check_values(values)
    if weights is None:
        mean = values.mean()
        # A mean of means is right because each device holds the same number of rows.
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    check_weights(values.shape[0], weights=weights)
    weights = jnp.asarray(weights, values.dtype)
    # 0 * NaN is NaN, so a value of weight 0 must be selected out, not only multiplied. Before the
    # product and not after it: the gradient of the weight is the value, 0 * NaN too.
    total = (weights * jnp.where(weights > 0, values, 0)).sum()
    norm = weights.sum()
    if axis_name is not None:
        # Sums first and then one division: devices may hold different totals of weight.
        total, norm = jax.lax.psum((total, norm), axis_name)
    # The inner `where` keeps the gradient finite when all weights are 0: the branch that is not
    # taken is differentiated too.
    return jnp.where(norm > 0, total / jnp.where(norm > 0, norm, 1), 0)


def _in_chunks(step, rows: int, chunk_size: int):
    """Turns a step over a chunk into a step over a block."""
    chunks = -(-rows // chunk_size)

    def split(x):
        # Zeros also in the row numbers: this is how a step recognises padding.
        filled = jnp.pad(x, [(0, chunks * chunk_size - rows)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(chunks, chunk_size, *x.shape[1:])

    def join(x):
        return x.reshape(chunks * chunk_size, *x.shape[2:])[:rows]

    def walk(carry, block, block_carry):
        chunk_trees = jax.tree.map(split, (block, block_carry))
        carry, out = jax.lax.scan(lambda carry, x: step(carry, *x), carry, chunk_trees)
        return carry, jax.tree.map(join, out)

    return walk


def _blocks_to_a_turn(devices: int, rows: int, chunk_size: int | None) -> int:
    """How many neighbouring blocks travel as one: a power of two that divides the devices."""
    most = TURN_ROWS if chunk_size is None else min(chunk_size, TURN_ROWS)
    size = 1
    while devices % (2 * size) == 0 and 2 * size * rows <= most:
        size *= 2
    return size


def _with_upstream(block: Tree, axis_name: str | tuple[str, ...], size: int) -> Tree:
    """This device's block and those of the `size - 1` devices before it, one after another."""
    held = 1
    while held < size:
        further = _rotate(block, axis_name, held)
        block = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), block, further)
        held *= 2
    return block


def _joined(carry: Tree, axis_name: str | tuple[str, ...], size: int, join: Callable) -> Tree:
    """Sends the parts of a carry, in the order of `_with_upstream`, home and joins them there."""
    while size > 1:
        size //= 2
        near, far = (
            jax.tree.map(lambda x, half=half: jnp.split(x, 2)[half], carry) for half in (0, 1)
        )
        carry = join(near, _rotate(far, axis_name, -size))
    return carry


def _rotate(tree: Tree, axis_name: str | tuple[str, ...], hops: int) -> Tree:
    """Sends the tree `hops` devices on and receives that of the device as far back."""
    size = jax.lax.axis_size(axis_name)
    # Each turn brings blocks from upstream; when they have gone round, all have been here.
    ring = [(source, (source + hops) % size) for source in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, ring), tree)
