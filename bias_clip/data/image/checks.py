"""Ranges of the numbers that operations take: outside of them the result has no meaning."""

import math
from collections.abc import Sequence


def check_number(what: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises ValueError unless `value` is finite and in [low, high]; `what` is "flip_lr.probability"."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{what} is {value}, expected a number {_range(low, high)}.")


def check_range_of(what: str, pair: Sequence[float], high: float = math.inf) -> None:
    """Raises ValueError unless `pair` is two finite numbers above 0, in this order, at most `high`."""
    if len(pair) != 2 or not (0 < pair[0] <= pair[1] <= high and math.isfinite(pair[1])):
        limit = f", at most {high}" if math.isfinite(high) else ""
        raise ValueError(f"{what} is {pair}, expected two positive numbers in order{limit}.")


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return "that is finite" if math.isinf(low) else f"of {low} or more that is finite"
    return f"from {low} to {high}"
