"""Images and texts in pairs that differ in one thing: does each text prefer its own image?

MMVP, Winoground and SugarCrepe ask for what a model may have left out because something easier was
enough, so they are where stages of multistage contrastive learning should differ. The sets are read
by the source "image_files"; any other source with the same columns will do.
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
    """Which examples are right, see `winoground_correct`."""

    text: Bool[np.ndarray, " p"]
    image: Bool[np.ndarray, " p"]
    group: Bool[np.ndarray, " p"]


def pair_cosines(
    zimg: Float[np.ndarray, "p 2 d"], ztxt: Float[np.ndarray, "p 2 d"]
) -> Float32[np.ndarray, "p 2 2"]:
    """cosines[p, i, j] of image i and text j; float64 sums, so that equal embeddings tie."""
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

    Since a tie goes to the second image, two equal images are always wrong. Chance is 1/4.

    Reference: Tong et al.: Eyes Wide Shut? Exploring the Visual Shortcomings of Multimodal LLMs, 2024.
    """
    first = prefers_first(zimg, ztxt)
    return first[:, 0] & ~first[:, 1]


def winoground_correct(
    zimg: Float[np.ndarray, "p 2 d"], ztxt: Float[np.ndarray, "p 2 d"]
) -> Winoground:
    """Text: both images prefer their own text; image: both texts their own image; group: both.

    All strictly: a tie is wrong. Chance is 1/4, 1/4 and 1/6.

    Reference: Thrush et al.: Winoground: Probing Vision and Language Models for Visio-Linguistic
    Compositionality, 2022.
    """
    cosines = pair_cosines(zimg, ztxt)
    own, own_0, own_1 = cosines[:, [0, 1], [0, 1]], cosines[:, 0, 0], cosines[:, 1, 1]
    text = (own_0 > cosines[:, 0, 1]) & (own_1 > cosines[:, 1, 0])
    image = np.asarray((own > cosines[:, [1, 0], [0, 1]]).all(axis=1))
    return Winoground(text, image, text & image)


def sugarcrepe_correct(
    zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "n 2 d"]
) -> Bool[np.ndarray, " n"]:
    """Whether each image strictly prefers the first of its two texts; chance is 1/2.

    Reference: Hsieh et al.: SugarCrepe: Fixing Hackable Benchmarks for Vision-Language
    Compositionality, 2023.
    """
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

    Metrics: average (mean over the patterns), acc_<pattern>, chance, pairs, and, of all pairs,
    image_similarity and text_similarity, the mean cosine of the two images and of the two texts:
    a model to which two images look alike cannot tell them apart.

    Args:
      source: its records come in pairs, each with its own statement as first caption.
      pair: column that is equal for the two of a pair, in the order of records; None where each two
        consecutive records are a pair, as in the published list.
      pattern: column that names the pattern; or a number of consecutive pairs that are one, 15 in
        the published list, which are numbered from 0.
      template: what the statement is put into.

    Raises:
      ValueError: records that do not come in pairs, without a caption, or a pattern that the two of a
        pair do not share.
    """
    rows = pair_rows(source, pair)
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
      template: what the caption is put into.

    Raises:
      ValueError: records that do not come in pairs, or without a caption.
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
    average over the seven kinds or over three groups of them: say which.

    Args:
      source: images of which the first caption is true and the second false.
      by: column that names the kind of an item; None for one kind.
      template: what a caption is put into.

    Raises:
      ValueError: a record with fewer than two captions.
    """
    captions = read_captions(source, "all")
    short = [i for i, texts in enumerate(captions) if len(texts) < 2]
    if short:
        raise ValueError(
            f"record {short[0]} has captions {list(captions[short[0]])}; expected a true one and a "
            "false one."
        )
    texts = [template.replace("{}", text) for two in captions for text in two[:2]]
    kinds = None if by is None else column(source, by)

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)
        right = sugarcrepe_correct(zimg, encode.texts(texts).reshape(len(zimg), 2, -1))
        shares = {} if kinds is None else group_shares(right, kinds)
        metrics = {"acc": float(right.mean()), "chance": 0.5, "items": float(len(right))}
        metrics["average"] = float(np.mean(list(shares.values()) or right))
        metrics |= {f"acc_{name}": share for name, share in shares.items()}
        return EvalResult(metrics, {"kind": "sugarcrepe", "kinds": shares})

    return evaluate


def group_shares(right: Bool[np.ndarray, " p"], groups: np.ndarray) -> dict[str, float]:
    """The share of right ones in each group, in the groups' own order."""
    return {str(name): float(right[groups == name].mean()) for name in np.unique(groups)}


def pair_rows(source: Source, pair: str | None) -> np.ndarray:
    """The records of each pair, [p, 2], by a column or as they come.

    Raises:
      ValueError: an odd number of records, or a value that is not that of two.
    """
    count = len(source)
    if pair is None:
        if count % 2:
            raise ValueError(f"{count} records are no pairs; expected two consecutive ones each.")
        return np.arange(count).reshape(-1, 2)
    values = column(source, pair)
    names, first, counts = np.unique(values, return_index=True, return_counts=True)
    if (counts != 2).any():
        name = names[counts != 2].tolist()[0]
        raise ValueError(
            f"{pair}={name!r} is of {counts[counts != 2][0]} records; expected two of each."
        )
    ordered = np.argsort(values, kind="stable").reshape(-1, 2)
    return ordered[np.argsort(first, kind="stable")]


def pair_texts(source: Source, rows: np.ndarray, template: str) -> np.ndarray:
    """The first caption of each record in the template, [p, 2]; ValueError where there is none."""
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
