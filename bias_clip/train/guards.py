"""When a run stops by itself: values that are not finite, too many bad gradients one after another."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from bias_clip.core.storage import NotSavedError
from bias_clip.train.state import TrainState
from bias_clip.train.workdir import checkpoint


def is_healthy(metrics: Mapping[str, Any], *, max_consecutive: int | None) -> bool:
    """Whether the run can go on after a step with these metrics.

    A step that was skipped because of a bad gradient leaves the state unchanged. Whatever its loss, it
    stops the run only when it is the last of `max_consecutive` skipped steps. If steps are never
    skipped, the loss must be finite.

    Args:
      metrics: of a step, on the device or on the host; only the deciding ones are read, because
        reading a metric waits for the device.
      max_consecutive: how many consecutive skipped steps stop the run; None: any number is allowed.
    """
    if "skipped_in_row" in metrics:  # only steps that can be skipped count them
        in_row = int(metrics["skipped_in_row"])
        if max_consecutive is not None and in_row >= max_consecutive:
            return False
        if in_row > 0:
            return True
    return math.isfinite(metrics["loss"])


def check_consecutive(max_consecutive: int | None) -> None:
    """Raises ValueError unless None or a number of steps from 1."""
    if max_consecutive is not None and max_consecutive < 1:
        raise ValueError(
            f"guards.max_consecutive is {max_consecutive}; expected at least 1, or None for never."
        )


def stop_sick_run(
    workdir: Path, state: TrainState, step: int, metrics: Mapping[str, Any], saved: list[int]
) -> None:
    """Saves the state under `nonfinite/` and raises.

    Args:
      workdir: of the run.
      state: after `step`.
      step: the step with the bad metrics.
      metrics: of that step.
      saved: steps of the existing checkpoints, for the message.

    Raises:
      FloatingPointError: with step and values, and the reason if the state could not be saved.
    """
    shown = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
    directory = workdir / "nonfinite"
    where = f"the state is in {directory}"
    values = {name: str(value) for name, value in shown.items()}  # JSON has no NaN
    try:
        with checkpoint.closing(checkpoint.open_checkpoints(directory, keep=1)) as manager:
            checkpoint.save(manager, step, state, {"metrics": values})
            checkpoint.wait(manager)
    except NotSavedError as error:  # report it below: the run's own failure matters more
        where = f"the state could not be saved ({error})"
    in_row = int(shown["skipped_in_row"]) if "skipped_in_row" in shown else 0
    what = f"the loss is {shown['loss']}"
    if in_row:
        what = f"{in_row} steps in a row were skipped for a bad gradient, and {what},"
    raise FloatingPointError(
        f"{what} at step {step}; {where}; checkpoints of steps {saved} are "
        f"untouched. Metrics of the step: {shown}. "
        "Try a lower optimizer.lr, a longer schedule.warmup or a smaller optimizer.clip_norm."
    )
