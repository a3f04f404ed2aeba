"""What a run was fed: how often each record, in which steps, by the rule that fed it."""

import numpy as np
from jaxtyping import Float

from bias_clip.data.records import Source
from bias_clip.data.stream.balanced import DrawnRecords, Plan
from bias_clip.data.stream.columns import WEIGHTS
from bias_clip.data.stream.examples import shuffled_index


def fed_weights(
    source: Source, plan: Plan, *, batch_size: int, seed: int, start: int = 0, stop: int
) -> Float[np.ndarray, " n"]:
    """Returns how often each record of `source` was shown, times the weight it had in the loss.

    Nothing is logged for it: what stands at a position is a function of (seed, position), and this
    counts it. A record that could not be decoded is counted here, though another stood in for it.

    Args:
      source: of the run, before thinning.
      plan: of the run, from `make_plan` or `plain_plan` of that source.
      batch_size: of the run, over all hosts.
      seed: of the run.
      start: the first step, counted from 0.
      stop: the step after the last.

    Raises:
      ValueError: unless 0 <= start <= stop; a plan with an order of its own, such as that of cells.

        fed_weights(source, plan, batch_size=256, seed=0, stop=1000).sum()  # 256,000 without weights
    """
    if not 0 <= start <= stop:
        raise ValueError(f"got steps {start} to {stop}, expected 0 <= start <= stop.")
    if any(stage.order is not None for stage in plan.stages):
        raise ValueError(
            "got a plan of cells, whose order is its own; only shuffled ones are counted."
        )
    total = np.zeros(len(source))
    for number, stage in enumerate(plan.stages):
        first, last = _steps_of(plan, number, start, stop)
        size = len(stage.source)
        counts = _counts(first * batch_size, last * batch_size, size, seed)
        counts = counts * np.asarray(stage.keys.get(WEIGHTS, 1.0), np.float64)
        inner = stage.source
        rows = inner.rows if isinstance(inner, DrawnRecords) else np.arange(size)
        np.add.at(total, rows, counts)
    return total


def _steps_of(plan: Plan, number: int, start: int, stop: int) -> tuple[int, int]:
    """The part of [start, stop) that a stage feeds; empty ones begin where they end."""
    if len(plan.stages) == 1:
        return start, stop
    low, high = (start, min(stop, plan.switch)) if number == 0 else (max(start, plan.switch), stop)
    return low, max(low, high)


def _counts(first: int, last: int, size: int, seed: int) -> Float[np.ndarray, " n"]:
    """How often each of `size` records stands at the positions [first, last): whole epochs at once."""
    whole = max(0, last // size - -(-first // size))
    counts = np.full(size, float(whole))
    edge = -(-first // size) * size
    ends = (
        range(first, last)
        if whole == 0
        else [*range(first, edge), *range(edge + whole * size, last)]
    )
    for position in ends:
        counts[shuffled_index(position, size, seed)] += 1
    return counts
