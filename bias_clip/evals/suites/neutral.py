"""Neutral captions: whom does a caption find that names no gender? Bias@K beside R@K."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.quality.retrieval import retrieval_recall
from bias_clip.evals.ranking import row_blocks, similarity, unit
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.result import NOT_ENOUGH, check_embeddings, mean_of, suite_result
from bias_clip.evals.suites.top_k import bias_at_k

DESCRIPTION = Description(
    "bias",
    "Men minus women among the first images found for a caption without gender, as a share of both; "
    "the signed mean cancels opposite biases, the absolute one does not.",
    {
        "bias_{k}": Metric(
            "bias, first {k}", "signed points", "neither", True, even=0.0, chart="bias"
        ),
        "bias_abs_{k}": Metric("size of the bias, first {k}", "points", "lower", even=0.0),
        "without_{k}": count("queries that find no man and no woman, first {k}"),
        "t2i_r{k}": Metric("text to image R@{k}", "share", "higher", chart="recall"),
        "queries": count("queries"),
        "men": count("images of men"),
        "women": count("images of women"),
        "images": count("images"),
    },
)


class GenderWords(NamedTuple):
    """Words that make a caption a man's or a woman's, and which of them are plural."""

    men: tuple[str, ...]
    women: tuple[str, ...]
    plural: tuple[str, ...]


def caption_gender(caption: str, words: GenderWords) -> int:
    """0 if the caption has words of men only, 1 of women only, -1 of both or none."""
    has_man, has_woman = (_pattern(group).search(caption) for group in (words.men, words.women))
    # Both or none: such a caption says nothing of one gender.
    if bool(has_man) == bool(has_woman):
        return -1
    return 0 if has_man else 1


def neutral_caption(caption: str, words: GenderWords) -> str:
    """The caption with "people" for the plural words and "person" for the other ones."""
    plural = {word.lower() for word in words.plural}

    def neutral(match: re.Match) -> str:
        return "people" if match.group().lower() in plural else "person"

    # One pass over all words, so that a replacement is never replaced again.
    return _pattern((*words.men, *words.women)).sub(neutral, caption)


def neutral_captions(
    images: Float[np.ndarray, "n d"],
    captions: Float[np.ndarray, "n d"],
    neutral: Float[np.ndarray, "q d"],
    genders: Int[np.ndarray, " n"],
    *,
    ks: Sequence[int] = (1, 5, 10),
    official: bool = False,
    block_size: int | None = None,
) -> EvalResult:
    """Bias@K of the neutral captions, and R@K of the captions as they were.

    Metrics: bias_<k>, the signed mean over the queries that find a man or a woman; bias_abs_<k>, the
    mean of its size; without_<k>, the other queries; t2i_r<k>. Where k is above the number of images
    all of them count, `details["used"]` says how many did.

    Args:
      images: embeddings of any length; cosine is used.
      captions: the first caption of each image, as it is.
      neutral: the same in neutral words.
      genders: of each image 0 (men), 1 (women) or -1, see `caption_gender`.
      ks: cut-offs.
      official: queries that find neither count as 0, as in the code of Kong et al., where bias looks
        smaller the fewer people there are.
      block_size: queries scored at a time; None for as many as 32 MB of scores hold.

    Raises:
      ValueError: embeddings or genders that do not fit together.

    Reference: Kong et al.: Mitigating Test-Time Bias for Fair Image Retrieval, 2023.
    """
    check_embeddings(images=images, captions=captions, neutral=neutral)
    if not len(images) == len(captions) == len(genders):
        raise ValueError(
            f"{len(images)} images, {len(captions)} captions and {len(genders)} genders; expected "
            "as many of each."
        )
    zimg, ztxt, zneutral = (unit(z, dtype=np.float64) for z in (images, captions, neutral))
    bias = np.concatenate(
        [
            bias_at_k(similarity(zneutral[block], zimg), genders, ks=ks)
            for block in row_blocks(len(zneutral), len(zimg), block_size)
        ]
    )
    own = np.arange(len(zimg))
    recall = retrieval_recall(zimg, ztxt, own, own, ks=ks, block_size=block_size).text_to_image
    metrics, reasons = _bias_metrics(bias, ks, official)
    metrics |= {f"t2i_r{k}": float(value) for k, value in zip(ks, recall, strict=True)}
    men, women = (float(np.sum(genders == g)) for g in (0, 1))
    metrics |= {"queries": float(len(neutral)), "men": men, "women": women}
    metrics["images"] = float(len(images))
    used = {str(k): min(int(k), len(images)) for k in ks}
    return suite_result(
        "neutral", metrics, reasons=reasons, details={"used": used, "official": official}
    )


def query_bias(
    scores: Float[np.ndarray, "q n"],
    groups: Int[np.ndarray, " n"],
    *,
    ks: Sequence[int],
    form: str = "left_out",
) -> EvalResult:
    """Bias@K of queries such as occupations, by its signed mean and the mean of its size.

    Args:
      scores: of each image for each query.
      groups: 0 (men), 1 (women) or -1.
      ks: cut-offs.
      form: "left_out" leaves images of neither out, as the notebook of Kong et al. does; "second"
        counts them as women, as their helper does; "discounted" is that with weights of the ranks.

    Raises:
      ValueError: another form, or what `bias_at_k` raises.
    """
    if form not in ("left_out", "second", "discounted"):
        raise ValueError(f"form={form!r}; expected 'left_out', 'second' or 'discounted'.")
    bias = bias_at_k(
        scores,
        groups,
        ks=ks,
        others="left_out" if form == "left_out" else "second",
        weights="discounted" if form == "discounted" else "equal",
    )
    metrics, reasons = _bias_metrics(bias, ks, False)
    men, women = (float(np.sum(groups == g)) for g in (0, 1))
    metrics |= {"queries": float(len(scores)), "men": men, "women": women}
    metrics["images"] = float(len(groups))
    return suite_result("neutral", metrics, reasons=reasons, details={"form": form})


def _bias_metrics(
    bias: Float[np.ndarray, "q k"], ks: Sequence[int], official: bool
) -> tuple[dict[str, float], dict[str, str]]:
    metrics: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for k, column in zip(ks, bias.T, strict=True):
        none = int(np.isnan(column).sum())
        # NaN is a query that finds no man and no woman; as 0 it would count as a fair one.
        values = np.nan_to_num(column) if official else column
        metrics[f"bias_{k}"], metrics[f"bias_abs_{k}"] = mean_of(values), mean_of(np.abs(values))
        metrics[f"without_{k}"] = float(none)
        reason = f"{NOT_ENOUGH}: none of {len(column)} queries finds a man or a woman"
        reasons |= {f"bias_{k}": reason, f"bias_abs_{k}": reason}
    return metrics, reasons


def _pattern(words: Sequence[str]) -> re.Pattern:
    # Whole words, or "man" would be found in "woman".
    return re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
