"""When a run has to stop by itself: values that are no numbers, gradients that are all bad."""

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

    A step that was skipped, because its gradient was bad, left the state as it was: it is no reason
    to stop, whatever its loss, unless `max_consecutive` of them come in a row. Where no step can be
    skipped, the loss must be finite.

    Args:
      metrics: of a step, on the device or not; reads of them only what it decides by.
      max_consecutive: skipped steps in a row; None: as many as come.
    """
    if "skipped_in_row" in metrics:  # the step guards its update
        in_row = int(metrics["skipped_in_row"])
        if max_consecutive is not None and in_row >= max_consecutive:
            return False
        if in_row > 0:
            return True
    return math.isfinite(metrics["loss"])


def stop_sick_run(
    workdir: Path, state: TrainState, step: int, metrics: Mapping[str, Any], saved: list[int]
) -> None:
    """Saves the state under `nonfinite/` and raises.

    Args:
      workdir: of the run.
      state: after `step`.
      step: whose metrics are sick.
      metrics: of that step.
      saved: steps of the checkpoints that are there, for the message.

    Raises:
      FloatingPointError: with step and values, and why the state is not there if it could not be
        saved.
    """
    shown = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
    directory = workdir / "nonfinite"
    where = f"the state is in {directory}"
    values = {name: str(value) for name, value in shown.items()}  # JSON has no NaN
    try:
        with checkpoint.closing(checkpoint.open_checkpoints(directory, keep=1)) as manager:
            checkpoint.save(manager, step, state, {"metrics": values})
            checkpoint.wait(manager)
    except NotSavedError as error:  # what is wrong with the run is the more important news
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
