"""Pairs of images and texts that differ in one detail: does each text prefer its own image?

MMVP, Winoground and SugarCrepe test features that a model may ignore because easier ones suffice. So
stages of multistage contrastive learning should differ on them. The source "image_files" reads these
data sets; any other source with the same columns works too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from bias_clip.data.sources import Source, column
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.quality.retrieval import read_captions
from bias_clip.evals.results import EvalResult

MMVP = Description(
    "composition",
    "A pair counts if both of its texts choose their own image; {pairs} pairs.",
    {
        "average": Metric(
            "pairs told apart, mean over patterns",
            "share",
            "higher",
            True,
            "chance",
            chart="",
            short="pairs told apart",
        ),
        "acc_{pattern}": Metric(
            "pairs told apart, pattern {pattern}",
            "share",
            "higher",
            chance="chance",
            chart="each pattern",
            short="{pattern}",
        ),
        "image_similarity": Metric(
            "similarity of a pair's images", "cosine", chart="similarity", short="images"
        ),
        "text_similarity": Metric(
            "similarity of a pair's texts", "cosine", chart="similarity", short="texts"
        ),
        "chance": Metric("pairs told apart by chance", "share"),
        "pairs": count("pairs"),
    },
)
WINOGROUND = Description(
    "composition",
    "Two images and two texts of the same words in another order; {pairs} examples. Both: text and "
    "image together.",
    {
        "acc": Metric(
            "both right", "share", "higher", True, "chance_group", chart="", short="both"
        ),
        "text_acc": Metric(
            "both images choose their text",
            "share",
            "higher",
            True,
            "chance",
            chart="",
            short="text",
        ),
        "image_acc": Metric(
            "both texts choose their image",
            "share",
            "higher",
            True,
            "chance",
            chart="",
            short="image",
        ),
        "chance": Metric("text or image right by chance", "share"),
        "chance_group": Metric("both right by chance", "share"),
        "pairs": count("examples"),
    },
)
SUGARCREPE = Description(
    "composition",
    "Share of {items} images that prefer their true caption to one with a small change.",
    {
        "acc": Metric(
            "true caption preferred", "share", "higher", True, "chance", chart="", short="all items"
        ),
        "average": Metric(
            "true caption preferred, mean over kinds",
            "share",
            "higher",
            True,
            "chance",
            chart="",
            short="mean over kinds",
        ),
        "acc_{type}": Metric(
            "true caption preferred, {type}",
            "share",
            "higher",
            chance="chance",
            chart="each kind",
            short="{type}",
        ),
        "chance": Metric("true caption preferred by chance", "share"),
        "items": count("items"),
    },
)


class Winoground(NamedTuple):
    """Whether each example is right, see `winoground_correct`."""

    text: Bool[np.ndarray, " p"]
    image: Bool[np.ndarray, " p"]
    group: Bool[np.ndarray, " p"]


def pair_cosines(
    zimg: Float[np.ndarray, "p 2 d"], ztxt: Float[np.ndarray, "p 2 d"]
) -> Float32[np.ndarray, "p 2 2"]:
    """cosines[p, i, j] of image i and text j; float64 sums, so that equal embeddings tie."""
    # [p, 2, 1, d] times [p, 1, 2, d].
    products = zimg.astype(np.float64)[:, :, None] * ztxt.astype(np.float64)[:, None]
    return products.sum(axis=-1).astype(np.float32)


def prefers_first(
    zimg: Float[np.ndarray, "p 2 d"], ztxt: Float[np.ndarray, "p 2 d"]
) -> Bool[np.ndarray, "p 2"]:
    """For each text, whether the first image is strictly better; a tie goes to the second."""
    cosines = pair_cosines(zimg, ztxt)
    return cosines[:, 0] > cosines[:, 1]


def mmvp_correct(
    zimg: Float[np.ndarray, "p 2 d"], ztxt: Float[np.ndarray, "p 2 d"]
) -> Bool[np.ndarray, " p"]:
    """A pair is right if both of its texts choose their own image.

    Because a tie goes to the second image, two equal images are always wrong. Chance is 1/4.

    Reference: Tong et al.: Eyes Wide Shut? Exploring the Visual Shortcomings of Multimodal LLMs, 2024.
    """
    first = prefers_first(zimg, ztxt)
    return first[:, 0] & ~first[:, 1]


def winoground_correct(
    zimg: Float[np.ndarray, "p 2 d"], ztxt: Float[np.ndarray, "p 2 d"]
) -> Winoground:
    """Text: both images prefer their own text; image: both texts their own image; group: both.

    All must hold strictly: a tie is wrong. Chance is 1/4, 1/4 and 1/6.

    Reference: Thrush et al.: Winoground: Probing Vision and Language Models for Visio-Linguistic
    Compositionality, 2022.
    """
    cosines = pair_cosines(zimg, ztxt)
    # own [p, 2] is the diagonal: each text with its own image.
    own, own_0, own_1 = cosines[:, [0, 1], [0, 1]], cosines[:, 0, 0], cosines[:, 1, 1]
    text = (own_0 > cosines[:, 0, 1]) & (own_1 > cosines[:, 1, 0])
    # Text j with the other image, 1 - j.
    image = np.asarray((own > cosines[:, [1, 0], [0, 1]]).all(axis=1))
    return Winoground(text, image, text & image)


def sugarcrepe_correct(
    zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "n 2 d"]
) -> Bool[np.ndarray, " n"]:
    """Whether each image strictly prefers the first of its two texts; chance is 1/2.

    Reference: Hsieh et al.: SugarCrepe: Fixing Hackable Benchmarks for Vision-Language
    Compositionality, 2023.
    """
    # One image against two texts: [n, 1, 2] without the axis of images.
    cosines = pair_cosines(zimg[:, None], ztxt)[:, 0]
    return cosines[:, 0] > cosines[:, 1]


def make_mmvp(
    source: Source,
    *,
    pair: str | None = None,
    pattern: str | int = 15,
    template: str = "a photo of {}",
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: MMVP-VLM over a source of images with one statement each.

    Metrics: average (mean over the patterns), acc_<pattern>, chance, pairs. Over all pairs,
    image_similarity and text_similarity are the mean cosines of the two images and of the two texts:
    if a model embeds two images alike, it cannot distinguish them.

    Args:
      source: its records come in pairs, each with its own statement as first caption.
      pair: column with the same value for both records of a pair; None if consecutive records are a
        pair, as in the published list.
      pattern: column that names the pattern, or the number of consecutive pairs per pattern: 15 in
        the published list. Such patterns are numbered from 0.
      template: template for the statement.

    Raises:
      ValueError: records that do not form pairs, a record without a caption, or a pair with two
        patterns.
    """
    rows = pair_rows(source, pair)
    # [p, 2], in the order of `rows`.
    texts = pair_texts(source, rows, template)
    patterns = _patterns(source, rows, pattern)

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)[rows]
        ztxt = encode.texts(texts.ravel().tolist()).reshape(zimg.shape)
        right = mmvp_correct(zimg, ztxt)
        shares = group_shares(right, patterns)
        metrics = {"average": float(np.mean(list(shares.values()))), "chance": 0.25}
        metrics |= {f"acc_{name}": share for name, share in shares.items()}
        metrics |= {"pairs": float(len(rows))}
        for name, z in (("image", zimg), ("text", ztxt)):
            metrics[f"{name}_similarity"] = float((z[:, 0] * z[:, 1]).sum(axis=-1).mean())
        return EvalResult(metrics, {"kind": "mmvp", "patterns": shares})

    return evaluate


