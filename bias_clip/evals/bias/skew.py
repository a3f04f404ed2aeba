"""Do the top images of a search show the groups as often as they should? Skew@K and NDKL."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.core.registry import look_up
from bias_clip.data.sources import Source
from bias_clip.evals.bias.group_columns import Groups, read_groups
from bias_clip.evals.bias.groups import GROUP_SIZES, group_sizes
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.prompts import word_prompts
from bias_clip.evals.ranking import row_blocks, similarity
from bias_clip.evals.results import EvalResult

TARGETS = ("uniform", "share")


DESCRIPTION = Description(
    "bias",
    "Of the first images found, the mean over {queries} searches: by how much the most favoured of "
    "{groups} is shown too often, as a logarithm. Target {target}: as many of each group (uniform), "
    "or as many as among all images (share).",
    {
        "maxskew_{target}_{k}": Metric(
            "max skew, first {k}, target {target}",
            "nats",
            "lower",
            True,
            even=0.0,
            chart="max skew",
            short="max skew, first {k}, {target}",
        ),
        "ndkl_{target}_{k}": Metric(
            "NDKL, first {k}, target {target}",
            "nats",
            "lower",
            True,
            even=0.0,
            chart="NDKL",
            short="NDKL, first {k}, {target}",
        ),
        "minskew_{target}_{k}": Metric(
            "min skew, first {k}, target {target}", "nats", "higher", even=0.0
        ),
        "queries": count("searches"),
        **GROUP_SIZES,
    },
)


class Rule(NamedTuple):
    """The differences between the implementations of the papers; see `RULES`.

    Attributes:
      all_ties: every candidate that ties with the k-th one counts, although the divisor stays k.
      absent_as_one: a group that is not among the first k counts as 1/k, not as minus infinity.
      bounded: max_skew is never below 0 and min_skew never above 0.
      beyond: cut-offs above the number of candidates are allowed and use all candidates.
    """

    all_ties: bool
    absent_as_one: bool
    bounded: bool
    beyond: bool


RULES: dict[str, Rule] = {
    "berg": Rule(True, True, True, False),  # Berg et al., as in our evaluator
    "berg_code": Rule(True, True, True, True),  # their code, which also divides by a k above n
    "visogender": Rule(False, True, False, False),  # the code of VisoGender
    "definition": Rule(False, False, False, False),  # Geyik et al., exactly as defined
}


class Skews(NamedTuple):
    """Values per query and cut-off, see `ranking_skews`."""

    skew: Float[np.ndarray, "p k g"]
    max_skew: Float[np.ndarray, "p k"]
    min_skew: Float[np.ndarray, "p k"]
    ndkl: Float[np.ndarray, "p k"]


def target_shares(groups: Int[np.ndarray, " n"], target: str) -> Float[np.ndarray, " g"]:
    """The share of each group in a fair ranking; absent groups get 0.

    "uniform": equal shares of all groups that occur (eq_opp in the code of Berg et al.). "share": the
    shares among all candidates (dem_par there). Group -1 is left out.

    Raises:
      ValueError: an unknown target.
    """
    if target not in TARGETS:
        raise ValueError(f"target={target!r}; expected one of {list(TARGETS)}.")
    counts = np.bincount(groups[groups >= 0])
    wanted = (counts > 0) if target == "uniform" else counts
    return wanted / wanted.sum()


def cut_offs(ks: Sequence[int | float], n: int) -> list[int]:
    """Converts floats in (0, 1] to that share of the n candidates, rounded up; keeps integers.

    Raises:
      ValueError: no cut-off, or one outside 1..n.
    """
    # 0.07 * 100 is 7.000000000000001 in floating point; without rounding first, 8 would be kept.
    counts = [math.ceil(round(k * n, 9)) if isinstance(k, float) and k <= 1 else k for k in ks]
    wrong = [k for k, c in zip(ks, counts, strict=True) if not 1 <= c <= n or c != int(c)]
    if wrong or not counts:
        raise ValueError(
            f"ks have {wrong} for {n} candidates of known group; expected at least one cut-off, "
            f"integers from 1 to {n}, or floats in (0, 1] for a share of them."
        )
    return [int(c) for c in counts]


def ranking_skews(
    scores: Float[np.ndarray, "p n"],
    groups: Int[np.ndarray, " n"],
    targets: Float[np.ndarray, " g"],
    *,
    ks: Sequence[int],
    rule: str = "berg",
) -> Skews:
    """How far the groups among the k best candidates of each query are from the targets q.

    ::

        kept        = candidates whose score is not below the k-th largest
        p_g         = candidates of group g in kept / k, or 1/k if there are none
        skew_g      = ln p_g - ln q_g            (0: equal to the target; positive: too many of them)
        max_skew    = max(0, max_g skew_g)       min_skew = min(0, min_g skew_g)
        ndkl        = sum_i KL(D_i || q) / log2(i + 1) / sum_{i <= k} 1 / log2(i + 1)

    with D_i the shares of the groups among the first i of kept, in nats. The skews are 0 if the k best
    have exactly the target shares; ndkl is 0 only if every prefix of the ranking has them. Candidates
    are sorted by decreasing score, ties by increasing index. Candidates of group -1 are not ranked.
    Groups with q_g = 0 enter neither maximum nor minimum (their skew is NaN).

    Args:
      scores: finite scores of each candidate (column) for each query (row).
      groups: groups of the candidates, 0..g-1, or -1 if unknown.
      targets: q, non-negative with sum 1. No candidate may be in a group with q_g = 0.
      ks: cut-offs, from 1 to the number of candidates of known group.
      rule: a name in `RULES`; the formulas show "berg". "definition" keeps ties in the order of the
        ranking, gives minus infinity to a group that is not among the k best, and has no bound of 0.

    Raises:
      ValueError: a cut-off, group or target out of range, or an unknown rule.

    Reference:
      Geyik, Ambler, Kenthapadi: Fairness-Aware Ranking in Search & Recommendation Systems with
      Application to LinkedIn Talent Search, 2019: Skew, MinSkew, MaxSkew, NDKL.
      Berg et al.: A Prompt Array Keeps the Bias Away, 2022, for image retrieval. This reproduces
      their code, with two rules that are not in the definitions. All ties at the cut are kept while
      the divisor stays k, so shares may sum to more than 1. A group that is not among the k best
      counts as 1/k, not as minus infinity.
      Differs from that code: it ranks by dot products with images that are not normalised; here the
      caller chooses the scores. Its default cut, a ranking of all candidates, gives every model the
      same max_skew.
    """
    rows = groups >= 0
    candidates = groups[rows]
    form = look_up("rule", rule, RULES)
    largest = max([len(candidates), *ks]) if form.beyond else len(candidates)
    cuts = cut_offs([int(k) for k in ks], largest)
    _check_targets(candidates, targets)
    results = [_one_query(s[rows], candidates, np.asarray(targets), cuts, form) for s in scores]
    skew = np.array([r[0] for r in results]).reshape(len(scores), len(cuts), len(targets))
    ndkl = np.array([r[1] for r in results]).reshape(len(scores), len(cuts))
    # NaN are the groups with target 0; `_check_targets` has seen to it that some group is left.
    high, low = np.nanmax(skew, axis=2), np.nanmin(skew, axis=2)
    if form.bounded:
        high, low = np.maximum(high, 0), np.minimum(low, 0)
    return Skews(skew, high, low, ndkl)


def make_skew(
    source: Source,
    *,
    by: str | Sequence[str],
    words: Sequence[str],
    ks: Sequence[int | float],
    groups: Sequence[Any] | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    templates: str | Sequence[str] = "plain",
    targets: Sequence[str] = TARGETS,
    block_size: int | None = None,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: skew and NDKL of the images found for words that name no group.

    Every template filled with every word is a separate query, and numbers are means over queries.
    Images of known group are ranked by cosine.

    Metrics, for each of `targets` and `ks`: maxskew_<target>_<k>, minskew_<target>_<k> and
    ndkl_<target>_<k>, see `ranking_skews`; queries, groups, absent, images, masked. `details`
    contains, per query ("prompts"), the skew of each group at the first target and every cut-off.

    Args:
      source: images with the columns.
      by: one or several columns of the groups.
      words: words to search for, such as occupations or adjectives.
      ks: cut-offs: integers, or floats in (0, 1] for a share of the candidates (rounded up). At the
        cut of all candidates only NDKL depends on the model.
      groups: see `read_groups`.
      only: the records to use, see `rows_where`.
      templates: as in `make_zeroshot`.
      targets: "uniform", "share", or both; see `target_shares`.
      block_size: queries scored at the same time; None for as many as fit in 32 MB of scores.

    Raises:
      ValueError: what `read_groups` and `cut_offs` raise; an unknown target, unknown templates,
        fewer than two groups with images.
    """
    found = read_groups(source, by, groups, only)
    rows = found.of_record >= 0
    candidates = found.of_record[rows]
    cuts = dict.fromkeys(cut_offs(ks, len(candidates)))
    if (found.counts > 0).sum() < 2:
        raise ValueError(f"only one of the groups {found.names} has images; expected two.")
    if isinstance(targets, str) or not targets:
        raise ValueError(f"targets are {targets!r}; expected a list out of {list(TARGETS)}.")
    # Absent groups at the end of the list get a target of 0.
    wanted = {target: _padded(target_shares(candidates, target), found) for target in targets}
    queries = [text for texts in word_prompts(words, templates) for text in texts]

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)[rows].astype(np.float64)
        ztxt = encode.texts(queries)
        # Scores are made once per block and serve all targets.
        parts: dict[str, list[Skews]] = {target: [] for target in targets}
        for block in row_blocks(len(queries), len(zimg), block_size):
            scores = similarity(ztxt[block], zimg)
            for target, q in wanted.items():
                parts[target].append(ranking_skews(scores, candidates, q, ks=list(cuts)))
        skews = {key: Skews(*map(np.concatenate, zip(*p, strict=True))) for key, p in parts.items()}
        metrics: dict[str, float] = {}
        for target, skew in skews.items():
            metrics |= _means(skew, target, list(cuts))
        metrics["queries"] = float(len(queries))
        rows_ = _query_rows(queries, skews[targets[0]])
        details = {
            "kind": "skew",
            "group_names": list(found.names),
            "ks": list(cuts),
            "target": targets[0],
            "prompts": rows_,
        }
        return EvalResult(metrics | group_sizes(found), details)

    return evaluate


