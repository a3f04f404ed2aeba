"""What a run carries from step to step: arrays only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from bias_clip.train.optim import init_ema


class Skipped(NamedTuple):
    """How many steps were skipped because of a bad gradient."""

    total: Int[Array, ""]
    in_row: Int[Array, ""]  # consecutive ones up to the last step; 0 after a good step


class TrainState(NamedTuple):
    """Everything that the next step depends on, except the batch."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any  # an average of params, or None
    skipped: Skipped | None = None  # None: no step is ever skipped


def init_state(
    key: jax.Array,
    *,
    init: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    with_ema: bool,
    with_guard: bool,
) -> TrainState:
    """Returns the state before the first step. Pure: goes through `eval_shape` and `jit`."""
    params = init(key)
    ema = init_ema(params) if with_ema else None
    skipped = Skipped(*(jnp.zeros((), jnp.int32) for _ in Skipped._fields)) if with_guard else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), ema, skipped)
