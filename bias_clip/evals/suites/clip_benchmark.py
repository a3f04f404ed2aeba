"""Quality as in CLIP_benchmark: zero-shot classification, with several labels, and retrieval."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.evals.metrics import Description
from bias_clip.evals.quality import retrieval, zeroshot
from bias_clip.evals.quality.retrieval import chance_recall, retrieval_recall
from bias_clip.evals.quality.zeroshot import (
    accuracy_of_ranks,
    average_precision,
    class_embeddings,
)
from bias_clip.evals.ranking import best_ranks, row_blocks, similarity, unit
from bias_clip.evals.results import EvalResult, or_none
from bias_clip.evals.suites.result import NOT_ENOUGH, check_embeddings, mean_of, suite_result

ZEROSHOT: Description = zeroshot.DESCRIPTION
RETRIEVAL: Description = retrieval.DESCRIPTION


def classify(
    images: Float[np.ndarray, "n d"],
    prompts: Float[np.ndarray, "c t d"],
    labels: Int[np.ndarray, " n"],
    *,
    block_size: int | None = None,
) -> EvalResult:
    """acc1, acc5 and recall averaged over the classes that occur; see `accuracy`.

    Args:
      images: embeddings of any length; cosine is used.
      prompts: of each class in each template, of any length; see `class_embeddings`.
      labels: class of each image.
      block_size: images scored at a time; None for as many as 32 MB of scores hold.

    Raises:
      ValueError: embeddings or labels that do not fit together.
    """
    check_embeddings(images=images, prompts=prompts)
    num_classes = len(prompts)
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{len(labels)} labels from {labels.min()} to {labels.max()} for {len(images)} images; "
            f"expected one each, from 0 to {num_classes - 1}."
        )
    zcls = class_embeddings(prompts, dtype=np.float64)
    rows = np.arange(len(labels))
    z = unit(images, dtype=np.float64)
    ranks = best_ranks(z, zcls, rows, labels, block_size=block_size)
    return classify_ranks(ranks, labels, num_classes=num_classes)


def classify_ranks(
    ranks: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, num_classes: int
) -> EvalResult:
    """`classify` from the rank of each image's class among all classes, see `best_ranks`."""
    found = accuracy_of_ranks(ranks, labels, num_classes=num_classes)
    metrics = {**found._asdict(), "chance": 1 / num_classes, "classes": float(num_classes)}
    metrics["images"] = float(len(labels))
    reasons = {"acc5": f"not defined for {num_classes} classes"}
    return suite_result("zeroshot", metrics, reasons=reasons, details={"examples": []})


def classify_multilabel(
    images: Float[np.ndarray, "n d"],
    prompts: Float[np.ndarray, "c t d"],
    labels: Bool[np.ndarray, "n c"],
    *,
    official: bool = False,
    block_size: int | None = None,
) -> EvalResult:
    """Mean over classes of the average precision; `details["precisions"]` has that of each class.

    Args:
      images: embeddings of any length; cosine is used.
      prompts: as in `classify`.
      labels: whether each image is of each class.
      official: a class without an image counts as 0 in the mean, as in CLIP_benchmark; by default
        it is left out, and `details["empty"]` counts such classes.
      block_size: classes scored at a time; None for as many as 32 MB of scores hold.

    Raises:
      ValueError: embeddings or labels that do not fit together.
    """
    check_embeddings(images=images, prompts=prompts)
    if labels.shape != (len(images), len(prompts)):
        raise ValueError(
            f"labels have shape {labels.shape}; expected {(len(images), len(prompts))}: a row per "
            "image, a column per class."
        )
    zimg = unit(images, dtype=np.float64)
    zcls, targets = class_embeddings(prompts, dtype=np.float64), labels.astype(bool)
    # By blocks of classes: average precision sorts all images of a class.
    precisions = np.concatenate(
        [
            average_precision(
                similarity(zimg, zcls[block]), targets[:, block], empty=0.0 if official else np.nan
            )
            for block in row_blocks(len(zcls), len(zimg), block_size)
        ]
    )
    empty = int(np.sum(~targets.any(axis=0)))
    metrics = {"map": mean_of(precisions), "classes": float(len(zcls)), "images": float(len(zimg))}
    details = {"examples": [], "empty": empty, "precisions": [or_none(p) for p in precisions]}
    reasons = {"map": f"{NOT_ENOUGH}: no class has an image"}
    return suite_result("zeroshot", metrics, reasons=reasons, details=details)


def retrieve(
    images: Float[np.ndarray, "n d"],
    texts: Float[np.ndarray, "m d"],
    text_images: Int[np.ndarray, " m"],
    *,
    ks: Sequence[int] = (1, 5, 10),
    official: bool = False,
    block_size: int | None = None,
) -> EvalResult:
    """R@K both ways with all captions: of captions to images, and of images to any own caption.

    A cut-off above the number of candidates has no number, where the official code stops.

    Args:
      images: embeddings of any length; cosine is used.
      texts: captions.
      text_images: image of each caption.
      ks: cut-offs.
      official: an image without a caption is a miss, as in CLIP_benchmark; by default it stays a
        candidate but is not asked for, and `uncaptioned` counts such images.
      block_size: rows scored at a time; None for as many as 32 MB of scores hold.

    Raises:
      ValueError: embeddings or indices that do not fit together.
    """
    check_embeddings(images=images, texts=texts)
    n, m = len(images), len(texts)
    if len(text_images) != m or text_images.min() < 0 or text_images.max() >= n:
        raise ValueError(
            f"{len(text_images)} image indices for {m} captions; expected one each, of 0 to {n - 1}."
        )
    zimg, ztxt = unit(images, dtype=np.float64), unit(texts, dtype=np.float64)
    own = np.arange(m)
    recall = retrieval_recall(zimg, ztxt, text_images, own, ks=ks, block_size=block_size)
    # Captions per image, 0 for an image without one.
    number = np.bincount(text_images, minlength=n)
    captioned = int(np.sum(number > 0))
    # Recall is a mean over the images with captions; the others as misses only rescale it.
    factor = captioned / n if official else 1.0
    metrics: dict[str, float] = {}
    reasons: dict[str, str] = {}
    ways = {
        # Each caption has one image; an image has as many captions as `number` says.
        "t2i": (recall.text_to_image, np.ones(m, int), n),
        "i2t": (recall.image_to_text * factor, number[number > 0], m),
    }
    for way, (values, counts, candidates) in ways.items():
        for k, value in zip(ks, values, strict=True):
            fits = k <= candidates
            metrics[f"{way}_r{k}"] = float(value) if fits else np.nan
            chance = chance_recall(counts, candidates, k) if fits else np.nan
            metrics[f"{way}_r{k}_chance"] = chance
            reason = f"{NOT_ENOUGH}: {candidates} candidates for a cut-off of {k}"
            reasons |= {f"{way}_r{k}": reason, f"{way}_r{k}_chance": reason}
    metrics |= {"images": float(n), "texts": float(m), "uncaptioned": float(n - captioned)}
    details = {"queries": [], "official": official}
    return suite_result("retrieval", metrics, reasons=reasons, details=details)
