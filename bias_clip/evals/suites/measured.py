"""One part of a suite as it was measured of one model: its numbers, and how to resample them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Metric
from bias_clip.evals.resampling import Draws
from bias_clip.evals.results import EvalResult
from bias_clip.evals.uncertainty import Estimate

Draw = Callable[[int, int], Draws]  # number of resamples, seed
MIN_ITEMS = 5  # a percentile interval of fewer items says little


@dataclass(frozen=True)
class Measured:
    """What a suite finds in one model.

    Attributes:
      result: the numbers, by the sensible definitions.
      draw: resamples images, or what the suite's images are clustered by.
      draw_texts: resamples templates, words, captions or occupations; None where there is one text.
      over_texts: what `draw_texts` resamples, in words.
      official: the numbers as the official code has them; None where it does not differ.
      hits: number to whether each image is right, for exact tests of two models.
      sizes: number to the independent items of its smallest group, see `group_units`; for all others
        it is those behind `draw`.
    """

    result: EvalResult
    draw: Draw
    draw_texts: Draw | None = None
    over_texts: str = ""
    official: EvalResult | None = None
    hits: Mapping[str, Bool[np.ndarray, " n"]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


Evaluate = Callable[[Encode], dict[str, Measured]]


def group_units(
    groups: Int[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"] | None,
    *,
    num_groups: int,
) -> Int[np.ndarray, " g"]:
    """How many independent items each group has: images, or clusters with an image of the group.

    Twenty images of one person are one item: they say nothing of another person. Group -1 is left out.
    """
    known = groups >= 0
    if clusters is None:
        return np.bincount(groups[known], minlength=num_groups)
    # A row per group and cluster that occur together; a cluster of two groups is an item of both.
    pairs = np.unique(np.stack([groups[known], clusters[known]], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=num_groups)


def smallest(units: Int[np.ndarray, " g"]) -> int:
    """The items of the smallest group that has any; 0 without one."""
    return int(min(units[units > 0], default=0))


def exact_hits(
    hits: Mapping[str, Bool[np.ndarray, " n"]], clusters: Int[np.ndarray, " n"] | None
) -> Mapping[str, Bool[np.ndarray, " n"]]:
    """The hits for an exact test, which takes images as independent: none where they have clusters."""
    return hits if clusters is None else {}


def bounded(found: Estimate, metric: Metric, *, items: int, level: float = 0.95) -> Estimate:
    """The interval of a number, inside the values that it can have, and never empty for a share.

    Shares and sizes of gaps are 0 to 1, signed gaps -1 to 1. Nothing is better than the value without
    bias, such as a skew of 0 or an entropy of 1, where a better direction is known; moved resamples may
    lie beyond it. All resamples are equal of a share of no item or of all; its interval is the exact
    one::

        none of n: [0, 1 - a^(1/n)];   all of n: [a^(1/n), 1],   a = (1 - level) / 2

    Args:
      found: from `interval`.
      metric: of the number.
      items: n, independent items behind the number; 0 if it was not resampled over items.
      level: of the interval.

    Reference: Clopper and Pearson: The Use of Confidence or Fiducial Limits Illustrated in the Case of
    the Binomial, 1934.
    """
    if metric.unit == "share" and items and found.low == found.high and found.value in (0.0, 1.0):
        reach = ((1 - level) / 2) ** (1 / items)
        return found._replace(high=1 - reach) if found.value == 0 else found._replace(low=reach)
    ends = {"share": (0.0, 1.0), "points": (0.0, 1.0), "signed points": (-1.0, 1.0)}
    least, most = ends.get(metric.unit, (-np.inf, np.inf))
    if metric.even is not None and metric.better == "lower":
        least = max(least, metric.even)
    if metric.even is not None and metric.better == "higher":
        most = min(most, metric.even)
    low, high = (float(np.clip(end, least, most)) for end in (found.low, found.high))
    return found._replace(low=min(low, found.value), high=max(high, found.value))
