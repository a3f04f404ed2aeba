"""Hugging Face's layout: `config.json`, and names of transformers' SigLIP, SigLIP 2 and CLIP."""

from collections.abc import Mapping
from typing import Any

from bias_clip.pretrained.files.tensors import Tensor
from bias_clip.pretrained.layouts.describe import (
    Described,
    depth_of,
    section,
    shape_of,
    square,
    whole,
)
from bias_clip.pretrained.layouts.table import (
    FLAT_PATCH,
    HEADS,
    HEADS_BIAS,
    ONE,
    OUT,
    PATCH,
    POSITIONS,
    TOKEN,
    TURNED,
    Entry,
    joined,
    layers,
    linear,
    norm,
)

NAME = "hugging_face"
CONFIG = "config.json"

ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}

# Configs state only what differs from these defaults, and old configs almost nothing.
_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_IMAGE = {**_TEXT, "num_attention_heads": 12, "num_channels": 3}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP_TEXT = {
    **_TEXT,
    **_SIGLIP,
    "num_attention_heads": 12,
    "vocab_size": 32_000,
    "max_position_embeddings": 64,
}
DEFAULTS = {
    "siglip": (
        {**_IMAGE, **_SIGLIP, "image_size": 224, "patch_size": 16, "vision_use_head": True},
        _SIGLIP_TEXT,
    ),
    "siglip2": (
        {**_IMAGE, **_SIGLIP, "patch_size": 16, "num_patches": 256, "vision_use_head": True},
        _SIGLIP_TEXT,
    ),
    "clip": (
        {**_IMAGE, **_CLIP, "image_size": 224, "patch_size": 32},
        {
            **_CLIP,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "vocab_size": 49_408,
            "max_position_embeddings": 77,
            "eos_token_id": 49_407,
        },
    ),
}
"""Model type to the defaults of its image and of its text config, as of transformers 5.24."""

_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_GRID = "vision_model.embeddings.position_embedding.weight"
_TOKENS = "text_model.embeddings.token_embedding.weight"
_LENGTH = "text_model.embeddings.position_embedding.weight"
_CLASS = "vision_model.embeddings.class_embedding"
_OLD_EOS = 2  # in old configs it means: the token with the largest id


def recognises(tensors: dict[str, Tensor]) -> bool:
    """Whether the names are of this layout."""
    return _PATCHES in tensors or _TOKENS in tensors


def describe(tensors: dict[str, Tensor], config: Mapping[str, Any] | None) -> Described:
    """Describes the model by its config; without one by the shapes, which do not say everything.

    Raises:
      ValueError: an unknown model type or activation, a MAP head that the config leaves out.
    """
    kind = _model_type(tensors, config)
    image = text = None
    if _PATCHES in tensors:
        image = _image(tensors, kind, config)
    if _TOKENS in tensors:
        text = _text(tensors, kind, config)
    clip = kind == "clip"
    entries = []
    if image is not None:
        flat = len(tensors[_PATCHES].shape) == 2
        entries += table_of_image(clip=clip, flat=flat, head="out_dim" in image)
    if text is not None:
        entries += table_of_text(clip=clip, head="out_dim" in text)
    entries += table_of_scalars(clip=clip)
    return Described(
        layout=NAME,
        family="clip" if clip else "siglip",
        image=image,
        text=text,
        bias="logit_bias" in tensors,
        entries=entries,
        tensors=tensors,
        ignored=r"(vision_model|text_model)\.embeddings\.position_ids$",
        resampling=("linear_antialias" if kind == "siglip2" else "bicubic", None),
        notes=(),
        source=CONFIG,
    )


