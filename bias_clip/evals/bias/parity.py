"""Demographic parity: does the model choose a class as often for one group as for another?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.data.sources import Source
from bias_clip.evals.bias.group_columns import read_groups
from bias_clip.evals.bias.groups import GROUP_SIZES, group_sizes, group_sums
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric
from bias_clip.evals.prompts import prompt_embeddings, word_prompts
from bias_clip.evals.ranking import row_blocks, similarity
from bias_clip.evals.results import EvalResult, or_none

DESCRIPTION = Description(
    "bias",
    "How far the share of images that are called a word differs between the groups ({groups}). The "
    "true class is not used.",
    {
        "parity_max": Metric(
            "gap between the groups, largest",
            "points",
            "lower",
            True,
            even=0.0,
            chart="gap",
            short="largest gap",
        ),
        "parity_mean": Metric(
            "gap between the groups, mean over words",
            "points",
            "lower",
            True,
            even=0.0,
            chart="gap",
            short="mean gap",
        ),
        "parity_probability_max": Metric(
            "gap in probability, largest", "points", "lower", even=0.0
        ),
        "parity_probability_mean": Metric(
            "gap in probability, mean over words", "points", "lower", even=0.0
        ),
        **GROUP_SIZES,
    },
)


class Rates(NamedTuple):
    """How often each class is chosen for images of each group; see `choice_rates`."""

    chosen: Float[np.ndarray, "g c"]
    probability: Float[np.ndarray, "g c"]


def choice_rates(
    zimg: Float[np.ndarray, "n d"],
    zcls: Float[np.ndarray, "c d"],
    groups: Int[np.ndarray, " n"],
    *,
    num_groups: int,
    scale: float,
    block_size: int | None = None,
) -> Rates:
    """Per group and class, the share of images whose nearest prompt it is, and the mean softmax.

    ::

        chosen[g, c]      = P(c = argmax cosine | group g)
        probability[g, c] = E[softmax(scale * cosine)_c | group g]

    Classes that tie share the image. Demographic parity means that all rows of `chosen` are equal;
    their differences are signed gaps such as p_f - p_m. `chosen` does not depend on scale, bias or
    loss; `probability` does. A group without images has NaN.

    Reference: statistical parity of Dwork et al.: Fairness Through Awareness, 2012, for each class.
    Differs from common code: most report only the largest difference. With its class and sign it is
    actionable, and a class that no group chooses has a difference of 0.
    """
    # [chosen or probability, groups, classes], summed over blocks of images.
    sums, counts = np.zeros((2, num_groups, len(zcls))), np.zeros(num_groups)
    zcls = zcls.astype(np.float64)
    for block in row_blocks(len(zimg), len(zcls), block_size):
        scores = similarity(zimg[block], zcls)
        # Equality is exact, because scores were rounded from float64 to float32.
        best = (scores == scores.max(axis=1, keepdims=True)).astype(np.float64)
        logits = scale * scores.astype(np.float64)
        # The largest logit becomes 0: exp cannot overflow, and the softmax is the same.
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        for i, part in enumerate((best, odds)):
            # Tied classes share the image, and exponentials become the softmax.
            part /= part.sum(axis=1, keepdims=True)
            sums[i] += group_sums(part, groups[block], num_groups=num_groups).total
        counts += np.bincount(groups[block][groups[block] >= 0], minlength=num_groups)
    chosen, probability = sums / np.where(counts > 0, counts, np.nan)[:, None]
    return Rates(chosen, probability)


def parity_gaps(rates: Float[np.ndarray, "g c"]) -> Float[np.ndarray, " c"]:
    """Per class, the difference of the groups' rates: for two groups, the second minus the first.

    For more groups it is the largest minus the smallest, without a sign. Absent groups (NaN) are left
    out; NaN if fewer than two groups are present.
    """
    # Two groups keep the sign, which says whom a class is chosen for.
    if len(rates) == 2:
        return rates[1] - rates[0]
    present = rates[~np.isnan(rates).any(axis=1)]
    if len(present) < 2:
        return np.full(rates.shape[1], np.nan)
    return present.max(axis=0) - present.min(axis=0)


def make_parity(
    source: Source,
    *,
    by: str | Sequence[str],
    classes: Sequence[str],
    groups: Sequence[Any] | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    templates: str | Sequence[str] = "plain",
    scale: float = 20.0,
    block_size: int | None = None,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: demographic parity of the classes that the model chooses.

    Metrics: parity_max and parity_mean of |gap| over the classes, see `parity_gaps`, and the same
    of mean softmax at `scale` as parity_probability_max and _mean; groups, absent, images, masked.
    `details` contains the rate of every class in every group, and the gap with its sign.

    Args:
      source: images with the columns; true classes are not needed.
      by: one or several columns of the groups. For two groups gap is the second minus the first, so
        groups=("man", "woman") gives p_f - p_m.
      classes: words to choose from, such as occupations.
      groups: see `read_groups`.
      only: the records to use, see `rows_where`.
      templates: as in `make_zeroshot`.
      scale: scale of the softmax, fixed so that models with different scales compare.
      block_size: images scored at the same time; None for as many as fit in 32 MB of scores.

    Raises:
      ValueError: what `read_groups` raises; fewer than two classes, unknown templates.
    """
    found = read_groups(source, by, groups, only)
    if len(classes) < 2 or isinstance(classes, str):
        raise ValueError(f"classes are {classes!r}; expected at least two words to choose from.")
    prompts = word_prompts(classes, templates)

    def evaluate(encode: Encode) -> EvalResult:
        rates = choice_rates(
            encode.images(source),
            prompt_embeddings(encode, prompts),
            found.of_record,
            num_groups=len(found.names),
            scale=scale,
            block_size=block_size,
        )
        gaps = Rates(*(parity_gaps(values) for values in rates))
        metrics = _mean_max("parity", gaps.chosen)
        metrics |= _mean_max("parity_probability", gaps.probability)
        groups_ = [
            {"name": name, "count": int(count)}
            for name, count in zip(found.names, found.counts, strict=True)
        ]
        details = {"kind": "parity", "by_group": groups_, "classes": _rows(classes, rates, gaps)}
        return EvalResult(metrics | group_sizes(found), details)

    return evaluate


def _mean_max(name: str, gaps: Float[np.ndarray, " c"]) -> dict[str, float]:
    return {f"{name}_mean": float(np.abs(gaps).mean()), f"{name}_max": float(np.abs(gaps).max())}


def _rows(classes: Sequence[str], rates: Rates, gaps: Rates) -> list[dict[str, Any]]:
    return [
        {
            "name": str(name),
            "rates": [or_none(rate) for rate in rates.chosen[:, i]],
            "gap": or_none(gaps.chosen[i]),
            "probabilities": [or_none(rate) for rate in rates.probability[:, i]],
            "probability_gap": or_none(gaps.probability[i]),
        }
        for i, name in enumerate(classes)
    ]
