"""Several models as one: concatenates their features, so that evaluators see a single model.

The stages of multistage contrastive learning are used in this way: each stage learns what earlier ones
left out.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.data.sources import Source
from bias_clip.evals.encode import Encode, make_encoder
from bias_clip.evals.ranking import unit

FORMS = ("raw", "unit")


class Stage(NamedTuple):
    """A trained model as one part of a concatenated representation.

    Attributes:
      image: maps float [b, h, w, 3] to features [b, d] before normalisation.
      text: maps int [b, l] to features before normalisation.
      image_fn: turns an image into an input of `image`, see `make_image_fn`.
      text_fn: turns a string into an input of `text`, see `make_text_fn`.
      scale: scale of the model's logits.
      bias: bias of the model's logits.
    """

    image: Callable[[np.ndarray], Any]
    text: Callable[[np.ndarray], Any]
    image_fn: Callable[[Any, np.random.Generator], np.ndarray]
    text_fn: Callable[[str], np.ndarray]
    scale: float
    bias: float


def join(parts: Sequence[Float[np.ndarray, "n _"]], *, form: str) -> Float[np.ndarray, "n d"]:
    """Concatenates the features of all stages; the result is normalised once, as a whole.

    ::

        raw:   [f_1, ..., f_S]                     longer features count more, as in the paper
        unit:  [f_1 / |f_1|, ..., f_S / |f_S|]     all stages count the same: the cosine of two rows
                                                   is the mean of the stages' cosines

    Raises:
      ValueError: an unknown form, or no stages.

    Reference: Zhang et al.: Learning the Unlearned: Mitigating Feature Suppression in Contrastive
    Learning, 2024; "raw" is what its released evaluation does.
    """
    if form not in FORMS or not parts:
        raise ValueError(
            f"got {form=}, {len(parts)} stages; expected one of {list(FORMS)}, and at least one."
        )
    rows = [np.asarray(part, np.float32) for part in parts]
    # [n, d_1 + ... + d_S]: the stages may differ in width.
    return np.concatenate([unit(x) if form == "unit" else x for x in rows], axis=1)


def concat_encode(
    stages: Sequence[Stage], *, form: str = "raw", batch_size: int, num_threads: int = 2
) -> Encode:
    """Returns the `Encode` of the stages' joined features.

    Its scale and bias are the means over the stages. Losses and probabilities depend on them, but
    rankings and accuracies do not. If the scales agree and the form is "unit", a logit is the mean of
    the stages' logits.

    Args:
      stages: models of any widths, image sizes and tokenisers, in any order.
      form: see `join`.
      batch_size: rows that a stage embeds at the same time.
      num_threads: threads that decode the next batch in the meantime.

    Raises:
      ValueError: as `join` and `make_encoder`.
    """
    # Raises for bad arguments before anything is embedded.
    join([np.zeros((1, 1))] * len(stages), form=form)
    raw = [_raw_encode(stage, batch_size, num_threads) for stage in stages]

    def images(source: Source) -> np.ndarray:
        return unit(join([encode.images(source) for encode in raw], form=form))

    def texts(strings: Sequence[str]) -> np.ndarray:
        return unit(join([encode.texts(strings) for encode in raw], form=form))

    scale, bias = (float(np.mean([getattr(s, name) for s in stages])) for name in ("scale", "bias"))
    return Encode(images, texts, scale, bias)


def _raw_encode(stage: Stage, batch_size: int, num_threads: int) -> Encode:
    encoder = make_encoder(
        embed_image=lambda _, x: stage.image(x),
        embed_text=lambda _, x: stage.text(x),
        image_fn=stage.image_fn,
        text_fn=stage.text_fn,
        batch_size=batch_size,
        num_threads=num_threads,
        # Lengths must survive: in the form "raw" they weight the stages.
        finish=lambda features: features,
    )
    return encoder(None, stage.scale, stage.bias)
