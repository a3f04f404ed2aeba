"""Cheaper steps in the first part of a run: smaller images, a part of the patches, shorter texts.

The parameters are those of full steps, so nothing changes in a checkpoint: positions are resampled inside of
a step. See `models.two_towers.Light` for what the towers do.

On the emoji run smaller images cost most of the quality and shorter texts none (docs/speed.md).

Reference: Li et al., Scaling Language-Image Pre-training via Masking, 2023 (patches); Li et al., An Inverse
Scaling Law for CLIP Training, 2023 (smaller images and shorter texts, then a short part at full size).
Differs from both: the end of a text is kept when it is cut, and images are made smaller by averaging
(a triangle filter) on the device.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from bias_clip.models.two_towers import Light, Model
from bias_clip.models.vit import grid_side, parse_variant
from bias_clip.train.model import on_bytes
from bias_clip.train.sharding import batch_sharding


class LightSteps(NamedTuple):
    """The light steps of a run.

    Attributes:
      until: the number of light steps; those after them are full.
      apply: as that of a model, for images as `inputs` makes them.
      inputs: `(step, batch) -> batch`, whose images come with the patches that they keep in this step.
      train_step: jitted, as that of full steps.
    """

    until: int
    apply: Callable
    inputs: Callable
    train_step: Any


def make_light(
    arguments: Mapping[str, Any],
    model: Model,
    mesh: Mesh,
    *,
    ops: str,
    seed: int,
    size: int | None = None,
    length: int | None = None,
    patches: float | None = None,
) -> tuple[Callable, Callable]:
    """Returns `apply` and `inputs` of `LightSteps`.

    Args:
      arguments: of `make_model`.
      model: made from them.
      mesh: from `make_mesh`.
      ops: `config.data.image`, whose last operation is the range of pixels.
      seed: of the patches, with the number of the step.
      size: pixels of a side to which images are reduced; None: as they are.
      length: tokens that are read of each text; None: all.
      patches: share of the patches that each image keeps, drawn for each image and step; None: all.

    Raises:
      ValueError: nothing is left out, or a number is out of range.
    """
    size, length, number, kept = check_light(arguments, size, length, patches)
    key = jax.random.key(seed, impl="threefry2x32")

    def inputs(step: Int[Array, ""], batch: dict[str, Any]) -> dict[str, Any]:
        drawn = None
        if kept < number:
            drawn = draw_patches(jax.random.fold_in(key, step), len(batch["text"]), number, kept)
            drawn = jax.lax.with_sharding_constraint(drawn, batch_sharding(mesh))
        return batch | {"image": (batch["image"], drawn)}

    def apply(params: Any, image: Any, text: Any) -> Any:
        pixels, drawn = (None, None) if image is None else image

        def towers(params, pixels, text):
            if pixels is not None:
                shape = (len(pixels), size, size, pixels.shape[-1])
                pixels = jax.image.resize(pixels, shape, "linear")
            return model.apply(params, pixels, text, light=Light(size, drawn, length))

        return on_bytes(towers, ops)(params, pixels, text)

    return apply, inputs


def draw_patches(key: Key[Array, ""], rows: int, number: int, kept: int) -> Int[Array, "b k"]:
    """`kept` of `number` patches for each of `rows` images, all subsets alike, in the order of the grid."""
    chances = jax.random.uniform(key, (rows, number))
    return jnp.sort(jax.lax.top_k(chances, kept)[1], axis=1)


def check_light(
    arguments: Mapping[str, Any], size: int | None, length: int | None, patches: float | None
) -> tuple[int, int, int, int]:
    """Returns size and length of light steps, the patches of an image, and how many are kept.

    Raises: ValueError as `make_light`.
    """
    image, text = arguments["image"], arguments["text"]
    if size is None and length is None and patches is None:
        raise ValueError(
            "light steps leave nothing out: give size, length or patches, or set it to None."
        )
    for name, got, whole in (("size", size, image["size"]), ("length", length, text["length"])):
        if got is not None and not 1 <= got <= whole:
            raise ValueError(f"{name} is {got}; expected 1 to {whole}, that of full steps.")
    if patches is not None and not 0 < patches <= 1:
        raise ValueError(f"patches is {patches}; expected a share above 0 and at most 1.")
    size, length = size or image["size"], length or text["length"]
    number = grid_side(image["variant"], size, parse_variant(image["variant"])[1]) ** 2
    return size, length, number, max(1, round(number * (1.0 if patches is None else patches)))