def table_of_image(*, clip: bool, flat: bool, head: bool) -> list[Entry]:
    """The table of the image tower; `flat` is NaFlex's patch embedding."""
    top = "vision_model"
    kernel = Entry("img/embedding/kernel", _PATCHES, FLAT_PATCH if flat else PATCH)
    found = [kernel, Entry("img/pos_embedding", _GRID, POSITIONS), *_blocks("img", top)]
    found += norm("img/encoder/norm", f"{top}.post_layernorm")
    if clip:
        found += [Entry("img/class_token", _CLASS, TOKEN)]
        found += norm("img/pre_norm", f"{top}.pre_layrnorm")  # misspelt so in all published files
        return found + [Entry("img/head/kernel", "visual_projection.weight", TURNED)] * head
    found += [Entry("img/embedding/bias", f"{top}.embeddings.patch_embedding.bias")]
    found += [Entry("img/map/probe", f"{top}.head.probe")]
    attention = f"{top}.head.attention"
    names = (f"{attention}.in_proj_weight", f"{attention}.in_proj_bias")
    found += joined("img/map/attention", ("query", "key", "value"), *names)
    found += linear("img/map/attention/out", f"{attention}.out_proj", OUT)
    found += norm("img/map/norm", f"{top}.head.layernorm")
    for part in ("fc1", "fc2"):
        found += linear(f"img/map/mlp/{part}", f"{top}.head.mlp.{part}")
    return found


def table_of_text(*, clip: bool, head: bool) -> list[Entry]:
    """The table of the text tower."""
    top = "text_model"
    found = [Entry("txt/embedding", _TOKENS), Entry("txt/pos_embedding", _LENGTH, POSITIONS)]
    found += _blocks("txt", top) + norm("txt/encoder/norm", f"{top}.final_layer_norm")
    if clip:
        return found + [Entry("txt/head/kernel", "text_projection.weight", TURNED)] * head
    return found + linear("txt/head", f"{top}.head") * head


def table_of_scalars(*, clip: bool) -> list[Entry]:
    """The table of scale and bias."""
    # SigLIP stores scale and bias as [1], CLIP the scale as [].
    axes = None if clip else ONE
    return [Entry("log_scale", "logit_scale", axes), Entry("bias", "logit_bias", axes)]


def _blocks(ours: str, theirs: str) -> list[Entry]:
    at = layers(ours, f"{theirs}.encoder.layers.{{i}}")
    found = norm(*at("norm1", "layer_norm1")) + norm(*at("norm2", "layer_norm2"))
    for part, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        found += linear(*at(f"attention/{part}", f"self_attn.{name}"), HEADS, HEADS_BIAS)
    found += linear(*at("attention/out", "self_attn.out_proj"), OUT)
    return found + linear(*at("mlp/fc1", "mlp.fc1")) + linear(*at("mlp/fc2", "mlp.fc2"))


def _model_type(tensors: dict[str, Tensor], config: Mapping[str, Any] | None) -> str:
    if config is None:
        # SigLIP has no class token, and its text tower ends in a head of another name.
        clip = _CLASS in tensors or "text_projection.weight" in tensors
        flat = _PATCHES in tensors and len(tensors[_PATCHES].shape) == 2
        return "clip" if clip else "siglip2" if flat else "siglip"
    # Single towers are published as "siglip_vision_model" and "clip_text_model".
    kind = str(config.get("model_type", "nothing")).removesuffix("_model")
    kind = kind.removesuffix("_vision").removesuffix("_text")
    if kind not in DEFAULTS:
        raise ValueError(
            f"{CONFIG} has model_type {config.get('model_type')!r}; expected one of "
            f"{', '.join(DEFAULTS)}."
        )
    return kind


def _section(config: Mapping[str, Any], which: str) -> dict[str, Any]:
    """The config of a tower: a section, or the top level for a single tower.

    In old files of CLIP the section `..._dict` takes precedence.
    """
    if str(config.get("model_type")).endswith(f"{which}_model"):
        return dict(config)
    names = (f"{which}_config", f"{which}_config_dict")
    return section(config, names[0], CONFIG) | section(config, names[1], CONFIG)


def _common(values: Mapping[str, Any]) -> dict[str, Any]:
    activation = values["hidden_act"]
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{CONFIG} has the unknown activation hidden_act {activation!r}; expected one of "
            f"{', '.join(ACTIVATIONS)}."
        )
    return {
        "width": whole(values, "hidden_size", CONFIG),
        "depth": whole(values, "num_hidden_layers", CONFIG),
        "mlp_dim": whole(values, "intermediate_size", CONFIG),
        "num_heads": whole(values, "num_attention_heads", CONFIG),
        "activation": ACTIVATIONS[activation],
        "epsilon": float(values["layer_norm_eps"]),
    }


