"""Durations in steps, and schedules of the learning rate."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bias_clip.core.registry import check_arguments, look_up

Duration = int | str
"""Steps as an integer, or a text that `parse_duration` reads."""

Schedule = Callable[[Any], Float[Array, ""]]
"""Maps a step, counted from 0, to a multiplier in [0, 1]."""

_DURATION = re.compile(r"(\S*?)\s*(steps?|epochs?|examples?|%)")
_NUMBER = re.compile(r"\d[\d_]*(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


def parse_duration(
    duration: Duration,
    *,
    total_steps: int | None = None,
    batch_size: int | None = None,
    examples_per_epoch: int | None = None,
) -> int:
    """Turns "500 steps", "40 epochs", "9e9 examples" or "10%" (of the run) into steps.

    `examples / batch_size`, `epochs * examples_per_epoch / batch_size`, `percent * total_steps / 100`,
    each rounded to the nearest step, halves up; a duration that is not zero lasts at least one step.

    Args:
      duration: the text, or an integer number of steps.
      total_steps: length of the run, which "%" needs.
      batch_size: of all hosts together, which "examples" and "epochs" need.
      examples_per_epoch: size of the training set, which "epochs" needs.

    Raises:
      ValueError: a missing number or unit, a negative number, a fraction of a step, more than 100%,
        or a unit that cannot be converted because the argument it needs was not given.
    """
    number, unit = _split(duration)
    if unit == "step":
        if number.denominator != 1:
            raise ValueError(f"Duration {duration!r} is not an integer number of steps.")
        return int(number)
    if unit == "%" and number > 100:
        raise ValueError(f"Duration {duration!r} is longer than the run; expected at most '100%'.")

    def need(value: int | None, what: str) -> Fraction:
        if value is None:
            raise ValueError(
                f"Duration {duration!r} cannot be converted to steps: {what} is not known here; "
                f"pass {what}, or give the duration in steps."
            )
        if value < (0 if what == "total_steps" else 1):
            raise ValueError(f"{what} must be positive to convert {duration!r}, got {value}.")
        return Fraction(value)

    if unit == "%":
        steps = number / 100 * need(total_steps, "total_steps")
    else:
        steps = number / need(batch_size, "batch_size")
        if unit == "epoch":
            steps *= need(examples_per_epoch, "examples_per_epoch")
    return max(1, int(steps + Fraction(1, 2))) if steps else 0


def _split(duration: Duration) -> tuple[Fraction, str]:
    if isinstance(duration, int) and not isinstance(duration, bool):
        if duration < 0:
            raise ValueError(f"A duration cannot be negative, got {duration} steps.")
        return Fraction(duration), "step"
    match = _DURATION.fullmatch(duration.strip()) if isinstance(duration, str) else None
    if match is None or not _NUMBER.fullmatch(match[1]):
        raise ValueError(
            f"Cannot read the duration {duration!r}; expected an integer (steps) or a text like "
            "'500 steps', '40 epochs', '9e9 examples' or '10%'."
        )
    # A fraction and not a float: 0.1 of 1e9 examples is exact, so rounding is the same everywhere.
    return Fraction(match[1]), match[2].removesuffix("s")


def make_schedule(
    *,
    name: str,
    total_steps: int,
    batch_size: int | None = None,
    examples_per_epoch: int | None = None,
    **arguments: Any,
) -> Schedule:
    """Makes the multiplier of every update, `schedule(step)` for steps 0 to `total_steps - 1`.

    All schedules rise linearly from 0 over `warmup`, so with a warm-up the first update is zero, as in
    big_vision. They are continuous, and keep their last value after the end. The caller multiplies by
    the peak learning rate: see `make_optimizer` for what else is multiplied.

    Args:
      name: one of `SCHEDULES`.
      total_steps: length of the run in steps.
      batch_size, examples_per_epoch: needed for durations in examples and epochs.
      **arguments: of that schedule; `warmup`, `cooldown` and `timescale` are durations.

    Raises:
      ValueError: an unknown name or argument, a bad duration, or a warm-up and cool-down that
        together are longer than the run.

    Example:
      >>> schedule = make_schedule(name="cosine", total_steps=1000, warmup="10%")
      >>> float(schedule(50)), float(schedule(100))
      (0.5, 1.0)
    """
    builder = look_up("schedule", name, SCHEDULES)
    for key in ("warmup", "cooldown", "timescale"):
        if key in arguments:
            arguments[key] = parse_duration(
                arguments[key],
                total_steps=total_steps,
                batch_size=batch_size,
                examples_per_epoch=examples_per_epoch,
            )
    check_arguments(f"schedule {name!r}", builder, arguments, given=("total_steps",))
    return builder(total_steps=total_steps, **arguments)


def _cosine(*, total_steps: int, warmup: Duration = 0, floor: float = 0.0) -> Schedule:
    """`floor + (1 - floor) * (1 + cos(pi * t)) / 2`, t the share of the steps after the warm-up."""
    left = _steps_left(total_steps, warmup)
    decay = optax.cosine_decay_schedule(1.0, left, alpha=_check_floor(floor))
    return _assemble(decay, total_steps, warmup)


def _linear(*, total_steps: int, warmup: Duration = 0, floor: float = 0.0) -> Schedule:
    """From 1 to `floor` in a straight line."""
    left = _steps_left(total_steps, warmup)
    return _assemble(optax.linear_schedule(1.0, _check_floor(floor), left), total_steps, warmup)


def _constant(*, total_steps: int, warmup: Duration = 0, cooldown: Duration = 0) -> Schedule:
    """1, then down to 0 in a straight line over the last `cooldown`: warm-up, stable, decay."""

    def stay(t):
        # Made from t, so that the schedule has a value for arrays of steps too.
        return jnp.ones_like(t, jnp.float32)

    return _assemble(stay, total_steps, warmup, cooldown)


def _rsqrt(
    *,
    total_steps: int,
    warmup: Duration = 0,
    cooldown: Duration = 0,
    timescale: Duration = 10_000,
) -> Schedule:
    """`(1 + t / timescale) ** -0.5` for t steps after the warm-up, times the linear cool-down.

    Reference: Zhai et al., Scaling Vision Transformers, 2022, section 3.5: one long run, cooled down
    from several points, gives models for several budgets.
    """
    scale = parse_duration(timescale, total_steps=total_steps)
    if scale < 1:
        raise ValueError(f"timescale must be at least one step, got {timescale!r}.")

    def decay(t):
        # `maximum` keeps the warm-up's negative t out of the root.
        return jnp.sqrt(scale / (scale + jnp.maximum(t, 0.0)))

    return _assemble(decay, total_steps, warmup, cooldown)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "rsqrt": _rsqrt,
}
"""Name to builder; a builder knows `total_steps`, so its durations are in steps or percent."""


def _assemble(
    decay: Callable[[Any], Any], total_steps: int, warmup: Duration, cooldown: Duration = 0
) -> Schedule:
    """Warm-up, then `decay` of the steps since, all times the cool-down."""
    rise = parse_duration(warmup, total_steps=total_steps)
    fall = parse_duration(cooldown, total_steps=total_steps)
    if rise + fall > total_steps:
        raise ValueError(
            f"A warm-up of {rise} steps and a cool-down of {fall} steps do not fit into a run of "
            f"{total_steps} steps; shorten them, for example by giving them in percent."
        )
    if rise:
        # `join_schedules` gives `decay` the steps since the warm-up.
        decay = optax.join_schedules([optax.linear_schedule(0.0, 1.0, rise), decay], [rise])
    end = optax.linear_schedule(1.0, 0.0, fall, total_steps - fall) if fall else None

    def schedule(step):
        # The last value stays after the end, also for schedules that would go on.
        step = jnp.minimum(step, total_steps)
        value = decay(step) if end is None else decay(step) * end(step)
        # Compiled, `1 - fall / fall` may come out as -1e-8.
        return jnp.clip(jnp.asarray(value, jnp.float32), 0.0, 1.0)

    return schedule


def _steps_left(total_steps: int, warmup: Duration) -> int:
    # A warm-up that fills the run leaves nothing to decay in; the decay then starts after the end.
    return max(1, total_steps - parse_duration(warmup, total_steps=total_steps))


def _check_floor(floor: float) -> float:
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is a share of the peak: got {floor}, expected 0 to 1.")
    return float(floor)
