"""M4 by stochastic updates: for utilities with many values, or for data that only streams.

The update is the paper's, as its readers restate it: the multipliers v and mu give the weight of an
example, and the weight gives a step of v and mu. Minibatches, step sizes, AdaGrad and averaging are
this project's; we do not know the paper's settings. Prefer `m4.solve` when attributes, labels and
utility have few distinct rows: it is exact and faster.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8

from bias_clip.balancing.problem import Problem, centred, group_values

RULES = ("adagrad", "sqrt")

AxisName = str | tuple[str, ...] | None


class Batch(NamedTuple):
    """A batch of rows; local rows under `axis_name`."""

    attributes: Int8[Array, "*t b m"]
    labels: Int8[Array, "*t b c"]
    utility: Float[Array, "*t b"]  # of mean 1 over the data, as `solve` scales it
    present: Float[Array, "*t b"]  # 1, or 0 for padding


class State(NamedTuple):
    """Multipliers, their averages, and the state of the step sizes; arrays, equal on all devices."""

    v: Float[Array, "2 k c1"]  # of moments too large, and too small; last column: the group alone
    mu: Float[Array, ""]
    v_mean: Float[Array, "2 k c1"]
    mu_mean: Float[Array, ""]
    averaged: Int[Array, ""]  # steps in the averages
    step: Int[Array, ""]
    v_square: Float[Array, "2 k c1"]  # sums of squared gradients
    mu_square: Float[Array, ""]


def init_stream(problem: Problem) -> State:
    """The start: all multipliers are 0, so all weights are eta * utility."""
    zeros = jnp.zeros((2, len(problem.groups), len(problem.labels) + 1))
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    # Sums of squares do not start from 0: "adagrad" divides by their root, so a first gradient that
    # is only rounding would become a full step.
    return State(zeros, zero, zeros, zero, none, none, zeros + 1e-12, zero + 1e-6)


def stream_weights(state: State, batch: Batch, problem: Problem) -> Float[Array, " b"]:
    """Weights of a batch by the averaged multipliers, or by the last ones if there is no average."""
    some = state.averaged > 0
    v = jnp.where(some, state.v_mean, state.v)
    mu = jnp.where(some, state.mu_mean, state.mu)
    return _weights(v, mu, batch, *_features(batch, problem), problem)


def update_stream(
    state: State,
    batch: Batch,
    problem: Problem,
    eps: Float[Array, "k c1"],
    *,
    step_size: float = 0.3,
    rule: str = "adagrad",
    average_from: Int[Array, ""] | int = 0,
    axis_name: AxisName = None,
) -> State:
    """One step on a batch.

    ::

        q   = clip(eta u - a.v - mu, 0, cap)
        v  <- clip(v + tau (mean(q a) - eps), 0, penalty)      tau: step_size / sqrt(step), or
        mu <- mu + tau (mean(q) - eta)                         each one's own by "adagrad"

    Under `axis_name` each device holds its rows of the batch, and sums are over all devices. Up to
    rounding, the state is that of one device with all rows. Padding has no effect.

    Args:
      state: from `init_stream` or the previous step.
      batch: rows, of which at least one is not padding.
      problem: with a number for eta.
      eps: of `tolerances`.
      step_size: factor of all steps. With "adagrad" 0.3 came within 1e-3 (rms) of the exact weights
        in 25 passes over 40,000 rows and in 120 passes over 16,000, at batches of 64 to 1024. It is
        slower when eta is close to its largest value. "sqrt" needs larger values for larger batches,
        such as 20 at 256.
      rule: "adagrad" divides by the root of the sum of squared gradients, which suits rare labels;
        "sqrt" divides by the root of the step number.
      average_from: steps beyond this one enter the averages.
      axis_name: mapped axis or axes over which the batch is spread; None for one device.

    Raises:
      ValueError: an unknown rule; eta="max".
    """
    if rule not in RULES:
        raise ValueError(f"rule: got {rule!r}; expected one of {RULES}.")
    z, y = _features(batch, problem)
    q = _weights(state.v, state.mu, batch, z, y, problem) * batch.present
    # Sums over devices before the division, so that uneven padding does not change the result. One
    # collective for all three.
    sums = ((q[:, None] * z).T @ y, q.sum(), batch.present.sum())
    moments, mean, rows = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    moments, mean = moments / rows, mean / rows
    # Without a constraint (infinite eps) the slope is 0. Infinity must not enter v_square, which would never
    # forget it.
    slope = jnp.stack([moments, -moments]) - jnp.where(jnp.isfinite(eps), eps, 0)
    slope = jnp.where(jnp.isfinite(eps), slope, 0)
    excess = mean - _rate(problem)
    step = state.step + 1
    # The current gradient counts before it divides, so "adagrad" moves by at most `step_size`.
    v_square, mu_square = state.v_square + slope**2, state.mu_square + excess**2
    if rule == "adagrad":
        v_step, mu_step = slope / jnp.sqrt(v_square), excess / jnp.sqrt(mu_square)
    else:
        v_step, mu_step = slope / jnp.sqrt(step), excess / jnp.sqrt(step)
    v = jnp.clip(state.v + step_size * v_step, 0, problem.penalty)
    mu = state.mu + step_size * mu_step
    # The mean of the multipliers from `average_from` on, without keeping them.
    averaged = state.averaged + (step > average_from)
    share = (step > average_from) / jnp.maximum(averaged, 1)
    v_mean = state.v_mean + share * (v - state.v_mean)
    mu_mean = state.mu_mean + share * (mu - state.mu_mean)
    return State(v, mu, v_mean, mu_mean, averaged, step, v_square, mu_square)


def fit_stream(
    batches: Batch,
    problem: Problem,
    eps: Float[Array, "k c1"],
    *,
    passes: int = 1,
    step_size: float = 0.3,
    rule: str = "adagrad",
    axis_name: AxisName = None,
) -> State:
    """Runs `passes` passes over `batches` in order; averages over the last half of the steps.

    Arguments as for `update_stream`; the first axis of the leaves of `batches` is the batch. Rows
    should be shuffled. One pass over fewer than about a million rows does not converge.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.balancing import Batch, fit_stream, make_problem, stream_weights
      >>> problem = make_problem({"woman": 0.5}, eta=0.5, eps_representation=0.0)
      >>> rows = Batch(jnp.int8([[1], [0], [0], [0]]), jnp.zeros((4, 0), "int8"), *jnp.ones((2, 4)))
      >>> state = fit_stream(Batch(*(x[None] for x in rows)), problem, jnp.zeros((1, 1)), passes=1000)
      >>> [round(float(q), 2) for q in stream_weights(state, rows, problem)]
      [1.0, 0.33, 0.33, 0.33]
    """
    # The first half leads from 0 to the neighbourhood of the optimum and would shift the average.
    half = len(batches.utility) * passes // 2

    def step(state: State, batch: Batch) -> tuple[State, None]:
        state = update_stream(
            state,
            batch,
            problem,
            eps,
            step_size=step_size,
            rule=rule,
            average_from=half,
            axis_name=axis_name,
        )
        return state, None

    def one_pass(state: State, _: None) -> tuple[State, None]:
        return jax.lax.scan(step, state, batches)

    return jax.lax.scan(one_pass, init_stream(problem), length=passes)[0]


def _features(batch: Batch, problem: Problem) -> tuple[Float[Array, "b k"], Float[Array, "b c1"]]:
    """s - target, and the labels with a column of ones; moments are products of the two."""
    z = centred(problem, group_values(problem, batch.attributes, jnp), jnp)
    ones = jnp.ones_like(batch.utility)[:, None]
    return z, jnp.concatenate([(batch.labels == 1).astype(z.dtype), ones], axis=1)


def _weights(v, mu, batch: Batch, z, y, problem: Problem) -> Float[Array, " b"]:
    # Moments are products of z and y, so a'v needs no array [b, k, c1].
    pull = ((z @ (v[0] - v[1])) * y).sum(1)
    return jnp.clip(_rate(problem) * batch.utility - pull - mu, 0, problem.cap)


def _rate(problem: Problem) -> float:
    if isinstance(problem.eta, str):
        raise ValueError("eta: got 'max'; expected a number, such as `max_eta` gives.")
    return problem.eta
