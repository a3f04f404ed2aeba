"""Suites of captions: retrieval both ways, and whom captions without gender find."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from bias_clip.data.bad_records import visible_captions
from bias_clip.evals.encode import Encode
from bias_clip.evals.ranking import best_ranks, row_blocks, similarity, unit
from bias_clip.evals.resampling import Draws, Named, centered, image_times, nan_mean, sum_draws
from bias_clip.evals.suites.clip_benchmark import retrieve
from bias_clip.evals.suites.families.rankings import affordable, first_counts, take_first
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.measured import Draw, Evaluate, Measured, exact_hits
from bias_clip.evals.suites.neutral import (
    GenderWords,
    caption_gender,
    neutral_caption,
    neutral_captions,
)
from bias_clip.evals.suites.spec import Suite
from bias_clip.evals.suites.top_k import bias_at_k


def retrieval_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """R@K of images and captions. Images are resampled, each with all its captions, as queries only."""
    ks = tuple(suite.options["ks"])
    # An image whose caption is missing or blank stays a candidate; nobody can search for it.
    captions = [visible_captions(data.source[i]) for i in range(len(data.source))]
    if suite.options.get("captions") == "first":
        captions = [own[:1] for own in captions]
    texts = [text for own in captions for text in own]
    # The image of each caption, [m].
    index = np.repeat(np.arange(len(captions)), [len(own) for own in captions])

    def evaluate(encode: Encode) -> dict[str, Measured]:
        images, found = encode.images(data.source), encode.texts(texts)
        own, theirs = (
            retrieve(images, found, index, ks=ks, official=official) for official in (False, True)
        )
        # Ranks once: resamples need only whether each query hit.
        ranks = retrieval_ranks(images, found, index)
        hits = {f"i2t_r{k}": ranks[0] < k for k in ks}  # of images; captions of one image cluster
        draw = _recall_draws(*ranks, index, ks, data.clusters)
        tested = exact_hits(hits, data.clusters)
        return {"all": Measured(own, draw, official=theirs, hits=tested)}

    return evaluate


def neutral_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """Bias@K of captions in neutral words, beside R@K. A resampled image brings its caption along."""
    words, ks = GenderWords(**suite.words), tuple(suite.options["ks"])
    captions = [data.source[i]["captions"][0] for i in range(len(data.source))]
    genders = np.array([caption_gender(caption, words) for caption in captions])
    neutral = [neutral_caption(caption, words) for caption in captions]

    def evaluate(encode: Encode) -> dict[str, Measured]:
        z, own, without = (
            unit(x, dtype=np.float64)
            for x in (encode.images(data.source), encode.texts(captions), encode.texts(neutral))
        )
        found, theirs = (
            neutral_captions(z, own, without, genders, ks=ks, official=official)
            for official in (False, True)
        )
        rows = np.arange(len(z))
        ranks = best_ranks(own, z, rows, rows)
        hits = {f"t2i_r{k}": ranks < k for k in ks}
        sizes = {f"{b}_{k}": int(np.sum(genders >= 0)) for b in ("bias", "bias_abs") for k in ks}
        draw = _neutral_draws(z, without, genders, hits, ks)
        return {"all": Measured(found, draw, official=theirs, hits=hits, sizes=sizes)}

    return evaluate


def retrieval_ranks(
    images: Float[np.ndarray, "n d"],
    texts: Float[np.ndarray, "m d"],
    text_images: Int[np.ndarray, " m"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Of each image the rank of its best caption, of each caption the rank of its image."""
    zimg, ztxt = unit(images, dtype=np.float64), unit(texts, dtype=np.float64)
    own = np.arange(len(text_images))
    return best_ranks(zimg, ztxt, text_images, own), best_ranks(ztxt, zimg, own, text_images)


def _recall_draws(
    of_images: Int[np.ndarray, " n"],
    of_texts: Int[np.ndarray, " m"],
    text_images: Int[np.ndarray, " m"],
    ks: Sequence[int],
    clusters: Int[np.ndarray, " n"] | None,
) -> Draw:
    n, m = len(of_images), len(of_texts)
    number = np.bincount(text_images, minlength=n)
    columns: dict[str, np.ndarray] = {"texts": number, "captioned": number > 0}
    for k in ks:
        # Summed by image, because an image is resampled with all its captions.
        columns[f"t2i_r{k}"] = np.bincount(text_images, of_texts < k, minlength=n)
        columns[f"i2t_r{k}"] = (of_images < k) & (number > 0)

    def value(t: Named) -> Named:
        found = {}
        for k in ks:
            # As `retrieve`, which has no number for a cut-off above the candidates.
            missing = {way: np.nan if k > size else 1.0 for way, size in (("t2i", n), ("i2t", m))}
            found[f"t2i_r{k}"] = t[f"t2i_r{k}"] / t["texts"] * missing["t2i"]
            found[f"i2t_r{k}"] = t[f"i2t_r{k}"] / t["captioned"] * missing["i2t"]
        return found

    return lambda num, seed: sum_draws(columns, value, num=num, seed=seed, clusters=clusters)


def _neutral_draws(
    z: Float[np.ndarray, "n d"],
    queries: Float[np.ndarray, "n d"],
    genders: Int[np.ndarray, " n"],
    hits: Mapping[str, np.ndarray],
    ks: Sequence[int],
) -> Draw:
    n = len(z)

    def draw(num: int, seed: int) -> Draws:
        size = affordable(num, queries=n, k=2 * max(ks) + 50)
        times = image_times(n, num=size, seed=seed)
        weights = times.astype(np.float64)
        # Per resample a sum and a count: the table of queries and resamples, [n, r], would be large.
        total = {key: np.zeros((2, size)) for k in ks for key in (f"bias_{k}", f"bias_abs_{k}")}
        whole: dict[str, list[np.ndarray]] = {f"bias_{k}": [] for k in ks}
        for block in row_blocks(n, n):
            scores = similarity(queries[block], z)
            for k, column in zip(ks, bias_at_k(scores, genders, ks=ks).T, strict=True):
                whole[f"bias_{k}"].append(column)
            for q, row in enumerate(scores, block.start):
                for k in ks:
                    taken = take_first(row, times, k=min(k, n))
                    men, women = first_counts(taken, genders, num_names=2).T
                    some = men + women > 0
                    bias = (men - women) / np.maximum(men + women, 1)
                    for key, v in ((f"bias_{k}", bias), (f"bias_abs_{k}", np.abs(bias))):
                        # A query counts as often as its own image was drawn; one that finds nobody counts
                        # nowhere.
                        total[key] += np.where(some, weights[:, q], 0) * np.stack(
                            [v, np.ones(size)]
                        )
        values = {key: np.concatenate(parts) for key, parts in whole.items()}
        values |= {key.replace("bias_", "bias_abs_"): np.abs(v) for key, v in values.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = {key: v[0] / v[1] for key, v in total.items()}
        bias = centered(Draws({key: nan_mean(values[key]) for key in drawn}, drawn, n, {}))
        recall = {key: weights @ own / n for key, own in hits.items()}
        found = {key: float(own.mean()) for key, own in hits.items()}
        return Draws(bias.whole | found, bias.drawn | recall, n, {})

    return draw