def make_winoground(
    source: Source, *, pair: str | None = None, template: str = "{}"
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: Winoground over a source of images with a caption each.

    Metrics: text_acc, image_acc, acc (group), chance (of text_acc and image_acc), chance_group,
    pairs.

    Args:
      source: as for `make_mmvp`.
      pair: as for `make_mmvp`.
      template: template for the caption.

    Raises:
      ValueError: records that do not form pairs, or a record without a caption.
    """
    rows = pair_rows(source, pair)
    texts = pair_texts(source, rows, template)

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)[rows]
        ztxt = encode.texts(texts.ravel().tolist()).reshape(zimg.shape)
        right = winoground_correct(zimg, ztxt)
        metrics = {
            "text_acc": float(right.text.mean()),
            "image_acc": float(right.image.mean()),
            "acc": float(right.group.mean()),
            "chance": 0.25,
            "chance_group": 1 / 6,
            "pairs": float(len(rows)),
        }
        return EvalResult(metrics, {"kind": "winoground"})

    return evaluate


def make_sugarcrepe(
    source: Source, *, by: str | None = None, template: str = "{}"
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: does each image prefer its true caption to the false one?

    Metrics: acc (over all items), average (mean over the kinds), acc_<kind>, chance, items. Papers
    average over the seven kinds or over three groups of them, so state which one you report.

    Args:
      source: images whose first caption is true and whose second caption is false.
      by: column with the kind of each item; None for one kind.
      template: template for a caption.

    Raises:
      ValueError: a record with fewer than two captions.
    """
    captions = read_captions(source, "all")
    # Blank captions are dropped by then: a record with one would compare with nothing.
    short = [i for i, texts in enumerate(captions) if len(texts) < 2]
    if short:
        raise ValueError(
            f"record {short[0]} has captions {list(captions[short[0]])}; expected a true one and a "
            "false one."
        )
    # `replace` and not `format`, because captions may hold braces.
    texts = [template.replace("{}", text) for two in captions for text in two[:2]]
    kinds = None if by is None else column(source, by)

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)
        right = sugarcrepe_correct(zimg, encode.texts(texts).reshape(len(zimg), 2, -1))
        shares = {} if kinds is None else group_shares(right, kinds)
        metrics = {"acc": float(right.mean()), "chance": 0.5, "items": float(len(right))}
        # Without kinds the mean over kinds is that over items.
        metrics["average"] = float(np.mean(list(shares.values()) or right))
        metrics |= {f"acc_{name}": share for name, share in shares.items()}
        return EvalResult(metrics, {"kind": "sugarcrepe", "kinds": shares})

    return evaluate


