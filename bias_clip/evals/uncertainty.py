"""The uncertainty of a number: bootstrap over items or templates, paired tests, Holm's correction."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Bool, Float, Int, Shaped

OVER = ("items", "templates", "both")
_BLOCK_ELEMENTS = 2**22  # weights held at a time: 32 MB in float64
_POISSON_FROM = 1000  # items without equals; fewer are cheap to draw exactly
_MAX_KINDS = 4096  # with more kinds of items than this, weights of items are as fast


class Estimate(NamedTuple):
    """A number with its interval.

    Attributes:
      value: NaN if there are too few items.
      low: lower end of the interval; NaN without an interval.
      high: upper end.
      num_items: number of independent items (clusters, if given) behind the value.
      note: empty, or the reason for a missing number or interval; begins with "not enough items".
    """

    value: float
    low: float
    high: float
    num_items: int
    note: str


class Difference(NamedTuple):
    """Second minus first, on the same items; see `paired_bootstrap`."""

    estimate: Estimate
    p: float


Totals = Float[np.ndarray, "b s"]


def bootstrap(
    sums: Float[np.ndarray, "n *t s"],
    value: Callable[[Totals], Float[np.ndarray, " b"]],
    *,
    over: str = "items",
    clusters: Int[np.ndarray, " n"] | None = None,
    num: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    min_items: int = 2,
) -> Estimate:
    """The value over all items, with its percentile interval over resamples.

    A metric is a function of sums over items: accuracy of two groups, for example, of the sums of
    (hit in group 0, item in group 0, hit in group 1, item in group 1), and its gap is
    ``t[:, 0] / t[:, 1] - t[:, 2] / t[:, 3]``. So resamples need only sums: items with equal rows are
    one kind, and a resample is one multinomial draw of the count of each kind.

    Args:
      sums: the sums that each item adds; with three axes, those under each template.
      value: maps the totals of each resample to its number.
      over: "items" resamples items, "templates" templates, "both" each independently.
      clusters: cluster of each item, such as its person or scene; clusters are resampled as a whole.
      num: number of resamples.
      seed: seed of the draws.
      level: level of the interval.
      min_items: smallest number of independent units; with fewer there is no number.

    Returns:
      The estimate; resamples without a number are left out. If they are more than one in twenty, a
      note replaces the interval. With fewer than `min_items` items, or too few templates to resample,
      a note replaces everything.

    Raises:
      ValueError: an unknown `over`, sums that are not finite, or clusters of another length.

    Reference: Efron: Bootstrap Methods: Another Look at the Jackknife, 1979.
    """
    table = _table(sums, over)
    if clusters is not None:
        table = cluster_sums(table, clusters)
    n = len(table)
    # Resampling both needs enough of the rarer one.
    units = {"items": n, "templates": table.shape[1], "both": min(n, table.shape[1])}[over]
    if n < min_items or units < 2:
        what = "items" if n < min_items else "templates"
        need = max(min_items, 2)
        note = f"not enough items: {units} {what}, at least {need} are needed"
        return Estimate(np.nan, np.nan, np.nan, n, note)
    whole = _value(value, table.sum(axis=(0, 1))[None])[0]
    drawn = np.concatenate(
        [_value(value, totals) for totals in resampled_totals(table, over, num=num, seed=seed)]
    )
    return percentile_estimate(float(whole), drawn, n, level)


def paired_bootstrap(
    first: Float[np.ndarray, "n *t s"],
    second: Float[np.ndarray, "n *t s"],
    value: Callable[[Totals], Float[np.ndarray, " b"]],
    *,
    over: str = "items",
    clusters: Int[np.ndarray, " n"] | None = None,
    num: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    min_items: int = 2,
) -> Difference:
    """The second model's value minus the first's, both on the same resampled items.

    ::

        p = min(1, 2 (1 + min(number of resamples with d <= 0, with d >= 0)) / (1 + resamples))

    Arguments are those of `bootstrap`, which the difference is given to. p is NaN without a number.

    Raises:
      ValueError: what `bootstrap` raises, or models of different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"the two models have sums of shapes {first.shape} and {second.shape}; expected one "
            "shape: the same items in the same order."
        )
    s, draws = first.shape[-1], []

    def difference(totals: Totals) -> Float[np.ndarray, " b"]:
        d = value(totals[:, s:]) - value(totals[:, :s])
        draws.append(d)
        return d

    # The two models' sums side by side, [n, t, 2 s]: one draw of items then serves both, which pairs them.
    both = np.concatenate([first, second], axis=-1)
    estimate = bootstrap(
        both,
        difference,
        over=over,
        clusters=clusters,
        num=num,
        seed=seed,
        level=level,
        min_items=min_items,
    )
    if not draws or np.isnan(estimate.value):
        return Difference(estimate, float("nan"))
    d = np.concatenate(draws[1:])  # the first is the value over all items
    d = d[~np.isnan(d)]
    rarer = min(int(np.sum(d <= 0)), int(np.sum(d >= 0)))
    return Difference(estimate, min(1.0, 2 * (1 + rarer) / (1 + len(d))))


