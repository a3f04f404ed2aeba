"""Embedding association tests (WEAT, SEAT, iEAT): effect sizes and permutation tests."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.ranking import unit
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.result import NOT_ENOUGH, check_embeddings, suite_result

MAX_SPLITS = 10_000  # up to which p is exact

DESCRIPTION = Description(
    "bias",
    "Whether the first targets are closer to the first attributes than the second targets are: "
    "effect size in deviations, {effect_size}, and the share of splits with as much, {p}.",
    {
        "effect_size": Metric("effect size", "number", "neither", True, even=0.0, chart=""),
        "p": Metric("p of the effect, one-sided", "share"),
        "splits": count("splits looked at"),
        "targets": count("targets"),
        "attributes": count("attributes"),
    },
)


class PermutationP(NamedTuple):
    """p, whether every split was looked at, and how many were; see `permutation_p`."""

    p: float
    exact: bool
    splits: int


def differential_association(
    w: Float[np.ndarray, "n d"], a: Float[np.ndarray, "k d"], b: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, " n"]:
    """s(w) = mean cosine to `a` - mean cosine to `b`, for embeddings of any length."""
    # float64: p counts splits whose sums differ by little.
    zw, za, zb = (unit(z, dtype=np.float64) for z in (w, a, b))
    return (zw @ za.T).mean(axis=1) - (zw @ zb.T).mean(axis=1)


def effect_size(sx: Float[np.ndarray, " n"], sy: Float[np.ndarray, " m"]) -> float:
    """(mean of sx - mean of sy) / deviation (n - 1) of both together, in `s` of the targets.

    NaN where all are equal: rounding noise divided by itself is not a number.

    Reference: Caliskan, Bryson, Narayanan: Semantics derived automatically from language corpora
    contain human-like biases, 2017, with the deviation of n - 1 as in the code of May et al., 2019
    (sent-bias) and Steed and Caliskan, 2021 (ieat).
    """
    both = np.concatenate([sx, sy])
    if len(both) < 2 or np.ptp(both) <= 1e-12 * max(1.0, float(np.abs(both).max())):
        return float("nan")
    return float((sx.mean() - sy.mean()) / both.std(ddof=1))


def permutation_p(
    sx: Float[np.ndarray, " n"],
    sy: Float[np.ndarray, " n"],
    *,
    max_splits: int = MAX_SPLITS,
    seed: int = 0,
) -> PermutationP:
    """One-sided p: share of the equal splits of all targets with a sum over the first as large.

    Sums that are equal up to rounding count. Up to `max_splits` splits all are looked at; with more,
    `max_splits` random ones, and the observed one is added to them: (1 + hits) / (1 + max_splits).
    NaN where the two sets differ in size: the test is of equal halves.
    """
    if len(sx) != len(sy) or not len(sx):
        return PermutationP(float("nan"), False, 0)
    both = np.concatenate([sx, sy])
    n, splits = len(sx), math.comb(len(sx) + len(sy), len(sx))
    # Sums of the same numbers in another order differ by rounding: the observed split must count itself.
    least = sx.sum() - 1e-12 * max(1.0, float(np.abs(both).sum()))
    if splits <= max_splits:
        # [splits, n], at most 10,000 rows.
        chosen = np.array(list(itertools.combinations(range(2 * n), n)))
        return PermutationP(float(np.mean(both[chosen].sum(axis=1) >= least)), True, splits)
    # Sorting random numbers permutes each row; the first half is a random split.
    order = np.random.default_rng(seed).random((max_splits, 2 * n)).argsort(axis=1)[:, :n]
    hits = int(np.sum(both[order].sum(axis=1) >= least))
    return PermutationP((1 + hits) / (1 + max_splits), False, max_splits)


def association_test(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "k d"],
    b: Float[np.ndarray, "j d"],
    *,
    max_splits: int = MAX_SPLITS,
    seed: int = 0,
) -> EvalResult:
    """Effect size and p of targets x and y against attributes a and b, images or texts alike.

    Raises:
      ValueError: embeddings that do not fit together.
    """
    check_embeddings(x=x, y=y, a=a, b=b)
    if min(map(len, (x, y, a, b))) < 1:
        sizes = dict(zip("xyab", map(len, (x, y, a, b)), strict=True))
        raise ValueError(f"the sets have sizes {sizes}; expected at least one each.")
    sx, sy = differential_association(x, a, b), differential_association(y, a, b)
    test = permutation_p(sx, sy, max_splits=max_splits, seed=seed)
    metrics = {"effect_size": effect_size(sx, sy), "p": test.p, "splits": float(test.splits)}
    metrics |= {"targets": float(len(x) + len(y)), "attributes": float(len(a) + len(b))}
    reasons = {
        "effect_size": "not defined: all targets have the same association",
        "p": f"{NOT_ENOUGH}: {len(x)} and {len(y)} targets; the test is of sets of equal size",
    }
    return suite_result("association_test", metrics, reasons=reasons, details={"exact": test.exact})
