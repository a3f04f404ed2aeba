"""MaxSkew@K, MinSkew@K, NDKL and Bias@K of FairFace under the prompts of Berg et al."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.bias.skew import Skews, cut_offs, ranking_skews, target_shares
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.result import NOT_ENOUGH, mean_of, suite_result
from bias_clip.evals.suites.top_k import bias_at_k

TARGETS = {"even": "uniform", "share": "share"}

DESCRIPTION = Description(
    "bias",
    "Of the first images found, mean over {queries} prompts: by how much the most favoured group is "
    "shown too often, against even shares and against the shares of the data. A cut at the whole "
    "set says nothing of the model.",
    {
        "maxskew_{target}_{k}": Metric(
            "max skew, first {k}, target {target}",
            "nats",
            "lower",
            True,
            even=0.0,
            chart="max skew",
        ),
        "ndkl_{target}_{k}": Metric(
            "NDKL, first {k}, target {target}", "nats", "lower", True, even=0.0, chart="NDKL"
        ),
        "minskew_{target}_{k}": Metric(
            "min skew, first {k}, target {target}", "nats", "higher", even=0.0
        ),
        "bias_{k}": Metric("bias, first {k}", "signed points", "neither", even=0.0),
        "absent_{k}": count("prompts with a group that is not among the first {k}"),
        "queries": count("prompts"),
        "groups": count("groups with images"),
        "images": count("images"),
    },
)


def berg(
    scores: Float[np.ndarray, "q n"],
    codes: Int[np.ndarray, " n"],
    *,
    ks: Sequence[int] = (1000,),
    official: bool = False,
) -> EvalResult:
    """Skews and NDKL of the groups that occur, means over queries; Bias@K where there are two.

    By default the first k are exactly k images, equal ones by rising index, and a group that is not
    among them has no minimum: `absent_<k>` counts such prompts. A k above the number of images gives
    "not enough items".

    Args:
      scores: of each image for each prompt.
      codes: of the groups, of any values, with holes or not; -1 for unknown.
      ks: cut-offs; papers use 1000. The default of the official code is the whole set, where
        max skew is the same for every model.
      official: all ties at the cut are taken while shares divide by k, an absent group counts as
        1/k, max skew is never negative, and a k above the set divides by k all the same.

    Returns:
      NaN for everything where fewer than two groups have images, except with `official`: 0.
    """
    known = codes >= 0
    # Codes without holes: a group that never occurs has no target.
    names, groups = np.unique(codes[known], return_inverse=True)
    candidates, n = scores[:, known], int(known.sum())
    metrics: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for k in ks:
        if not official and (k > n or len(names) < 2):
            few = (
                f"{n} images for a cut-off of {k}" if k > n else f"{len(names)} groups with images"
            )
            keys = [f"{m}_{t}_{k}" for t in TARGETS for m in ("maxskew", "minskew", "ndkl")]
            metrics |= dict.fromkeys([*keys, f"absent_{k}"], float("nan"))
            reasons |= dict.fromkeys([*keys, f"absent_{k}"], f"{NOT_ENOUGH}: {few}")
            continue
        # Only for its error: the cut-off must be at least 1.
        if not official:
            cut_offs([k], n)
        for name, target in TARGETS.items():
            q, rule = target_shares(groups, target), "berg_code" if official else "definition"
            skews = ranking_skews(candidates, groups, q, ks=[k], rule=rule)
            metrics |= _means(skews, f"{name}_{k}")
            reason = f"{NOT_ENOUGH}: every prompt lacks a group among its first {k}"
            reasons[f"minskew_{name}_{k}"] = reason
        metrics[f"absent_{k}"] = float(_absent(candidates, groups, min(k, n)))
        # Bias@K compares two groups; of more there is no single sign.
        if len(names) == 2:
            metrics[f"bias_{k}"] = mean_of(bias_at_k(candidates, groups, ks=[k])[:, 0])
    metrics |= {"queries": float(len(scores)), "groups": float(len(names)), "images": float(n)}
    details = {"official": official, "group_codes": names.tolist()}
    return suite_result("berg", metrics, reasons=reasons, details=details)


def query_skews(
    scores: Float[np.ndarray, "q n"], codes: Int[np.ndarray, " n"], *, ks: Sequence[int]
) -> dict[str, Float[np.ndarray, " q"]]:
    """The values behind the means of `berg`, by metric, a number per prompt; NaN for none."""
    known = codes >= 0
    names, groups = np.unique(codes[known], return_inverse=True)
    candidates, n = scores[:, known], int(known.sum())
    found: dict[str, np.ndarray] = {}
    for k in ks:
        for name, target in TARGETS.items():
            keys = [f"{metric}_{name}_{k}" for metric in ("maxskew", "minskew", "ndkl")]
            if k > n or len(names) < 2:
                found |= {key: np.full(len(scores), np.nan) for key in keys}
                continue
            q = target_shares(groups, target)
            skews = ranking_skews(candidates, groups, q, ks=[k], rule="definition")
            # Minus infinity in one prompt would make the mean over prompts minus infinity.
            lowest = np.where(np.isneginf(skews.min_skew), np.nan, skews.min_skew)
            values = (skews.max_skew, lowest, skews.ndkl)
            found |= {key: v[:, 0] for key, v in zip(keys, values, strict=True)}
        if len(names) == 2 and k <= n:
            found[f"bias_{k}"] = bias_at_k(candidates, groups, ks=[k])[:, 0]
    return found


def _means(skews: Skews, suffix: str) -> dict[str, float]:
    lowest = np.where(np.isneginf(skews.min_skew), np.nan, skews.min_skew)
    values = {"maxskew": skews.max_skew, "minskew": lowest, "ndkl": skews.ndkl}
    return {f"{name}_{suffix}": mean_of(value[:, 0]) for name, value in values.items()}


def _absent(scores: np.ndarray, groups: np.ndarray, k: int) -> int:
    q = target_shares(groups, "uniform")
    skews = ranking_skews(scores, groups, q, ks=[k], rule="definition")
    # Minus infinity is the logarithm of a share of 0: the group is not among the first k.
    return int(np.isneginf(skews.skew).any(axis=(1, 2)).sum())