def _one_query(
    scores: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    q: Float[np.ndarray, " g"],
    ks: Sequence[int],
    rule: Rule,
) -> tuple[Float[np.ndarray, "k g"], Float[np.ndarray, " k"]]:
    """The skews and the NDKL at each cut-off."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Where K is beyond the candidates, some rules divide by K all the same.
    kept = [min(k, len(ranked)) for k in ks]
    if rule.all_ties:
        # Berg's code takes every candidate that scores as the last one kept, so more than k may be kept.
        kept = [int(np.sum(ranked >= ranked[m - 1])) for m in kept]
    longest = max(kept)
    # [longest, g]: how many of each group are among the first i.
    seen = np.cumsum(groups[order[:longest], None] == np.arange(len(q)), axis=0)
    ranks = np.arange(1, longest + 1)
    discount = 1 / np.log2(np.arange(1, max(longest, *ks) + 1) + 1)
    shares = seen / ranks[:, None]
    some = shares > 0
    # A share of 0 adds 0 to the divergence: p ln p goes to 0 with p, and NumPy's 0 * -inf is NaN.
    ratio = np.where(some, shares, 1) / np.where(some, q, 1)
    total = np.cumsum(np.sum(shares * np.log(ratio), axis=1) * discount[:longest])
    ndkl = [total[m - 1] / discount[:k].sum() for m, k in zip(kept, ks, strict=True)]
    least = 1 if rule.absent_as_one else 0
    p = np.array([np.maximum(seen[m - 1], least) / k for m, k in zip(kept, ks, strict=True)])
    with np.errstate(divide="ignore"):  # the logarithm of 0 is minus infinity, as in the definition
        skew = np.where(q > 0, np.log(p) - np.log(np.where(q > 0, q, 1)), np.nan)
    return skew, np.array(ndkl)


def _check_targets(groups: np.ndarray, targets: np.ndarray) -> None:
    q = np.asarray(targets)
    if not (q >= 0).all() or abs(q.sum() - 1) > 1e-6:
        raise ValueError(f"targets are {q}; expected shares of 0 or more, that sum to 1.")
    if groups.max() >= len(q) or not (q[groups] > 0).all():
        raise ValueError(
            f"targets {q} give no share to some of the groups {np.unique(groups)} of the "
            "candidates; give each a positive one, or mask its candidates with -1."
        )


def _padded(shares: Float[np.ndarray, " m"], found: Groups) -> Float[np.ndarray, " g"]:
    return np.pad(shares, (0, len(found.names) - len(shares)))


def _means(skew: Skews, target: str, ks: Sequence[int]) -> dict[str, float]:
    metrics = {}
    for name, values in (
        ("maxskew", skew.max_skew),
        ("minskew", skew.min_skew),
        ("ndkl", skew.ndkl),
    ):
        for k, value in zip(ks, values.mean(axis=0), strict=True):
            metrics[f"{name}_{target}_{k}"] = float(value)
    return metrics


def _query_rows(queries: Sequence[str], skew: Skews) -> list[dict[str, Any]]:
    def plain(values: np.ndarray) -> list[float | None]:
        return [None if np.isnan(v) else float(v) for v in values]

    return [
        {"text": text, "skew": [plain(row) for row in of_ks]}
        for text, of_ks in zip(queries, skew.skew, strict=True)
    ]