def group_shares(right: Bool[np.ndarray, " p"], groups: np.ndarray) -> dict[str, float]:
    """The share of right items per group, in the order of the groups."""
    return {str(name): float(right[groups == name].mean()) for name in np.unique(groups)}


def pair_rows(source: Source, pair: str | None) -> np.ndarray:
    """The records of each pair, [p, 2], by a column or by position.

    Raises:
      ValueError: an odd number of records, or a value that does not occur exactly twice.
    """
    count = len(source)
    if pair is None:
        if count % 2:
            raise ValueError(f"{count} records do not form pairs; expected an even number.")
        return np.arange(count).reshape(-1, 2)
    values = column(source, pair)
    names, first, counts = np.unique(values, return_index=True, return_counts=True)
    if (counts != 2).any():
        name = names[counts != 2].tolist()[0]
        raise ValueError(
            f"{pair}={name!r} has {counts[counts != 2][0]} records; expected two of each."
        )
    # Sorted by value, the two records of a pair lie together, the earlier one first.
    ordered = np.argsort(values, kind="stable").reshape(-1, 2)
    # Pairs in the order in which they begin in the source, and not in that of their values.
    return ordered[np.argsort(first, kind="stable")]


def pair_texts(source: Source, rows: np.ndarray, template: str) -> np.ndarray:
    """The first caption of each record in the template, [p, 2]; ValueError if one is missing."""
    captions = read_captions(source, "first")
    empty = [i for i, texts in enumerate(captions) if not texts]
    if empty or "{}" not in template:
        raise ValueError(
            f"records {empty[:3]} have no caption, or {template=} has no {{}}; expected a caption of "
            "each, and a place for it."
        )
    return np.asarray([template.replace("{}", texts[0]) for texts in captions], object)[rows]


def _patterns(source: Source, rows: np.ndarray, pattern: str | int) -> np.ndarray:
    if isinstance(pattern, int):
        if pattern < 1 or len(rows) % pattern:
            raise ValueError(f"{len(rows)} pairs are not patterns of {pattern}; give a column.")
        return np.arange(len(rows)) // pattern
    values = column(source, pattern)[rows]
    differ = np.flatnonzero(values[:, 0] != values[:, 1])
    if len(differ):
        raise ValueError(
            f"the records {rows[differ[0]].tolist()} are a pair of {pattern} "
            f"{values[differ[0]].tolist()}; expected one of both."
        )
    return values[:, 0]
