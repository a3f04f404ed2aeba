"""The training loss and its accuracies on unseen batches: a health check, not a benchmark."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from bias_clip.data.sources import Source
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.quality.retrieval import read_captions
from bias_clip.evals.ranking import similarity
from bias_clip.evals.results import EvalResult
from bias_clip.losses import sigmoid_loss, softmax_loss

DESCRIPTION = Description(
    "health",
    "Within batches of {pairs} unseen pairs in all; both depend on the batch size.",
    {
        "acc_img": Metric("image finds text", "share", "higher", True, "chance", chart="batches"),
        "acc_txt": Metric("text finds image", "share", "higher", True, "chance", chart="batches"),
        "loss": Metric("loss per pair", "nats", "lower", chart="loss", short="loss"),
        "chance": Metric("accuracy by chance", "share"),
        "pairs": count("pairs"),
    },
)


@jax.jit
def _softmax(zimg: Array, ztxt: Array, scale: Array, bias: Array) -> Float[Array, " b"]:
    return softmax_loss(zimg, ztxt, scale=scale)  # a bias would change nothing here


@jax.jit
def _sigmoid(zimg: Array, ztxt: Array, scale: Array, bias: Array) -> Float[Array, " b"]:
    return sigmoid_loss(zimg, ztxt, scale=scale, bias=bias)


LOSSES: dict[str, Callable] = {"sigmoid": _sigmoid, "softmax": _softmax}


class BatchScores(NamedTuple):
    """One value per pair of a batch; see `batch_scores`."""

    loss: Float[np.ndarray, " b"]
    image_finds_text: Bool[np.ndarray, " b"]
    text_finds_image: Bool[np.ndarray, " b"]


def batch_scores(
    zimg: Float[np.ndarray, "b d"],
    ztxt: Float[np.ndarray, "b d"],
    *,
    scale: float,
    bias: float = 0.0,
    loss: str = "softmax",
) -> BatchScores:
    """The loss of each pair within its batch, and whether each member is the other's nearest.

    Ties go to the smaller index. Pass the batch without padding.

    Raises:
      ValueError: an unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; expected one of {sorted(LOSSES)}.")
    # argmax takes the first of equal scores: a text that the batch has twice counts as wrong once.
    scores, own = similarity(zimg, ztxt), np.arange(len(zimg))
    return BatchScores(
        np.asarray(LOSSES[loss](zimg, ztxt, scale, bias)),
        scores.argmax(axis=1) == own,
        scores.argmax(axis=0) == own,
    )


def make_contrastive(
    source: Source, *, batch_size: int = 256, loss: str = "softmax", seed: int = 0
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: loss and accuracies within batches of the source's first captions.

    Metrics: loss, acc_img (the image finds its text), acc_txt, chance, pairs. All depend on the
    batch size, and a caption that occurs twice in a batch counts as wrong once. So compare runs with
    each other, not with papers.

    Args:
      source: images with captions; those without a caption are left out.
      batch_size: number of pairs that compete; the last batch may be smaller.
      loss: "softmax" or "sigmoid", with the scale and bias of the model.
      seed: assigns pairs to batches, the same for every checkpoint.

    Raises:
      ValueError: an unknown loss, a batch_size below 2, no captions.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; expected one of {sorted(LOSSES)}.")
    if batch_size < 2:
        raise ValueError(
            f"batch_size is {batch_size}; expected at least 2 pairs, so that they compete."
        )
    captions = read_captions(source, "first")
    rows = np.array([i for i, texts in enumerate(captions) if texts])
    # Shuffled: neighbours in a source are often alike, which would make their batch harder.
    rows = np.random.default_rng(seed).permutation(rows)
    strings = [captions[i][0] for i in rows]
    batches = np.split(np.arange(len(rows)), range(batch_size, len(rows), batch_size))

    def evaluate(encode: Encode) -> EvalResult:
        zimg, ztxt = encode.images(source)[rows], encode.texts(strings)
        scored = [
            batch_scores(zimg[b], ztxt[b], scale=encode.scale, bias=encode.bias, loss=loss)
            for b in batches
        ]
        metrics = {
            "loss": float(np.concatenate([s.loss for s in scored]).mean()),
            "acc_img": float(np.concatenate([s.image_finds_text for s in scored]).mean()),
            "acc_txt": float(np.concatenate([s.text_finds_image for s in scored]).mean()),
            # The mean over pairs of 1 / (size of the batch): each batch gives 1 in all.
            "chance": len(batches) / len(rows),
            "pairs": float(len(rows)),
        }
        return EvalResult(metrics, {"kind": "contrastive"})

    return evaluate
