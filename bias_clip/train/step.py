"""One step of training: a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from bias_clip.train.optim import check_ema_decay, update_ema
from bias_clip.train.state import Skipped, TrainState


def make_train_step(
    *,
    gradient: Callable,
    tx: optax.GradientTransformation,
    health: Callable,
    log_every: int,
    total_steps: int,
    ema_decay: float | None,
    max_grad_norm: float | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `train_step(state, batch) -> (state, metrics)`, not yet jitted.

    If the state counts skipped steps (`state.skipped`), a step with a loss or gradient that is not
    finite, or with a gradient norm above `max_grad_norm`, changes only the counters. The schedule
    counts updates, so it does not advance; the order of examples does.

    Args:
      gradient: from `make_gradient`.
      tx: from `make_optimizer`.
      health: from `make_health`; it passes over all pairs, so only logged steps compute it, and its
        metrics are zero on all others.
      log_every: a step is logged when the number of finished steps is a multiple of this,
      or `total_steps`.
      ema_decay: of the average of the parameters, or None.
      max_grad_norm: norm of the gradient, before clipping, above which a step is skipped; or None.

    Raises:
      ValueError: if `max_grad_norm` is not positive, or `ema_decay` not in [0, 1).
    """
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"guards.max_grad_norm is {max_grad_norm}; expected above 0, or None.")

    if ema_decay is not None:
        check_ema_decay(ema_decay)

    def train_step(state, batch):
        loss, parts, outputs, grads = gradient(state.params, batch)
        # Of the raw gradient: the guard and the log see what the clipping hides.
        norm = optax.tree.norm(grads)
        # The schedule counts in the optimiser's state, so a step that is skipped does not advance it.
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema = None
        if ema_decay is not None:
            ema = update_ema(state.ema, params, decay=ema_decay, step=step)
        after = TrainState(step, params, opt_state, ema, state.skipped)
        metrics = {"loss": loss} | {f"term_{name}": value for name, value in parts.items()}
        metrics["grad_norm"] = norm
        if state.skipped is not None:
            good = jnp.isfinite(loss) & jnp.isfinite(norm)
            if max_grad_norm is not None:
                good &= norm <= max_grad_norm
            after = _keep_if(good, after, state, state.skipped)
            metrics |= {"skipped": 1 - good.astype(jnp.int32)}
            counts = after.skipped._asdict()
            metrics |= {f"skipped_{name}": n for name, n in counts.items()}
        metrics |= _sometimes(
            (step % log_every == 0) | (step == total_steps),
            # Not the norm of the updates: to keep them until here, every step would write and read
            # a copy of all parameters (3.5 % of a step on a CPU, and that much memory on any device).
            lambda: health(outputs, batch) | {"param_norm": optax.tree.norm(after.params)},
        )
        return after, metrics

    return train_step


def _keep_if(
    good: Bool[Array, ""], after: TrainState, before: TrainState, counts: Skipped
) -> TrainState:
    """`after`; or `before`, with the step and the counters advanced."""
    # A select and not a `cond`: XLA fuses it into the loops that write the new values.
    # Also of the optimiser's state, which a NaN would spoil for good.
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
    bad = 1 - good.astype(jnp.int32)
    # in_row falls back to 0 with a good step.
    skipped = Skipped(counts.total + bad, (counts.in_row + 1) * bad)
    return kept._replace(step=after.step, skipped=skipped)


def _sometimes(condition: jax.Array, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), jax.eval_shape(compute))
    # A cond and not a select: the health of a batch costs a product of the batch, which most steps skip.
    return jax.lax.cond(condition, compute, lambda: zeros)
