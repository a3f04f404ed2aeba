"""One part of a suite as it was measured of one model: its numbers, and how to resample them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from bias_clip.evals.encode import Encode
from bias_clip.evals.resampling import Draws, interval
from bias_clip.evals.results import EvalResult, or_none

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
      sizes: number to the images of its smallest group, where that is not all images.
    """

    result: EvalResult
    draw: Draw
    draw_texts: Draw | None = None
    over_texts: str = ""
    official: EvalResult | None = None
    hits: Mapping[str, Bool[np.ndarray, " n"]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


Evaluate = Callable[[Encode], dict[str, Measured]]


def exact_hits(
    hits: Mapping[str, Bool[np.ndarray, " n"]], clusters: Int[np.ndarray, " n"] | None
) -> Mapping[str, Bool[np.ndarray, " n"]]:
    """The hits for an exact test, which takes images as independent: none where they have clusters."""
    return hits if clusters is None else {}


def with_intervals(measured: Measured, *, num: int = 1000, seed: int = 0) -> EvalResult:
    """The numbers with `details["intervals"]`: number to its 95 % interval over images."""
    draws = measured.draw(num, seed)
    found = {}
    for key in draws.whole:
        estimate = interval(draws, key)
        # A number without an interval has its reason in `note`, which an evaluator does not show.
        if np.isfinite(estimate.low):
            found[key] = [or_none(estimate.low), or_none(estimate.high)]
    return measured.result._replace(details={**measured.result.details, "intervals": found})
