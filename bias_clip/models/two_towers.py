"""The model of this library: an image tower, a text tower, and the loss's scale and bias.

Parameters are a nested dict of float32 arrays. Leaves of one block are stacked over depth. The table
gives their names in the public SigLIP tree (big_vision; `{i}` is a layer, absent in its scanned
checkpoints):

| here | there |
|---|---|
| `log_scale`, `bias` (shape `()`) | `t`, `b` (shape `(1,)`) |
| `img/embedding/*`, `img/pos_embedding` | same |
| `img/encoder/blocks/norm1/*`, `norm2` | `img/Transformer/encoderblock_{i}/LayerNorm_0/*`, `_1` |
| `.../attention/{query,key,value,out}/*` | `.../MultiHeadDotProductAttention_0/{query,...}/*` |
| `.../mlp/fc1/*`, `fc2` | `.../MlpBlock_0/Dense_0/*`, `Dense_1` |
| `img/encoder/norm/*` | `img/Transformer/encoder_norm/*` |
| `img/map/{probe,attention,norm,mlp}` | `img/MAPHead_0/{probe,MultiHead...,LayerNorm_0,MlpBlock_0}` |
| `txt/embedding` | `txt/Embed_0/embedding` |
| `txt/pos_embedding`, `txt/head/*` | same |
| `txt/encoder/...` | `txt/Encoder_0/...` |

All shapes agree except for the leading depth axis and the two scalars. `img/stem/*` (the "conv" stem)
and CLIP's `img/class_token` and `img/pre_norm/*` have no counterpart there. For the names in other
layouts see `bias_clip.pretrained`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bias_clip.core.registry import check_arguments
from bias_clip.models import initializers
from bias_clip.models.text import TextTransformer
from bias_clip.models.vit import ViT, choose

DTYPES = ("float32", "bfloat16")


class Outputs(NamedTuple):
    """Unit-norm float32 embeddings, and the scale and bias that turn their products into logits."""

    zimg: Float[Array, "b d"] | None
    ztxt: Float[Array, "b d"] | None
    scale: Float[Array, ""]
    bias: Float[Array, ""]


class Features(NamedTuple):
    """The towers' results before normalisation, in float32."""

    image: Float[Array, "b d"] | None
    text: Float[Array, "b d"] | None


class Light(NamedTuple):
    """What a cheap training step leaves out; the parameters are those of whole inputs.

    Attributes:
      size: pixels of a side of the images, at most those of the tower.
      kept: numbers of the patches that each image keeps, row by row in the grid of its size; None: all.
      length: tokens that are read of each text; None: all.
    """

    size: int
    kept: Int[Array, "b k"] | None = None
    length: int | None = None


class Model(NamedTuple):
    """Pure functions: `init(key) -> params`, `apply(params, image, text) -> Outputs`, and
    `features(params, image, text) -> Features`, which `apply` scales to unit norm.

    Both take `light`, a `Light`, for steps that see less of each input.
    """

    init: Callable[..., Any]
    apply: Callable[..., Outputs]
    features: Callable[..., Features]
    attention: str = "xla"


