"""From gradients to updates: the chain of transforms, and an average of the parameters.

A parameter is named by its path, "img/blocks/mlp/fc1/kernel". As in the sharding rules, regexes are
*searched for* in the path (`re.search`, anchor them yourself), and the first rule that matches counts.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from bias_clip.train.optim.transforms import KERNEL, make_transform, scale_leaves
from bias_clip.train.sharding import compile_rule, path_name

KERNELS = ((KERNEL, 1.0),)
"""The default of `decay`: only weight matrices, no norms, biases, positions, probe or tokens."""

STACKED = "(^|/)blocks/"
"""The default of `stacked`: leaves whose first axis counts the layers of an encoder."""

Rules = Sequence[tuple[str, float]]


def make_optimizer(
    params: PyTree,
    *,
    name: str,
    lr: float,
    schedule: Callable[[Any], Any],
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    decay: Rules = KERNELS,
    lr_mults: Rules = (),
    freeze: Sequence[str] = (),
    stacked: str = STACKED,
    **arguments: Any,
) -> optax.GradientTransformation:
    """Makes the optimiser: `tx.init(params)`, `tx.update(grads, state, params)`.

        g = clip(grads)                                        global norm at most clip_norm
        update = -schedule(step) * (lr * lr_mult * transform(g) + weight_decay * decay * param)

    Weight decay is decoupled: it is multiplied by the schedule, but not by `lr` or `lr_mults`.
    With a zero gradient a parameter shrinks by the factor `1 - schedule * weight_decay`. So 1e-4 here,
    at lr 1e-3, is 1e-1 for `optax.adamw` or PyTorch, and a change of `lr` does not change the decay.

    A frozen parameter has no optimiser state, no decay, and no part in the gradient's norm.

    Args:
      params: parameters, or ShapeDtypeStructs of them: only paths and shapes are used.
      name: one of `TRANSFORMS`.
      lr: peak learning rate.
      schedule: from a step, counted from 0, to a multiplier in [0, 1]; see `make_schedule`.
      weight_decay: factor of the parameters that `decay` selects.
      clip_norm: largest norm of the gradient over all trained parameters, or None.
      decay: (regex, multiplier of `weight_decay`); 0 for parameters that no regex matches.
      lr_mults: (regex, multiplier of `lr`); 1 for parameters that no regex matches.
      freeze: regexes of parameters that are not trained.
      stacked: regex of the leaves that hold one parameter per layer along their first axis. They
        are transformed layer by layer, as if each layer were a leaf.
      **arguments: of the transform.

    Raises:
      ValueError: an unknown name or argument, a number out of range, a regex that does not compile
        or takes effect on no parameter, or nothing left to train.

    Reference: Zhai et al., Scaling Vision Transformers, 2022, for the recipe; Loshchilov and Hutter,
    Decoupled Weight Decay Regularization, 2019, algorithm 2, for the decay.

    Example:
      >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}
      >>> tx = make_optimizer(params, name="adamw", lr=1e-3, schedule=lambda step: 1.0)
      >>> updates, state = tx.update(params, tx.init(params), params)
    """
    _check_numbers(lr=lr, weight_decay=weight_decay, clip_norm=clip_norm)
    frozen = frozen_leaves(params, freeze=freeze)
    if all(jax.tree.leaves(frozen)):
        raise ValueError(f"freeze={tuple(freeze)} leaves no parameter to train.")

    def trained(tree):  # without leaves at frozen parameters: optax keeps no state for them
        return jax.tree.map(lambda f, x: optax.MaskedNode() if f else x, frozen, tree)

    in_layers = jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(stacked, path_name(path)) is not None, params
    )
    decays = _multipliers(params, decay if weight_decay else (), default=0.0, what="decay")
    mults = _multipliers(params, lr_mults, default=1.0, what="lr_mults")
    if not all(mult > 0 for mult in jax.tree.leaves(mults)):
        raise ValueError(
            f"lr_mults must be positive, got {lr_mults}; to stop parameters use freeze."
        )
    # Order: the norm that clips is that of raw gradients; multipliers of lr do not change the decay,
    # which comes after them; the schedule scales both.
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        make_transform(trained(params), trained(in_layers), name=name, **arguments),
        optax.scale(lr),
        scale_leaves(trained(mults)),
        _add_decay(weight_decay, trained(decays)),
        optax.scale_by_schedule(schedule),
        optax.scale(-1.0),
    )
    if not any(jax.tree.leaves(frozen)):
        return tx
    labels = jax.tree.map(lambda f: "frozen" if f else "trained", frozen)
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def frozen_leaves(params: PyTree, *, freeze: Sequence[str]) -> PyTree:
    """Tells for each leaf whether a regex of `freeze` matches its path.

    Raises:
      ValueError: a regex does not compile or matches nothing.
    """
    if isinstance(freeze, str):
        raise ValueError(f"freeze takes a sequence of regexes; got {freeze!r}, write [{freeze!r}].")
    return first_match(params, [(regex, True) for regex in freeze], default=False, what="freeze")


def first_match(tree: PyTree, rules: Sequence[tuple[str, Any]], *, default: Any, what: str) -> Any:
    """Gives each leaf the value of the first `(regex, value)` found in its path, else `default`.

    Args:
      tree: any tree; its leaves are not looked at.
      rules: ordered, the narrower first.
      default: value of leaves that no regex matches.
      what: the argument that the rules come from, for messages.

    Raises:
      ValueError: a rule that is not a pair, does not compile, matches no leaf, or matches only leaves
        that earlier rules take.
    """
    compiled = [compile_rule(rule, what) for rule in rules]
    touched: set[int] = set()
    decided: set[int] = set()

    def value(path, _):
        # All rules are tried, not only the first hit, so that one which never decides can be named.
        hits = [i for i, (regex, _) in enumerate(compiled) if regex.search(path_name(path))]
        touched.update(hits)
        decided.update(hits[:1])
        return compiled[hits[0]][1] if hits else default

    values = jax.tree_util.tree_map_with_path(value, tree)
    for i, (regex, _) in enumerate(compiled):
        if i in touched - decided:
            raise ValueError(
                f"{what}: {regex.pattern!r} comes after rules that take everything it matches; "
                "put the narrower rule first."
            )
        if i not in touched:
            names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
            some = ", ".join(names[:: max(1, len(names) // 8)][:8])
            raise ValueError(
                f"{what}: {regex.pattern!r} matches none of {len(names)} parameters, such as {some}."
            )
    return values


def init_ema(params: PyTree) -> PyTree:
    """Starts the average at the parameters, as a copy, because a step donates both."""
    return jax.tree.map(jnp.copy, params)


def check_ema_decay(decay: float) -> None:
    """Raises ValueError unless the decay of an average is in [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"ema_decay, the decay of an average, must be in [0, 1), got {decay}.")


