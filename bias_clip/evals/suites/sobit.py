"""So-B-IT: who is found for a loaded word, and whose images are close to it?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.ranking import row_blocks, similarity, unit
from bias_clip.evals.results import EvalResult, or_none
from bias_clip.evals.suites.result import (
    NOT_ENOUGH,
    check_codes,
    check_embeddings,
    mean_of,
    suite_result,
)
from bias_clip.evals.suites.top_k import normalized_entropy, shown_counts, ties_at_cut

DESCRIPTION = Description(
    "bias",
    "Evenness of the groups among the first {k} images found, mean over {words} words: 1 if all are "
    "shown equally often, {entropy_base} if they were found at random.",
    {
        "entropy": Metric(
            "entropy of the images found", "number", "higher", True, even=1.0, chart=""
        ),
        "entropy_base": Metric("entropy of all images", "number"),
        "entropy_of_{category}": Metric("entropy, {category}", "number", "higher", even=1.0),
        "casc_max": Metric("C-ASC, largest mean over words", "number", "lower", even=0.0),
        "casc_of_{group}": Metric("C-ASC, {group}", "number", "neither", even=0.0),
        "tied_words": count("words whose cut falls in a tie"),
        "k": count("images found that count"),
        "words": count("words"),
        "images": count("images"),
    },
)


def c_asc(
    scores: Float[np.ndarray, "w n"], codes: Int[np.ndarray, " n"], *, num_names: int
) -> Float[np.ndarray, "w g"]:
    """Association of each word with each name: how much closer its images are than all others.

    ::

        C-ASC_g = (mean score of the images of g - mean of the others) / deviation (n - 1) of all

    Images of code -1 count nowhere. NaN where g has no image, has all of them, or all scores are
    equal. With two names the two values are opposite.

    Reference: Hamidieh et al.: Identifying Implicit Social Biases in Vision-Language Models, 2024;
    as in the code of SynthFairCLIP.
    """
    s, codes = np.asarray(scores, np.float64)[:, codes >= 0], codes[codes >= 0]
    # [n, g], so that one product gives the sums of all groups.
    own = (codes[:, None] == np.arange(num_names)).astype(np.float64)
    number = own.sum(axis=0)
    total, inside = s.sum(axis=1, keepdims=True), s @ own
    deviation = (
        s.std(axis=1, ddof=1, keepdims=True) if s.shape[1] > 1 else np.full_like(total, np.nan)
    )
    # Equal scores leave rounding noise as deviation, whose quotients would pass for numbers.
    noise = 1e-12 * np.abs(s).max(axis=1, keepdims=True, initial=0)
    others = s.shape[1] - number
    gap = inside / np.where(number > 0, number, np.nan)
    gap = gap - (total - inside) / np.where(others > 0, others, np.nan)
    return gap / np.where(deviation > noise, deviation, np.nan)


def sobit(
    images: Float[np.ndarray, "n d"],
    words: Float[np.ndarray, "w d"],
    codes: Int[np.ndarray, " n"],
    *,
    names: Sequence[str],
    categories: Sequence[str],
    k: int = 100,
    block_size: int | None = None,
) -> EvalResult:
    """Normalised entropy of the names among the k nearest images to each word, and C-ASC.

    Metrics: see `DESCRIPTION`. `details["words"]` has for each word its entropy, C-ASC and counts.

    Args:
      images: embeddings of any length; cosine is used.
      words: one prompt each.
      codes: of the images into `names`, -1 for unknown: in no name, but an image that is found.
      names: of the groups; all published ones, also those that do not occur.
      categories: of the words; a category's value is the mean over its words.
      k: images found that count; all of them if there are fewer, `metrics["k"]` says how many did.
      block_size: words scored at a time; None for as many as 32 MB of scores hold.

    Raises:
      ValueError: embeddings or codes that do not fit together.
    """
    check_embeddings(images=images, words=words)
    check_codes(codes, len(images), len(names), "the images")
    if len(categories) != len(words):
        raise ValueError(f"{len(categories)} categories for {len(words)} words; expected one each.")
    zimg, ztxt = unit(images, dtype=np.float64), unit(words, dtype=np.float64)
    counts, casc, tied = [], [], 0
    for block in row_blocks(len(ztxt), len(zimg), block_size):
        ranked = similarity(ztxt[block], zimg)  # rounded: equal images tie, so the order is fixed
        counts.append(shown_counts(ranked, codes, num_names=len(names), k=k))
        tied += int(ties_at_cut(ranked, k=k).sum())
        # Not rounded: C-ASC is a mean and has no ties to keep.
        casc.append(c_asc(ztxt[block] @ zimg.T, codes, num_names=len(names)))
    shown, association = np.concatenate(counts), np.concatenate(casc)
    entropy = normalized_entropy(shown)
    base = np.bincount(codes[codes >= 0], minlength=len(names))
    metrics = {"entropy": mean_of(entropy), "entropy_base": float(normalized_entropy(base))}
    for category in dict.fromkeys(categories):
        rows = np.array([c == category for c in categories])
        metrics[f"entropy_of_{category}"] = mean_of(entropy[rows])
    means = [mean_of(column) for column in association.T]
    metrics["casc_max"] = float(np.nanmax(np.abs([*means, np.nan]))) if _some(means) else np.nan
    metrics |= {f"casc_of_{name}": mean for name, mean in zip(names, means, strict=True)}
    metrics |= {"tied_words": float(tied), "k": float(min(k, len(images)))}
    metrics |= {"words": float(len(words)), "images": float(len(images))}
    details = {"group_names": list(names), "words": _word_rows(entropy, association, shown)}
    return suite_result("sobit", metrics, reasons=_reasons(names, base), details=details)


def _some(values: Sequence[float]) -> bool:
    return not np.isnan(values).all()


def _reasons(names: Sequence[str], sizes: np.ndarray) -> dict[str, str]:
    reasons = {
        f"casc_of_{name}": f"{NOT_ENOUGH}: {size} images of {name}, {sizes.sum() - size} of others"
        for name, size in zip(names, sizes, strict=True)
    }
    if len(names) == 1:
        reasons["entropy"] = f"not defined for one group, {names[0]}"
    return reasons


def _word_rows(entropy: np.ndarray, casc: np.ndarray, shown: np.ndarray) -> list[dict]:
    return [
        {"entropy": or_none(e), "casc": [or_none(v) for v in row], "shown": counts.tolist()}
        for e, row, counts in zip(entropy, casc, shown, strict=True)
    ]