def make_model(
    *,
    image: Mapping[str, Any] | None,
    text: Mapping[str, Any] | None,
    scale_init: float = 10.0,
    bias_init: float | None = -10.0,
    dtype: str = "float32",
    remat: str = "none",
    scan: bool = True,
    attention: str = "xla",
) -> Model:
    """Makes a model of two towers with one embedding space: `logits = scale * zimg @ ztxt.T + bias`.

    `image` holds the arguments of `ViT`, `text` those of `TextTransformer`. Matrix products run in
    `dtype`; parameters, norms, softmax and the embeddings' norm are float32. `remat` is one of
    `encoder.REMAT_POLICIES`; `scan` chooses between a compiled loop over depth and an unrolled one;
    `attention` is one of `attention.ATTENTIONS` (the pooling head, with its one query, is "xla").
    If an input is None, its tower does not run and its embedding is None. `bias_init=None` leaves the
    bias out, as in CLIP; the outputs then have bias 0. A tower that is None is left out, and so are
    scale and bias, because they belong to pairs; the outputs then have 1 and 0.

    Returns:
      `Model`; its `init` works under `jax.eval_shape` and `jax.jit` with `out_shardings`.

    Raises:
      ValueError: an unknown name or argument, sizes that do not fit, towers of different widths.

    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.
    Differs from the authors' code: a zero vector normalises to zero with a zero gradient, where
    they divide by the norm plus 1e-8; a projection of the image tower does not start at zero.

    Example:
      model = make_model(
          image=dict(variant="B/16", size=224), text=dict(variant="B", vocab_size=32_000, out_dim=768)
      )
      params = jax.eval_shape(model.init, jax.random.key(0))
    """
    choose("dtype", dtype, DTYPES)
    if not 0 < scale_init < math.inf:
        raise ValueError(
            f"scale_init must be positive, since its log is learned: got {scale_init}."
        )
    if bias_init is not None and not math.isfinite(bias_init):
        raise ValueError(f"bias_init must be a finite number, or None: got {bias_init}.")
    # cuDNN's fused attention has no float32 kernel.
    if attention == "cudnn" and dtype != "bfloat16":
        raise ValueError(f"attention 'cudnn' needs dtype 'bfloat16': got {dtype!r}.")
    shared = {"remat": remat, "scan": scan, "attention": attention}
    img = None if image is None else _make_tower("image", ViT, image, shared)
    txt = None if text is None else _make_tower("text", TextTransformer, text, shared)
    scalars = _check_towers(img, txt, log_scale=math.log(scale_init), bias=bias_init)
    # Graphs and shapes are split once: `init` and `apply` are then functions of plain dicts.
    split = {name: nnx.split(x) for name, x in (("img", img), ("txt", txt)) if x is not None}

    def init(key: Array) -> dict[str, Any]:
        # A key for each tower even if one is left out, so that the other starts with the same numbers.
        keys = dict(zip(("img", "txt"), jax.random.split(key), strict=True))
        towers = {
            name: initializers.draw(keys[name], shapes) for name, (_, shapes) in split.items()
        }
        return towers | {name: jnp.full((), x, jnp.float32) for name, x in scalars.items()}

    def features(
        params: Mapping[str, Any],
        image: Float[Array, "b s s 3"] | None = None,
        text: Int[Array, "b l"] | None = None,
        *,
        light: Light | None = None,
    ) -> Features:
        fimg = ftxt = None
        if image is not None:
            size = _present("image", img).size if light is None else light.size
            _check_shape("image", image.shape[1:], (size, size, 3))
            tower = nnx.merge(split["img"][0], params["img"])
            kept = None if light is None else light.kept
            # float32 from here on: norms, logits and losses do not round to 8 bits.
            fimg = tower(image.astype(dtype), kept).astype(jnp.float32)
        if image is not None and text is not None:
            # Without this order XLA interleaves the towers' backward passes: with all regularisers, a
            # step of B/16 on v5e then needed 9 % more memory, now 0.3 % (docs/plans.md).
            txt_params, fimg = backward_first(params["txt"], fimg)
            params = {**params, "txt": txt_params}
        if text is not None:
            _check_shape("text", text.shape[1:], (_present("text", txt).length,))
            tower = nnx.merge(split["txt"][0], params["txt"])
            length = None if light is None else light.length
            ftxt = tower(text, dtype=dtype, length=length).astype(jnp.float32)
        return Features(fimg, ftxt)

    def apply(
        params: Mapping[str, Any],
        image: Float[Array, "b s s 3"] | None = None,
        text: Int[Array, "b l"] | None = None,
        *,
        light: Light | None = None,
    ) -> Outputs:
        found = features(params, image, text, light=light)
        zimg, ztxt = (None if x is None else unit_norm(x) for x in found)
        scale = jnp.exp(params["log_scale"]) if "log_scale" in scalars else jnp.ones(())
        return Outputs(zimg, ztxt, scale, params["bias"] if "bias" in scalars else jnp.zeros(()))

    return Model(init, apply, features, attention)


@jax.custom_vjp
def backward_first(params: Any, later: Array) -> tuple[Any, Array]:
    """Returns `(params, later)`; the gradient of `later` waits for that of `params`.

    Computations with these `params` therefore end their backward pass, and free their activations,
    before the computation of `later` begins its own. Values and gradients do not change. Reverse mode
    only.
    """
    return params, later


def _backward_first_forward(params: Any, later: Array) -> tuple[tuple[Any, Array], None]:
    return (params, later), None


def _backward_first_backward(_: None, grads: Any) -> Any:
    return jax.lax.optimization_barrier(grads)


backward_first.defvjp(_backward_first_forward, _backward_first_backward)


def unit_norm(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """`x / |x|` in float32; a zero row stays zero, with a zero gradient.

    So does a row whose squared length float32 cannot hold: `|x|` above 1.8e19, or below 1e-19. No tower that
    trains comes near to that.
    """
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    empty = square == 0  # not `~(square > 0)`, which would hide a NaN
    # The inner `where` keeps rsqrt(0) out of the branch that is not taken, which is differentiated too.
    return jnp.where(empty, 0.0, x * jax.lax.rsqrt(jnp.where(empty, 1.0, square)))


def count_parameters(params: Any) -> int:
    """Returns the number of parameters in a tree of arrays or of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _make_tower(
    what: str, module: type[Any], arguments: Mapping[str, Any], shared: Mapping[str, Any]
) -> Any:
    """Returns the module, after checking its arguments."""
    check_arguments(what, module, arguments, given=shared)
    return module(**arguments, **shared)


def _present(what: str, tower: Any) -> Any:
    if tower is None:
        raise ValueError(f"This model has no {what} tower: got {what}s, expected the other input.")
    return tower


def _check_towers(
    img: ViT | None, txt: TextTransformer | None, **scalars: float | None
) -> dict[str, float]:
    """Returns the scalars of the model: those that are not None, if it has both towers."""
    if img is None and txt is None:
        raise ValueError("A model needs a tower: got image=None and text=None.")
    if img is None or txt is None:
        return {}
    _check_widths(img, txt)
    return {name: value for name, value in scalars.items() if value is not None}


def _check_widths(img: ViT, txt: TextTransformer) -> None:
    widths = [
        tower.encoder.norm.bias.shape[0] if tower.head is None else tower.head.outputs[0]
        for tower in (img, txt)
    ]
    if widths[0] != widths[1]:
        raise ValueError(
            f"The towers must end in one width: got {widths[0]} for images and {widths[1]} for "
            "texts; set out_dim of one of them."
        )


def _check_shape(what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(got) != expected:
        raise ValueError(
            f"Wrong {what} shape: got {tuple(got)} after the batch axis, this model was made for "
            f"{expected}; change the preprocessing or the model's config."
        )
