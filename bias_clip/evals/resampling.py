"""All numbers of one evaluation under the same resamples: intervals, and differences of two models.

Draws depend on a seed and on the number of items, never on the model. So two models that were judged
on the same items have the same resamples, and the difference of their draws is the paired bootstrap.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Float, Int, Shaped

from bias_clip.evals.uncertainty import (
    Difference,
    Estimate,
    cluster_sums,
    percentile_estimate,
    resampled_totals,
)

NOT_ENOUGH = "not enough items"
_FEW = 5  # resamples beyond 0 that tell a small p from a smaller one
Named = Mapping[str, Float[np.ndarray, " b"]]


class Draws(NamedTuple):
    """Numbers by name: of all items, and of each resample.

    Attributes:
      whole: name to the value of all items.
      drawn: name to its value in each resample; NaN where a resample has no such number.
      units: independent items behind the resamples: images, people, words or templates.
      notes: name to the reason why it has no interval.
    """

    whole: dict[str, float]
    drawn: dict[str, Float[np.ndarray, " r"]]
    units: int
    notes: dict[str, str]


def sum_draws(
    columns: Mapping[str, Shaped[np.ndarray, " n"]],
    value: Callable[[Named], Named],
    *,
    num: int,
    seed: int = 0,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Draws:
    """Draws of numbers that are functions of sums over items.

    Args:
      columns: what each item adds to each sum, such as a hit and 1 for the accuracy of a group.
      value: maps the sums of each resample, by name, to numbers by name.
      num: number of resamples.
      seed: of the draws.
      clusters: cluster of each item, such as its person; clusters are resampled as a whole.
    """
    names = list(columns)
    # [n, 1, s]: items, one template, sums.
    table = np.stack([np.asarray(columns[name], np.float64) for name in names], axis=1)[:, None]
    if clusters is not None:
        table = cluster_sums(table, clusters)

    def numbers(totals: Float[np.ndarray, "b s"]) -> Named:
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may lack a group
            return value(dict(zip(names, totals.T, strict=True)))

    whole = {key: float(v[0]) for key, v in numbers(table.sum(axis=(0, 1))[None]).items()}
    if len(table) < 2:
        return without_draws(whole, len(table), f"{NOT_ENOUGH}: {len(table)} of them")
    parts = [numbers(totals) for totals in resampled_totals(table, "items", num=num, seed=seed)]
    drawn = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    return Draws(whole, drawn, len(table), {})


def kind_draws(
    kinds: Int[np.ndarray, " n"],
    value: Callable[[Float[np.ndarray, "b u"]], Named],
    *,
    num_kinds: int,
    num: int,
    seed: int = 0,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Draws:
    """Draws of numbers that need only how many items there are of each kind.

    A table of items and classes never exists: 50,000 images of 1,000 classes that are right or wrong
    are 2,000 kinds, and a resample is one multinomial draw of their counts.

    Args:
      kinds: of each item, 0 to num_kinds - 1.
      value: maps counts to numbers by name.
      num_kinds: number of kinds.
      num: number of resamples.
      seed: of the draws.
      clusters: cluster of each item; clusters are resampled as a whole.
    """
    counts = np.bincount(kinds, minlength=num_kinds)
    names = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
    n = len(kinds) if names is None else int(names.max(initial=-1)) + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = {k: float(v[0]) for k, v in value(counts[None].astype(np.float64)).items()}
        if n < 2:
            return without_draws(whole, n, f"{NOT_ENOUGH}: {n} of them")
        rng = np.random.default_rng(seed)
        table = None if names is None else _cluster_table(kinds, names, (n, num_kinds))
        parts = []
        for start in range(0, num, 500):  # blocks, so that many kinds take little memory
            size = min(500, num - start)
            parts.append(value(_drawn_counts(rng, counts, table, size)))
    drawn_of = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    return Draws(whole, drawn_of, n, {})


def _cluster_table(
    kinds: Int[np.ndarray, " n"], names: Int[np.ndarray, " n"], shape: tuple[int, int]
) -> Any:  # a scipy.sparse.csr_array; naming it would import it
    """How many items of each kind each cluster has; sparse, as most have few kinds."""
    return scipy.sparse.csr_array((np.ones(len(kinds)), (names, kinds)), shape=shape)


def _drawn_counts(
    rng: np.random.Generator,
    counts: Int[np.ndarray, " u"],
    table: Any,  # of `_cluster_table`, or None
    size: int,
) -> Float[np.ndarray, "b u"]:
    """The number of items of each kind in each resample: of items, or of the clusters in `table`."""
    if table is not None:
        u = table.shape[0]
        return rng.multinomial(u, np.full(u, 1 / u), size=size).astype(np.float64) @ table
    # Only kinds that occur can be drawn; a multinomial over thousands of empty kinds would be slow.
    there, n = np.flatnonzero(counts), int(counts.sum())
    drawn = np.zeros((size, len(counts)))
    drawn[:, there] = rng.multinomial(n, counts[there] / n, size=size)
    return drawn


def mean_draws(values: Mapping[str, Float[np.ndarray, " q"]], *, num: int, seed: int = 0) -> Draws:
    """Draws of means over words, prompts or captions, which are resampled; NaN entries are left out."""
    number = len(next(iter(values.values())))
    table = {key: np.asarray(v, np.float64) for key, v in values.items()}
    whole = {key: nan_mean(v) for key, v in table.items()}
    if number < 2:
        return without_draws(whole, number, f"{NOT_ENOUGH}: {number} to resample")
    rng = np.random.default_rng(seed)
    # [num, q]: how often each word or prompt stands in each resample.
    times = rng.multinomial(number, np.full(number, 1 / number), size=num).astype(np.float64)
    drawn, notes = {}, {}
    for key, v in table.items():
        some = ~np.isnan(v)
        if some.sum() < 2:
            notes[key] = f"{NOT_ENOUGH}: {int(some.sum())} to resample"
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn[key] = times[:, some] @ v[some] / times[:, some].sum(axis=1)
    return Draws(whole, drawn, number, notes)


def centered(draws: Draws) -> Draws:
    """Moves the resamples of each number so that their mean is its value.

    A resample holds some images twice. So its rankings are less even than those of the data, which
    lowers an entropy and raises a skew; only the spread of the resamples is meant.
    """
    moved = {}
    for key, values in draws.drawn.items():
        some = values[np.isfinite(values)]
        moved[key] = values + (draws.whole[key] - some.mean() if len(some) else 0.0)
    return draws._replace(drawn=moved)


def reflected(draws: Draws, keys: Collection[str]) -> Draws:
    """Reflects the resamples of some numbers at their value, which makes the basic interval.

    For sizes of gaps, ranges, and worst groups: noise moves them one way, away from no bias. A
    resample adds noise once more, so its numbers lie above the value by as much as the value lies
    above the truth. Reflection takes that off instead: a model without bias is then inside its
    interval as often as it should be.

    Reference: Davison and Hinkley: Bootstrap Methods and their Application, 1997, chapter 5 (basic
    bootstrap limits).
    """
    drawn = {
        key: 2 * draws.whole[key] - values if key in keys else values
        for key, values in draws.drawn.items()
    }
    return draws._replace(drawn=drawn)


def both_draws(items: Draws, texts: Draws, *, seed: int = 0) -> Draws:
    """Draws over items and over texts together: the two deviations from the value are added.

    ::

        both_r = value + (items_r - value) + (texts_s(r) - mean of texts_s),  s(r) random

    which is the two-way bootstrap up to the interaction of the two, a term of second order.
    """
    # The resamples of texts are paired with those of items at random: both lists are draws by themselves.
    rng, drawn = np.random.default_rng(seed), {}
    for key in [key for key in items.drawn if key in texts.drawn]:
        a, b = items.drawn[key], texts.drawn[key]
        drawn[key] = a + b[rng.integers(0, len(b), len(a))] - nan_mean(b)
    whole = {key: items.whole[key] for key in drawn}
    return Draws(whole, drawn, min(items.units, texts.units), {**items.notes, **texts.notes})


def without_draws(whole: Mapping[str, float], units: int, note: str) -> Draws:
    """Numbers that cannot be resampled, all with the same note."""
    empty = {key: np.full(1, np.nan) for key in whole}
    return Draws(dict(whole), empty, units, dict.fromkeys(whole, note))


def interval(draws: Draws, key: str, *, level: float = 0.95) -> Estimate:
    """The percentile interval of one number; the reason in `note` where there is none.

    It is widened to hold the value, which the interval of a reflected number may not.
    """
    value = draws.whole[key]
    if key in draws.notes:
        return Estimate(value, np.nan, np.nan, draws.units, draws.notes[key])
    found = percentile_estimate(value, draws.drawn[key], draws.units, level)
    if np.isnan(found.low):
        return found
    return found._replace(low=min(found.low, value), high=max(found.high, value))


def difference(first: Draws, second: Draws, key: str, *, level: float = 0.95) -> Difference:
    """Second minus first with its interval and p, from draws of the same resamples.

    ::

        p = min(1, 2 (1 + min(number of resamples with d <= 0, with d >= 0)) / (1 + resamples))

    Where fewer than five resamples are on the rarer side they cannot tell p from 0, and a correction
    over many numbers could find nothing. There p is that of a normal difference with the deviation
    of the resamples, if it is smaller.

    Raises:
      ValueError: draws of other items or of another number.
    """
    if first.units != second.units or len(first.drawn[key]) != len(second.drawn[key]):
        raise ValueError(
            f"{key}: {first.units} and {second.units} items, {len(first.drawn[key])} and "
            f"{len(second.drawn[key])} resamples; expected two models on the same items."
        )
    value = second.whole[key] - first.whole[key]
    note = first.notes.get(key) or second.notes.get(key)
    if note:
        return Difference(Estimate(value, np.nan, np.nan, first.units, note), float("nan"))
    # Row r of both is the same resample, so that what both models share cancels.
    d = second.drawn[key] - first.drawn[key]
    estimate = percentile_estimate(value, d, first.units, level)
    some = d[np.isfinite(d)]
    if np.isnan(estimate.low):
        return Difference(estimate, float("nan"))
    rarer = min(int(np.sum(some <= 0)), int(np.sum(some >= 0)))
    # + 1: a p of 0 cannot follow from a finite number of resamples.
    p, deviation = min(1.0, 2 * (1 + rarer) / (1 + len(some))), float(some.std())
    if rarer < _FEW and deviation > 0:
        p = min(p, 2 * float(scipy.special.ndtr(-abs(value) / deviation)))
    return Difference(estimate, p)


def image_times(
    n: int, *, num: int, seed: int = 0, clusters: Int[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, "r n"]:
    """How often each of n images stands in each resample; images of a cluster as often as it."""
    index = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    units = int(index.max()) + 1 if n else 0
    rng = np.random.default_rng(seed)
    times = np.stack(
        [np.bincount(rng.integers(0, units, units), minlength=units) for _ in range(num)]
    )
    return times.astype(np.int32)[:, index]


def num_units(n: int, clusters: Int[np.ndarray, " n"] | None) -> int:
    """Independent items: n images, or the clusters that they form."""
    return n if clusters is None else len(np.unique(clusters))


def few_clusters(clusters: Int[np.ndarray, " n"] | None, keys: Collection[str]) -> dict[str, str]:
    """The note of every number where one cluster holds all images, whose resamples are all equal."""
    if clusters is None or len(np.unique(clusters)) > 1:
        return {}
    return dict.fromkeys(keys, f"{NOT_ENOUGH}: 1 cluster")


def nan_mean(values: np.ndarray) -> float:
    """The mean of the numbers that exist; NaN, and no warning, where there is none."""
    some = values[np.isfinite(values)]
    return float(some.mean()) if len(some) else float("nan")
