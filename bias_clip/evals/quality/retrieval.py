"""Retrieval both ways: the caption among all captions, and the image among all images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.data.bad_records import visible_captions
from bias_clip.data.records import Source
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.ranking import best_ranks, top_columns
from bias_clip.evals.results import EvalResult, spread, thumbnail

DESCRIPTION = Description(
    "retrieval",
    "R@1 is the share of searches that find a right one first, of {texts} texts and {images} images.",
    {
        f"{way}_r{{k}}": Metric(
            f"{words} R@{{k}}",
            "share",
            "higher",
            True,
            f"{way}_r{{k}}_chance",
            chart=words,
            short=f"{arrow} R@{{k}}",
        )
        for way, words, arrow in (
            ("t2i", "text to image", "text → image"),
            ("i2t", "image to text", "image → text"),
        )
    }
    | {
        "t2i_r{k}_chance": Metric("text to image R@{k} by chance", "share"),
        "i2t_r{k}_chance": Metric("image to text R@{k} by chance", "share"),
        "images": count("images"),
        "texts": count("different texts"),
        "uncaptioned": count("images without a caption"),
    },
)


class Recall(NamedTuple):
    """Recall at each k, in the order of `ks`; see `retrieval_recall`."""

    image_to_text: Float[np.ndarray, " k"]
    text_to_image: Float[np.ndarray, " k"]


def retrieval_recall(
    zimg: Float[np.ndarray, "n d"],
    ztxt: Float[np.ndarray, "m d"],
    images: Int[np.ndarray, " p"],
    texts: Int[np.ndarray, " p"],
    *,
    ks: Sequence[int] = (1, 5, 10),
    block_size: int | None = None,
) -> Recall:
    """Recall at k over pairs: text texts[p] describes image images[p].

    image_to_text: share of images with at least one own text among their k best texts.
    text_to_image: share of texts with at least one own image among their k best images.
    Images may have several texts, and texts several images. An item without a pair is not a query,
    but stays a candidate. Candidates are sorted by decreasing cosine, ties by increasing index.
    """
    # Only items of a pair are queries; `best_ranks` has rows for all, hence np.unique.
    i2t = best_ranks(zimg, ztxt, images, texts, block_size=block_size)[np.unique(images)]
    t2i = best_ranks(ztxt, zimg, texts, images, block_size=block_size)[np.unique(texts)]
    return Recall(
        np.array([np.mean(i2t < k) for k in ks]), np.array([np.mean(t2i < k) for k in ks])
    )


def chance_recall(counts: Int[np.ndarray, " n"], candidates: int, k: int) -> float:
    """Mean recall at k of a random order: 1 - prod_{j<k} (candidates - count - j)/(candidates - j)."""
    # Beyond all candidates every search succeeds.
    steps = np.arange(min(k, candidates))
    misses = np.clip(candidates - counts[:, None] - steps, 0, None) / (candidates - steps)
    return float(np.mean(1 - misses.prod(axis=1)))


def make_retrieval(
    source: Source,
    *,
    captions: str = "first",
    ks: Sequence[int] = (1, 5, 10),
    block_size: int | None = None,
    num_queries: int = 12,
    seed: int = 0,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: retrieval of the source's images and captions.

    A caption that several images share is one text, and each of those images is right for it.
    Metrics: i2t_r<k> and t2i_r<k> for each k, the same for a random order as ..._chance, images,
    texts, uncaptioned (records without a caption: candidates that are never queries).

    Args:
      source: images with captions.
      captions: "first" takes one caption per image, "all" takes all of them.
      ks: cut-offs.
      block_size: rows scored at the same time; None for as many as fit in 32 MB of scores.
      num_queries: number of texts shown in `details`, each with its six best images.
      seed: chooses these texts.

    Raises:
      ValueError: unknown `captions`, or no caption at all.
    """
    strings, images, texts = caption_pairs(read_captions(source, captions))
    queries = spread(len(strings), num_queries, seed=seed)
    chances = {"i2t": (images, len(strings)), "t2i": (texts, len(source))}

    def evaluate(encode: Encode) -> EvalResult:
        zimg, ztxt = encode.images(source), encode.texts(strings)
        recall = retrieval_recall(zimg, ztxt, images, texts, ks=ks, block_size=block_size)
        metrics = {}
        for way, values in (("i2t", recall.image_to_text), ("t2i", recall.text_to_image)):
            # How many right candidates each query has: several make a hit by chance more likely.
            counts = np.unique(chances[way][0], return_counts=True)[1]
            for k, value in zip(ks, values, strict=True):
                metrics[f"{way}_r{k}"] = float(value)
                metrics[f"{way}_r{k}_chance"] = chance_recall(counts, chances[way][1], k)
        metrics |= {"images": float(len(source)), "texts": float(len(strings))}
        metrics["uncaptioned"] = float(len(source) - len(np.unique(images)))
        found, _ = top_columns(ztxt[queries], zimg, 6)
        shown = [
            _query(source, strings[q], set(images[texts == q].tolist()), top)
            for q, top in zip(queries, found, strict=True)
        ]
        return EvalResult(metrics, {"kind": "retrieval", "queries": shown})

    return evaluate


def read_captions(source: Source, which: str) -> list[tuple[str, ...]]:
    """The captions of each record that are not blank: all of them, or only the first.

    Raises:
      ValueError: an unknown `which`, or no record with a caption.
    """
    if which not in ("first", "all"):
        raise ValueError(f"captions={which!r}; expected 'first' or 'all'.")
    # Applied after blank captions are dropped: the first one that shows something.
    limit = 1 if which == "first" else None
    found = [visible_captions(source[i])[:limit] for i in range(len(source))]
    if not any(found):
        raise ValueError(f"none of {len(source)} records has a caption; expected at least one.")
    return found


def caption_pairs(
    captions: Sequence[tuple[str, ...]],
) -> tuple[list[str], Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Distinct captions in order of appearance, and pairs (image, caption) without repeats."""
    strings = list(dict.fromkeys(text for texts in captions for text in texts))
    index = {text: i for i, text in enumerate(strings)}
    # A caption that a record has twice is one pair.
    pairs = [(i, index[text]) for i, texts in enumerate(captions) for text in dict.fromkeys(texts)]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return strings, table[:, 0], table[:, 1]


def _query(source: Source, text: str, right: set[int], top: np.ndarray) -> dict[str, Any]:
    found = [{"png": thumbnail(source[i]), "correct": i in right} for i in top.tolist()]
    return {"text": text, "pictures": found}
