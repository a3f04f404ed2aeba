"""One step of training: a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from bias_clip.train.optim import update_ema
from bias_clip.train.state import TrainState


def make_train_step(
    *,
    apply: Callable,
    objective: Callable,
    tx: optax.GradientTransformation,
    health: Callable,
    log_every: int,
    total_steps: int,
    ema_decay: float | None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `train_step(state, batch) -> (state, metrics)`, not yet jitted.

    Args:
      apply: `apply(params, image, text) -> Outputs`.
      objective: from `make_objective`.
      tx: from `make_optimizer`.
      health: from `make_health`; costs a pass over all pairs, so it is computed on steps that are
        logged only and its metrics are zero on the others.
      log_every: a step is logged when the number of finished steps is a multiple of this,
      or `total_steps`.
      ema_decay: of the average of the parameters, or None.
    """

    def loss_fn(params, batch):
        outputs = apply(params, batch["image"], batch["text"])
        loss, parts = objective(outputs, batch)
        return loss, (parts, outputs)

    def train_step(state, batch):
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (parts, outputs)), grads = grad_fn(state.params, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema = None
        if ema_decay is not None:
            ema = update_ema(state.ema, params, decay=ema_decay, step=step)
        metrics = {"loss": loss} | {f"term_{name}": value for name, value in parts.items()}
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics |= _sometimes(
            (step % log_every == 0) | (step == total_steps),
            # Not the norm of the updates: to have them at hand here, every step would write and read
            # a copy of all parameters (3.5 % of a step on a CPU, and as much memory everywhere).
            lambda: health(outputs, batch) | {"param_norm": optax.tree.norm(params)},
        )
        return TrainState(step, params, opt_state, ema), metrics

    return train_step


def _sometimes(condition: jax.Array, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), jax.eval_shape(compute))
    return jax.lax.cond(condition, compute, lambda: zeros)
