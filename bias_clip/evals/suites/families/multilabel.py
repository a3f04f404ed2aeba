"""Resamples of mean average precision: an image stands in the ranking as often as it is drawn."""

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.evals.quality.zeroshot import class_embeddings
from bias_clip.evals.ranking import similarity, unit
from bias_clip.evals.resampling import Draws, centered, image_times, nan_mean
from bias_clip.evals.suites.measured import Draw

MAX_DRAWS = 300  # each costs a pass over images times classes


def multilabel_draws(
    images: Float[np.ndarray, "n d"],
    prompts: Float[np.ndarray, "c t d"],
    labels: Bool[np.ndarray, "n c"],
) -> Draw:
    """Draws of `map`, one class after another, so that no table of images and classes is kept."""
    z, zcls = unit(images, dtype=np.float64), class_embeddings(prompts, dtype=np.float64)

    def draw(num: int, seed: int) -> Draws:
        times = image_times(len(z), num=min(num, MAX_DRAWS), seed=seed)
        whole, drawn = [], []
        for c in range(len(zcls)):
            # By the sensible definition a class without an image is left out, and so it is in the
            # resamples.
            if not labels[:, c].any():
                continue
            scores = similarity(z, zcls[c : c + 1])[:, 0]
            order = np.argsort(-scores, kind="stable")
            hit = labels[order, c].astype(np.float64)
            whole.append(weighted_precision(np.ones((1, len(z)), np.int64), hit)[0])
            drawn.append(weighted_precision(times[:, order], hit))
        if not whole:
            return Draws({"map": float("nan")}, {"map": np.full(1, np.nan)}, len(z), {})
        table = np.stack(drawn)
        some = np.isfinite(table)
        means = np.where(some, table, 0).sum(axis=0) / np.maximum(some.sum(axis=0), 1)
        return centered(Draws({"map": nan_mean(np.array(whole))}, {"map": means}, len(z), {}))

    return draw


def weighted_precision(
    times: Int[np.ndarray, "r n"], hit: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " r"]:
    """Average precision of rankings in which the image at rank i stands times_i times.

    ::

        sum_i times_i hit_i P_i / sum_i times_i hit_i,   P_i = hits up to rank i / images up to rank i

    NaN where a resample has no image of the class.
    """
    right = times * hit
    precision = np.cumsum(right, axis=1) / np.maximum(np.cumsum(times, axis=1), 1)
    number = right.sum(axis=1)
    return (right * precision).sum(axis=1) / np.where(number > 0, number, np.nan)
