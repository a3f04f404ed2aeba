"""How fast a run goes: examples per second, utilisation, waiting for data."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from bias_clip.core.formatting import format_duration
from bias_clip.plan.flops import count_flops, peak_flops
from bias_clip.train.setup import Setup

# Parts of the work whose time does not count for the speed of training.
WAITS = {"compile": "compiling the step", "evaluate": "evaluating", "save": "saving"}


def make_speed(
    setup: Setup,
) -> Callable[[int, int, int, float, Mapping[str, float]], dict[str, float]]:
    """Returns `speed(before, step, compiled, seconds, parts)`: how fast steps `before + 1` to `step` went.

    `compiled` of them were the first of their kind: they ran within "compile", whose time is excluded.
    `parts` has the seconds of `WAITS` and of "input" within the interval. The result has
    `examples_per_second`, `input_wait` (the share of the time spent waiting for data) and, except on
    CPUs, `mfu` (see `peak_flops`).

    Args:
      setup: of the run.
    """
    batch, size, peak = setup.abstract_batch, batch_size(setup), peak_flops()
    # Backward takes twice the products of forward.
    # A training step is counted as three forward passes: recomputation is not useful work.
    params, light = setup.abstract_state.params, setup.light
    full = (
        0.0 if peak is None else 3 * count_flops(setup.apply, params, batch["image"], batch["text"])
    )
    until, less = 0, 0.0
    if peak is not None and light is not None:
        made = jax.eval_shape(light.inputs, 0, batch)
        until = light.until
        less = full - 3 * count_flops(light.apply, params, made["image"], made["text"])

    def speed(before, step, compiled, seconds, parts):
        useful = seconds - sum(parts.get(part, 0.0) for part in WAITS)
        # The floor is for intervals that were all compiling or saving.
        per_second = (step - before - compiled) / max(useful, 1e-9)
        flops = full - less * max(0, min(step, until) - before) / (step - before)
        line = {
            "examples_per_second": per_second * size,
            "input_wait": parts.get("input", 0.0) / max(useful, 1e-9),
        }
        return line if peak is None else line | {"mfu": per_second * flops / peak}

    return speed


def speed_text(
    values: Mapping[str, Any], line: Mapping[str, float], setup: Setup, steps_left: int
) -> str:
    """Returns the progress line: loss, speed, time left.

    Args:
      values: metrics of the step.
      line: from the function of `make_speed`.
      setup: of the run.
      steps_left: to the end of the run.
    """
    per_second = line["examples_per_second"]
    left = steps_left * batch_size(setup) / per_second if per_second else 0.0
    mfu = f"  MFU {line['mfu']:.0%}" if "mfu" in line else ""
    return (
        f"loss {values['loss']:.3f}  {per_second:.0f} examples/s{mfu}  "
        f"waiting for data {line['input_wait']:.1%}  {format_duration(left)} left"
    )


def batch_size(setup: Setup) -> int:
    """Returns the examples per step, over all devices and hosts."""
    return setup.abstract_batch["text"].shape[0]