def _image(
    tensors: dict[str, Tensor], kind: str, config: Mapping[str, Any] | None
) -> dict[str, Any]:
    if config is None:
        raw = _image_by_shape(tensors, kind)
    else:
        # What the config leaves out is the library's default, not ours.
        values = DEFAULTS[kind][0] | _section(config, "vision")
        if values.get("vision_use_head") is False:
            raise ValueError(
                f"{CONFIG} has vision_use_head false: such a tower does not end in one vector."
            )
        patch = whole(values, "patch_size", CONFIG)
        if kind == "siglip2":
            side = square(whole(values, "num_patches", CONFIG), "num_patches", CONFIG)
            size = side * patch
        else:
            size = whole(values, "image_size", CONFIG)
        raw = {**_common(values), "patch": patch, "size": size}
    if kind != "clip":
        return {**raw, "pool": "map"}
    if "visual_projection.weight" in tensors:
        raw["out_dim"] = shape_of(tensors, "visual_projection.weight", 2)[0]
    form = {"pool": "class", "class_token": True, "pre_norm": True}
    return {**raw, **form, "patch_bias": False, "head_bias": False}


def _image_by_shape(tensors: dict[str, Tensor], kind: str) -> dict[str, Any]:
    flat = kind == "siglip2"
    shape = shape_of(tensors, _PATCHES, 2 if flat else 4)
    file = tensors[_PATCHES].file
    patch = square(shape[1] // 3, _PATCHES, file) if flat else shape[-1]
    # CLIP's class token has a position of its own.
    count = shape_of(tensors, _GRID, 2)[0] - (kind == "clip")
    side = square(count, _GRID, file)
    return {**_sizes_by_shape(tensors, "vision_model", kind), "patch": patch, "size": side * patch}


def _sizes_by_shape(tensors: dict[str, Tensor], top: str, kind: str) -> dict[str, Any]:
    hidden = shape_of(tensors, f"{top}.encoder.layers.0.mlp.fc1.weight", 2)
    sizes = {"width": hidden[1], "mlp_dim": hidden[0]}
    sizes["depth"] = depth_of(tensors, rf"{top}\.encoder\.layers\.(\d+)\.")
    # SigLIP has one activation and one epsilon; CLIP has two activations, which no tensor shows.
    return sizes | ({"epsilon": 1e-5} if kind == "clip" else {"activation": "gelu_tanh"})


def _text(
    tensors: dict[str, Tensor], kind: str, config: Mapping[str, Any] | None
) -> dict[str, Any]:
    if config is None:
        raw = _sizes_by_shape(tensors, "text_model", kind)
        raw["vocab_size"] = shape_of(tensors, _TOKENS, 2)[0]
        raw["length"] = shape_of(tensors, _LENGTH, 2)[0]
        pool = {}
    else:
        values = DEFAULTS[kind][1] | _section(config, "text")
        raw = _common(values)
        raw["vocab_size"] = whole(values, "vocab_size", CONFIG)
        raw["length"] = whole(values, "max_position_embeddings", CONFIG)
        pool = _pool_of_eos(values.get("eos_token_id")) if kind == "clip" else {}
    head = "text_projection.weight" if kind == "clip" else "text_model.head.weight"
    if head in tensors:
        raw["out_dim"] = shape_of(tensors, head, 2)[0]
    if kind == "clip":
        return {**raw, **pool, "mask": "causal", "head_bias": False}
    return {**raw, "pool": "last"}


def _pool_of_eos(eos: Any) -> dict[str, Any]:
    if isinstance(eos, list) and len(eos) == 1:
        eos = eos[0]
    if type(eos) is not int:
        raise ValueError(f"{CONFIG} has eos_token_id {eos!r}; expected one integer.")
    return {"pool": "argmax"} if eos == _OLD_EOS else {"pool": "eos", "eos_id": eos}
