"""A suite as evaluators of a run: one per part, with intervals."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bias_clip.evals.encode import Encode
from bias_clip.evals.headlines import find_metric
from bias_clip.evals.resampling import interval
from bias_clip.evals.results import EvalResult, or_none
from bias_clip.evals.suites.families import measure, parts_of
from bias_clip.evals.suites.measured import MIN_ITEMS, Measured, bounded
from bias_clip.evals.suites.run import read_suite
from bias_clip.evals.suites.spec import load_suite


def make_suite_parts(
    *,
    suite: str,
    path: str | None = None,
    files: Mapping[str, str] | None = None,
    layout: Mapping[str, Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Callable[[Encode], EvalResult]]:
    """Returns part to `evaluate(encode)`; a suite of one part calls it "all".

    `details["intervals"]` of a result has the 95 % interval of each number over images. The model
    embeds and scores once for all parts.

    Args:
      suite: in `SUITES`.
      path: its folder; None for the emoji suites.
      files: role to your copy of a file that may not be shipped, see `Suite.needs`.
      layout: arguments of the layout's reader, such as dict(split="val").
      resamples: behind the intervals.
      seed: of the resamples.

    Raises:
      ValueError: an unknown suite, a file that is not given, or what the reader raises.
    """
    spec = load_suite(suite)
    # Read once, when the evaluators are made, and shared by all parts.
    data = read_suite(spec, path, **(layout or {}))
    whole = measure(spec, data, files)
    last: list[tuple[Encode, dict[str, Measured]]] = []

    def found(encode: Encode) -> dict[str, Measured]:
        if not last or last[0][0] is not encode:  # the parts of one checkpoint follow each other
            last[:] = [(encode, whole(encode))]
        return last[0][1]

    def evaluator(part: str) -> Callable[[Encode], EvalResult]:
        return lambda encode: with_intervals(found(encode)[part], num=resamples, seed=seed)

    return {part: evaluator(part) for part in parts_of(spec)}


def with_intervals(measured: Measured, *, num: int = 1000, seed: int = 0) -> EvalResult:
    """The numbers with `details["intervals"]`: number to its 95 % interval over images."""
    draws = measured.draw(num, seed)
    found = {}
    for key in draws.whole:
        metric = find_metric(key, measured.result.details)
        items = measured.sizes.get(key, draws.units)
        estimate = bounded(interval(draws, key), metric, items=items)
        # A number without an interval has its reason in `note`, which an evaluator does not show.
        if np.isfinite(estimate.low) and items >= MIN_ITEMS:
            found[key] = [or_none(estimate.low), or_none(estimate.high)]
    return measured.result._replace(details={**measured.result.details, "intervals": found})