def update_ema(ema: PyTree, params: PyTree, *, decay: float, step: int | Int[Array, ""]) -> PyTree:
    """Moves the exponential moving average towards `params`.

        rate = min(decay, (1 + step) / (10 + step));  ema = rate * ema + (1 - rate) * params

    The second term of the minimum lets an early average forget the random start quickly.

    Args:
      ema: from `init_ema` or the last call.
      params: after this step's update.
      decay: the rate after many steps; the average covers about the last `1 / (1 - decay)` steps.
      step: updates made so far, this one included.

    Raises:
      ValueError: the decay is not in [0, 1).
    """
    check_ema_decay(decay)
    # Early on, the average covers about a ninth of the steps made so far.
    rate = jnp.minimum(decay, (1 + step) / (10 + step))
    # In this form an average that equals the parameters stays equal to them, bit for bit.
    return jax.tree.map(lambda e, p: e + (1 - rate).astype(e.dtype) * (p - e), ema, params)


def _add_decay(weight_decay: float, decays: PyTree) -> optax.GradientTransformation:
    def add(updates, params):
        # m 0: no multiplication in the compiled step over parameters that do not decay.
        return jax.tree.map(
            lambda u, p, m: u + weight_decay * m * p if m else u, updates, params, decays
        )

    return optax.stateless(add)


def _multipliers(params: PyTree, rules: Rules, *, default: float, what: str) -> PyTree:
    mults = first_match(params, rules, default=default, what=what)
    for mult in jax.tree.leaves(mults):
        if isinstance(mult, bool) or not isinstance(mult, int | float) or not 0 <= mult < math.inf:
            raise ValueError(f"{what}: a multiplier is a number of at least 0, got {mult!r}.")
    return mults


def _check_numbers(*, lr: float, weight_decay: float, clip_norm: float | None) -> None:
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive, got {lr}.")
    if not 0 <= weight_decay < 1:
        raise ValueError(
            f"weight_decay is the share by which a parameter shrinks per step at the peak of the "
            f"schedule: got {weight_decay}, expected 0 to 1. It is not multiplied by lr here."
        )
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(f"clip_norm must be positive, or None for no clipping, got {clip_norm}.")
