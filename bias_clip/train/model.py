"""The model of a run on its mesh: which kernel runs where, and what its parameters look like."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bias_clip.data.image import PixelRange, make_pixel_fn
from bias_clip.data.image.color import to_normal, to_range
from bias_clip.models.two_towers import Model, make_model
from bias_clip.train.sharding import tree_shardings

_PLATFORMS = {"pallas": ("tpu", "cpu"), "cudnn": ("gpu", "cuda")}  # "cpu": interpreted


def make_model_on(arguments: Mapping[str, Any], mesh: Mesh) -> Model:
    """Returns the model, with `mesh` set while its towers are traced.

    Each device runs an attention kernel on its own rows, so the kernel needs the mesh.

    Args:
      arguments: of `make_model`.
      mesh: from `make_mesh`.

    Raises:
      ValueError: what `make_model` raises, and if the attention is a kernel for other devices.
    """
    model = make_model(**arguments)
    platform = mesh.devices.flat[0].platform
    if not has_kernel(model.attention, platform):
        raise ValueError(
            f"config.model.attention is {model.attention!r}, a kernel for "
            f"{_PLATFORMS[model.attention][0]}, but the devices are {platform!r}; use 'xla', which runs "
            "on all."
        )

    def known(fun: Callable) -> Callable:
        @functools.wraps(fun)
        def call(*args: Any, **kwargs: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return fun(*args, **kwargs)

        return call

    return model._replace(apply=known(model.apply), features=known(model.features))


def has_kernel(attention: str, platform: str) -> bool:
    """Whether `config.model.attention` runs on devices of `platform`; one without a kernel runs on all."""
    return platform in _PLATFORMS.get(attention, (platform,))


def abstract_params(model: Model, rules: Any, mesh: Mesh) -> Any:
    """Returns the model's parameters as ShapeDtypeStructs with shardings, to restore them by.

    Args:
      model: from `make_model_on`.
      rules: `config.sharding`.
      mesh: from `make_mesh`.
    """
    # Shapes only: nothing is drawn, so the key does not matter.
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(with_sharding, shapes, tree_shardings(shapes, rules, mesh))


def with_sharding(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape with its sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def has_frozen_tower(frozen: Mapping[str, Any]) -> bool:
    """Whether all parameters of a tower are frozen; `frozen` is a tree of booleans."""
    towers = [jax.tree.leaves(frozen[name]) for name in ("img", "txt") if name in frozen]
    return any(all(leaves) for leaves in towers)


def towers_apart(apply: Callable) -> Callable:
    """Returns `apply` that calls each tower by itself, for models of which one is frozen.

    Called together, the towers are bound by `backward_first`, which would ask a frozen text tower for its
    gradient. The order that it keeps saves memory only where both towers have a backward pass.
    """

    def apply_apart(params, image, text):
        if image is None or text is None:
            return apply(params, image, text)
        return apply(params, image, None)._replace(ztxt=apply(params, None, text).ztxt)

    return apply_apart


def on_bytes(apply: Callable, ops: str) -> Callable:
    """Returns `apply` for images as they come from the host: bytes are scaled as the tower takes them.

    float32 images already have that range. Bytes are a quarter of the transfer to the device.

    Args:
      apply: of a model.
      ops: `config.data.image`, whose last operation is the range.

    Raises:
      ValueError: the last operation is neither `value_range` nor `normalize`.
    """
    _, pixels = make_pixel_fn(ops)
    if pixels is None:
        raise ValueError(
            f"config.data.image is {ops!r}; expected value_range or normalize as the last operation, "
            'such as "decode|resize(224)|value_range(-1,1)".'
        )

    scale = to_range if isinstance(pixels, PixelRange) else to_normal

    def apply_to_pixels(params, image, text):
        # By the dtype of the batch, which is known while tracing: a float32 image is already scaled.
        if image is not None and image.dtype == jnp.uint8:
            image = scale(image, *pixels)
        return apply(params, image, text)

    return apply_to_pixels