def grouped_sums(
    values: Shaped[np.ndarray, " n"], groups: Int[np.ndarray, " n"], *, num_groups: int
) -> Float[np.ndarray, "n s"]:
    """What each item adds to the mean of its group, for `bootstrap`: g sums, then g counts.

    Group -1 adds nothing. With t the totals, ``t[:, :g] / t[:, g:]`` are the means of the groups::

        sums = grouped_sums(hits, groups, num_groups=4)
        worst = bootstrap(sums, lambda t: np.nanmin(t[:, :4] / t[:, 4:], axis=1))

    Raises:
      ValueError: a group outside -1..num_groups-1.
    """
    if len(groups) and not (groups.min() >= -1 and groups.max() < num_groups):
        raise ValueError(
            f"groups go from {groups.min()} to {groups.max()}; expected -1 to {num_groups - 1}."
        )
    # Group -1 equals no column, so its rows are zeros.
    own = (groups[:, None] == np.arange(num_groups)).astype(np.float64)
    return np.concatenate([own * np.asarray(values, np.float64)[:, None], own], axis=1)


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    """Exact two-sided p for two models being right equally often, from items on which they differ.

    ::

        b, c = items that only the first or only the second has right;   X ~ binomial(b + c, 1/2)
        p    = min(1, 2 P(X <= min(b, c)))

    Reference: McNemar: Note on the sampling error of the difference between correlated proportions
    or percentages, 1947; the exact form.

    Raises:
      ValueError: hits of different lengths.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"got hits of shapes {first.shape} and {second.shape}; expected the same items in the "
            "same order."
        )
    b, c = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    return min(1.0, 2 * float(scipy.special.bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0


def holm(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """p-values corrected for multiple tests: max over smaller ones of (m - rank) p, at most 1.

    A NaN is not a test: it stays, and does not count in m.

    Reference: Holm: A simple sequentially rejective multiple test procedure, 1979.
    """
    values = np.asarray(p, np.float64)
    corrected = np.full(len(values), np.nan)
    tests = np.flatnonzero(~np.isnan(values))
    order = tests[np.argsort(values[tests], kind="stable")]
    # p_(1) m, p_(2) (m - 1), ..., made monotone, so that a smaller p is never corrected to a larger one.
    steps = values[order] * (len(tests) - np.arange(len(tests)))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(steps) else steps
    return corrected


def _table(sums: np.ndarray, over: str) -> Float[np.ndarray, "n t s"]:
    """Float64 with an axis of templates."""
    if over not in OVER:
        raise ValueError(f"over={over!r}; expected one of {list(OVER)}.")
    table = np.asarray(sums, np.float64)
    table = table[:, None] if table.ndim == 2 else table
    if table.ndim != 3 or not np.isfinite(table).all():
        raise ValueError(
            f"sums have shape {np.shape(sums)}, finite: {bool(np.isfinite(table).all())}; expected "
            "finite numbers, [items, sums] or [items, templates, sums]."
        )
    return table


def cluster_sums(
    table: Float[np.ndarray, "n t s"], clusters: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "c t s"]:
    """The sums of each cluster, in place of those of its items.

    Raises:
      ValueError: clusters of another length.
    """
    if len(clusters) != len(table):
        raise ValueError(f"{len(clusters)} clusters for {len(table)} items; expected one each.")
    names, index = np.unique(clusters, return_inverse=True)
    total = np.zeros((len(names), *table.shape[1:]))
    np.add.at(total, index, table)
    return total


def resampled_totals(
    table: Float[np.ndarray, "n t s"], over: str, *, num: int, seed: int
) -> Iterator[Totals]:
    """Totals of `num` resamples, in blocks."""
    n, t, s = table.shape
    rng = np.random.default_rng(seed)
    if over == "templates":
        # Items are not drawn here, so that their sums suffice: one row.
        rows, repeats = table.sum(axis=0, keepdims=True).reshape(1, -1), np.ones(1, np.int64)
    else:
        rows, repeats = _kinds(table.reshape(n, -1))
    size = max(1, _BLOCK_ELEMENTS // max(len(rows), t * s))
    for start in range(0, num, size):
        b = min(size, num - start)
        times = np.ones((b, 1)) if over == "templates" else _times(rng, repeats, b)
        # times is float32 in the Poisson form: products in its dtype, and sums of blocks in float64.
        totals = (times @ rows.astype(times.dtype)).astype(np.float64).reshape(b, t, s)
        if over == "items":
            yield totals.sum(axis=1)
        else:
            often = rng.multinomial(t, np.full(t, 1 / t), size=b).astype(np.float64)
            # Each template as often as it was drawn.
            yield np.einsum("bt,bts->bs", often, totals)


def _kinds(rows: Float[np.ndarray, "n c"]) -> tuple[np.ndarray, Int[np.ndarray, " u"]]:
    """The distinct rows and their counts; the rows themselves if nearly all are distinct."""
    probe = rows[:: max(1, len(rows) // 10_000)]  # sorting every row costs more than it may save
    if len(np.unique(probe, axis=0)) <= min(_MAX_KINDS, len(probe) // 2):
        return np.unique(rows, axis=0, return_counts=True)
    return rows, np.ones(len(rows), np.int64)


def _times(
    rng: np.random.Generator, repeats: Int[np.ndarray, " u"], b: int
) -> Float[np.ndarray, "b u"]:
    """How often each kind occurs in each of b resamples of sum(repeats) items."""
    n, kinds = int(repeats.sum()), len(repeats)
    # Far fewer kinds than items: a draw costs as much as there are kinds.
    if kinds < n:
        return rng.multinomial(n, repeats / n, size=b).astype(np.float64)
    if n < _POISSON_FROM:
        return rng.multinomial(n, np.full(n, 1 / n), size=b).astype(np.float64)
    # One kind per item: 50,000 binomials per resample would take minutes. Independent Poisson counts,
    # scaled to the sum n, differ from the multinomial by order 1/n (Chamandy et al.: Estimating
    # Uncertainty for Massive Data Streams, 2012), and 16 random bits and a table give them.
    times = _poisson_table()[rng.integers(0, 2**16, size=(b, n), dtype=np.uint16)]
    return times * (n / times.sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)


def _poisson_table() -> Float[np.ndarray, " 65536"]:
    """The Poisson(1) count of each of 2^16 equally likely draws."""
    upper = scipy.special.pdtr(np.arange(12), 1.0)
    return np.searchsorted(upper, (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)


def _value(value: Callable[[Totals], np.ndarray], totals: Totals) -> Float[np.ndarray, " b"]:
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no item of a group
        return np.asarray(value(totals), np.float64)


def percentile_estimate(
    whole: float, drawn: Float[np.ndarray, " r"], n: int, level: float
) -> Estimate:
    """The value of all n items with the percentiles of its resamples; see `bootstrap`."""
    some = drawn[np.isfinite(drawn)]
    if not np.isfinite(whole):
        return Estimate(np.nan, np.nan, np.nan, n, "not enough items: a group has none")
    if len(some) < 0.95 * len(drawn):
        missing = 1 - len(some) / max(len(drawn), 1)
        note = f"not enough items for an interval: {missing:.0%} of the resamples lack a group"
        return Estimate(whole, np.nan, np.nan, n, note)
    low, high = np.quantile(some, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(whole, float(low), float(high), n, "")
