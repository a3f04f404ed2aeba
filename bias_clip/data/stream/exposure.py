"""What a run was shown: how often each record, in which steps."""

import numpy as np
from jaxtyping import Float

from bias_clip.data.records import Source
from bias_clip.data.stream.balanced import DrawnRecords
from bias_clip.data.stream.batch import WEIGHTS
from bias_clip.data.stream.examples import shuffled_index
from bias_clip.data.stream.plan import Plan


def count_exposure(
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
      ValueError: unless 0 <= start <= stop.

        count_exposure(source, plan, batch_size=256, seed=0, stop=1000).sum()  # 256,000 without weights
    """
    if not 0 <= start <= stop:
        raise ValueError(f"got steps {start} to {stop}, expected 0 <= start <= stop.")
    total = np.zeros(len(source))
    for number, phase in enumerate(plan.phases):
        first, last = _steps_of(plan, number, start, stop)
        if phase.order is not None:  # of cells, or a fresh draw per epoch: position by position
            seen = map(phase.order.at, range(first * batch_size, last * batch_size))
            np.add.at(total, np.fromiter(seen, np.int64), 1.0)
            continue
        size = len(phase.source)
        counts = _counts(first * batch_size, last * batch_size, size, seed)
        counts = counts * np.asarray(phase.keys.get(WEIGHTS, 1.0), np.float64)
        inner = phase.source
        rows = inner.rows if isinstance(inner, DrawnRecords) else np.arange(size)
        # Not `total[rows] += counts`, which counts a repeated row once.
        np.add.at(total, rows, counts)
    return total


def _steps_of(plan: Plan, number: int, start: int, stop: int) -> tuple[int, int]:
    """The part of [start, stop) that a phase has; empty ones begin where they end."""
    if len(plan.phases) == 1:
        return start, stop
    low, high = (start, min(stop, plan.switch)) if number == 0 else (max(start, plan.switch), stop)
    return low, max(low, high)


def _counts(first: int, last: int, size: int, seed: int) -> Float[np.ndarray, " n"]:
    """How often each of `size` records stands at the positions [first, last): whole epochs at once."""
    # Epochs that lie wholly within [first, last); every record stands in each of them once.
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
