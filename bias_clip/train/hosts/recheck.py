"""Does a device compute the same bits twice? A step is run again on the same batch and compared.

A chip that computes wrong values at times spoils a run without an error: every host averages its gradient.
The check costs one more step and, while it runs, the memory of a second state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def step_twice(
    train_step: Callable, state: Any, batch: Any, *, step: int, hosts: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """Returns `train_step(state, batch)`, after it has given the same bits twice.

    On many hosts the gradient is summed over all, so a wrong one may differ everywhere. The message
    then names all hosts; run each alone to find the one.

    Args:
      train_step: compiled; it may take the memory of its state.
      state, batch: as for `train_step`.
      step: its number, for the message.
      hosts: names of all processes; empty for one process.

    Raises:
      FloatingPointError: the bits differ; names the hosts and some of the arrays.
    """
    spare = jax.tree.map(jnp.copy, state)  # first: the step takes the memory of what it is given
    first = train_step(spare, batch)
    second = train_step(state, batch)
    found = different(first, second)
    where = _hosts_with(bool(found), hosts)
    if where:
        some = f", such as {found[:3]}" if found else ""
        raise FloatingPointError(
            f"silent corruption: step {step} gave other bits when it ran again on the same batch, on "
            f"{', '.join(where)}: {len(found)} arrays here{some}. Nothing of this step was saved. Take the "
            "host out and start the same line again."
        )
    return second


def different(one: Any, other: Any) -> list[str]:
    """The paths of the arrays whose bits differ on this process's devices."""
    leaves = jax.tree_util.tree_leaves_with_path(one)
    pairs = zip(leaves, jax.tree.leaves(other), strict=True)
    changed = [path for (path, a), b in pairs if not _same_bits(a, b)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in changed]


def _same_bits(a: jax.Array, b: jax.Array) -> bool:
    # Bytes, not values: NaN equals no NaN, and 0 equals -0.
    shards = zip(a.addressable_shards, b.addressable_shards, strict=True)
    return all(np.asarray(x.data).tobytes() == np.asarray(y.data).tobytes() for x, y in shards)


def _hosts_with(differs: bool, hosts: Sequence[str]) -> list[str]:
    if not hosts:
        return ["this host"] if differs else []
    flags = multihost_utils.process_allgather(np.array([differs])).reshape(-1)
    return [name for name, flag in zip(hosts, flags, strict=True) if flag]
