"""open_clip's layout: `open_clip_config.json`, and names of its own CLIP or of timm's SigLIP."""

import re
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
    OUT,
    PATCH,
    POSITIONS,
    TOKEN,
    Entry,
    joined,
    layers,
    linear,
    norm,
)
from bias_clip.pretrained.layouts.timm_names import activation_of, heads_of

NAME = "open_clip"
CONFIG = "open_clip_config.json"

_QKV = ("query", "key", "value")
_PATCHES = {"clip": "visual.conv1.weight", "siglip": "visual.trunk.patch_embed.proj.weight"}
_GRID = {"clip": "visual.positional_embedding", "siglip": "visual.trunk.pos_embed"}
_HEAD_WIDTH = 64  # unless the config says otherwise
_NOTE = (
    "open_clip runs {names} of SigLIP with erf GELU, 1e-3 off in the logits; here it runs with tanh GELU, "
    "as it was trained; give activation='gelu' to the tower for open_clip's own numbers."
)


def recognises(tensors: dict[str, Tensor]) -> bool:
    """Whether the names are of this layout."""
    return any(_PATCHES[kind] in tensors for kind in _PATCHES) or _prefix(tensors) is not None


def describe(tensors: dict[str, Tensor], config: Mapping[str, Any] | None) -> Described:
    """Reads sizes from shapes; heads, activation, mask and pooling from the config, if there is one.

    Raises:
      ValueError: the config has a feature that our towers do not have.
    """
    model = None if config is None else section(config, "model_cfg", CONFIG)
    kind = "siglip" if _is_siglip(tensors) else "clip"
    image = text = None
    prefix = _prefix(tensors)
    if _PATCHES[kind] in tensors:
        image = _timm_image(tensors, model) if kind == "siglip" else _clip_image(tensors, model)
    if prefix is not None:
        text = _text(tensors, prefix, model, kind)
    entries = []
    if image is not None and kind == "siglip":
        entries += table_of_timm()
    elif image is not None:
        entries += table_of_image(pre_norm=image["pre_norm"], head="out_dim" in image)
    if text is not None:
        assert prefix is not None
        bias = text.get("head_bias", True)
        entries += table_of_text(prefix=prefix, head="out_dim" in text, head_bias=bias)
    entries += [Entry("log_scale", "logit_scale"), Entry("bias", "logit_bias")]
    return Described(
        layout=NAME,
        family=kind,
        image=image,
        text=text,
        bias="logit_bias" in tensors,
        entries=entries,
        tensors=tensors,
        # Numbers and masks that some files hold beside the parameters.
        ignored=r"(input_resolution|context_length|vocab_size|(text\.)?attn_mask)$",
        resampling=("bicubic_antialias", "linear"),
        notes=_notes(model) if kind == "siglip" else (),
        source=CONFIG,
    )


def table_of_image(*, pre_norm: bool, head: bool) -> list[Entry]:
    """The table of CLIP's image tower."""
    found = [
        Entry("img/embedding/kernel", _PATCHES["clip"], PATCH),
        Entry("img/class_token", "visual.class_embedding", TOKEN),
        Entry("img/pos_embedding", _GRID["clip"], POSITIONS),
        *_blocks("img", "visual.transformer.resblocks.{i}"),
        *norm("img/encoder/norm", "visual.ln_post"),
    ]
    found += norm("img/pre_norm", "visual.ln_pre") * pre_norm
    return found + [Entry("img/head/kernel", "visual.proj")] * head  # a bare matrix, as ours


def table_of_text(*, prefix: str, head: bool, head_bias: bool) -> list[Entry]:
    """The table of the text tower; `prefix` is "text." in models with `custom_text`."""
    found = [
        Entry("txt/embedding", f"{prefix}token_embedding.weight"),
        Entry("txt/pos_embedding", f"{prefix}positional_embedding", POSITIONS),
        *_blocks("txt", f"{prefix}transformer.resblocks.{{i}}"),
        *norm("txt/encoder/norm", f"{prefix}ln_final"),
    ]
    if not head:
        return found
    if head_bias:
        return found + linear("txt/head", f"{prefix}text_projection")
    return [*found, Entry("txt/head/kernel", f"{prefix}text_projection")]


def table_of_timm() -> list[Entry]:
    """The table of SigLIP's image tower."""
    top = "visual.trunk"
    at = layers("img", f"{top}.blocks.{{i}}")
    found = [
        *linear("img/embedding", f"{top}.patch_embed.proj", PATCH),
        Entry("img/pos_embedding", _GRID["siglip"]),
        *norm(*at("norm1", "norm1")),
        *norm(*at("norm2", "norm2")),
        *_joined(at("attention", "attn.qkv"), _QKV),
        *linear(*at("attention/out", "attn.proj"), OUT),
        *norm("img/encoder/norm", f"{top}.norm"),
        Entry("img/map/probe", f"{top}.attn_pool.latent"),
        *_joined(("img/map/attention", f"{top}.attn_pool.q"), ("query",)),
        *_joined(("img/map/attention", f"{top}.attn_pool.kv"), ("key", "value")),
        *linear("img/map/attention/out", f"{top}.attn_pool.proj", OUT),
        *norm("img/map/norm", f"{top}.attn_pool.norm"),
    ]
    for part in ("fc1", "fc2"):
        found += linear(*at(f"mlp/{part}", f"mlp.{part}"))
        found += linear(f"img/map/mlp/{part}", f"{top}.attn_pool.mlp.{part}")
    return found


def _joined(names: tuple[str, str], parts: tuple[str, ...]) -> list[Entry]:
    return joined(names[0], parts, f"{names[1]}.weight", f"{names[1]}.bias")


def _blocks(ours: str, theirs: str) -> list[Entry]:
    at = layers(ours, theirs)
    found = norm(*at("norm1", "ln_1")) + norm(*at("norm2", "ln_2"))
    attention, name = at("attention", "attn")
    found += joined(attention, _QKV, f"{name}.in_proj_weight", f"{name}.in_proj_bias")
    found += linear(*at("attention/out", "attn.out_proj"), OUT)
    return found + linear(*at("mlp/fc1", "mlp.c_fc")) + linear(*at("mlp/fc2", "mlp.c_proj"))


def _prefix(tensors: dict[str, Tensor]) -> str | None:
    """The prefix of the text tower's names, or None without a text tower."""
    found = [prefix for prefix in ("text.", "") if f"{prefix}token_embedding.weight" in tensors]
    return found[0] if found else None


def _is_siglip(tensors: dict[str, Tensor]) -> bool:
    """Whether it has timm's image tower; or, for only a text tower, a projection with a bias."""
    return _PATCHES["siglip"] in tensors or (
        _PATCHES["clip"] not in tensors and "text.text_projection.bias" in tensors
    )


def _notes(model: Mapping[str, Any] | None) -> tuple[str, ...]:
    if model is None:
        return ()
    timm = str(section(model, "vision_cfg", CONFIG).get("timm_model_name", ""))
    names = [] if activation_of(timm) == "gelu_tanh" else ["image towers"]
    if "act_kwargs" not in section(model, "text_cfg", CONFIG):
        names.append("text towers")
    return (_NOTE.format(names=" and ".join(names)),) if names else ()


def _sizes(tensors: dict[str, Tensor], block: str, names: tuple[str, str]) -> dict[str, Any]:
    hidden = shape_of(tensors, f"{block}.0.{names[0]}.weight", 2)
    depth = depth_of(tensors, rf"{re.escape(block)}\.(\d+)\.")
    return {"width": hidden[1], "depth": depth, "mlp_dim": hidden[0]}


def _timm_image(tensors: dict[str, Tensor], model: Mapping[str, Any] | None) -> dict[str, Any]:
    patch = shape_of(tensors, _PATCHES["siglip"], 4)[-1]
    name = _GRID["siglip"]
    side = square(shape_of(tensors, name, 3)[1], name, tensors[name].file)
    raw = _sizes(tensors, "visual.trunk.blocks", ("mlp.fc1", "mlp.fc2"))
    raw |= {"patch": patch, "size": side * patch, "pool": "map", "activation": "gelu_tanh"}
    timm = "" if model is None else section(model, "vision_cfg", CONFIG).get("timm_model_name", "")
    heads = heads_of(str(timm))
    return raw | ({} if heads is None else {"num_heads": heads})


def _clip_image(tensors: dict[str, Tensor], model: Mapping[str, Any] | None) -> dict[str, Any]:
    patch, name = shape_of(tensors, _PATCHES["clip"], 4)[-1], _GRID["clip"]
    # Minus the class token's position.
    side = square(shape_of(tensors, name, 2)[0] - 1, name, tensors[name].file)
    raw = _sizes(tensors, "visual.transformer.resblocks", ("mlp.c_fc", "mlp.c_proj"))
    raw |= {"patch": patch, "size": side * patch, "class_token": True, "patch_bias": False}
    raw |= {"pre_norm": "visual.ln_pre.weight" in tensors, "head_bias": False, "epsilon": 1e-5}
    if "visual.proj" in tensors:
        raw["out_dim"] = shape_of(tensors, "visual.proj", 2)[1]
    if model is None:
        # Only CLIPA and related models have no norm in front; the config says how they pool.
        return raw | ({"pool": "class"} if raw["pre_norm"] else {})
    values = section(model, "vision_cfg", CONFIG)
    if values.get("attentional_pool"):
        raise ValueError(f"{CONFIG} has attentional_pool, which our image tower does not have.")
    width = whole({"head_width": _HEAD_WIDTH, **values}, "head_width", CONFIG)
    # The final norm is before or after the mean over patches.
    last = "gap_norm" if values.get("final_ln_after_pool") else "gap"
    pools = {"tok": "class", "avg": last}
    pool = _known("pool_type", values.get("pool_type", "tok"), pools)
    return raw | {"num_heads": raw["width"] // width, "pool": pool} | _numerics(model, values)


def _text(
    tensors: dict[str, Tensor], prefix: str, model: Mapping[str, Any] | None, kind: str
) -> dict[str, Any]:
    raw = _sizes(tensors, f"{prefix}transformer.resblocks", ("mlp.c_fc", "mlp.c_proj"))
    raw["vocab_size"] = shape_of(tensors, f"{prefix}token_embedding.weight", 2)[0]
    raw["length"] = shape_of(tensors, f"{prefix}positional_embedding", 2)[0]
    raw |= _projection(tensors, f"{prefix}text_projection")
    raw |= {"epsilon": 1e-5} if kind == "clip" else {"mask": "none", "pool": "last"}
    if model is not None:
        raw |= _text_config(model)
    # SigLIP was trained with tanh GELU, whatever open_clip's config says; see `_NOTE`.
    return raw | ({"activation": "gelu_tanh", "epsilon": 1e-6} if kind == "siglip" else {})


def _projection(tensors: dict[str, Tensor], name: str) -> dict[str, Any]:
    if name in tensors:
        return {"out_dim": shape_of(tensors, name, 2)[1], "head_bias": False}
    if f"{name}.weight" in tensors:
        return {"out_dim": shape_of(tensors, f"{name}.weight", 2)[0]}
    return {}


def _text_config(model: Mapping[str, Any]) -> dict[str, Any]:
    values = section(model, "text_cfg", CONFIG)
    for name in ("hf_model_name", "embed_cls"):
        if values.get(name):
            raise ValueError(
                f"{CONFIG} has {name} {values[name]!r}, which our text tower does not have."
            )
    pools = {"argmax": "argmax", "last": "last", "eos": "eos"}
    pool = _known("pool_type", values.get("pool_type", "argmax"), pools)
    found = {
        "num_heads": whole({"heads": 8, **values}, "heads", CONFIG),
        "mask": "none" if values.get("no_causal_mask") else "causal",
        "pool": pool,
    }
    if pool == "eos":
        # open_clip's own default.
        found["eos_id"] = values.get("eos_id", 2)
    return found | _numerics(model, values)


def _numerics(model: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Activation and epsilon of a tower."""
    form = section(values, "act_kwargs", CONFIG).get("approximate", "none")
    gelu = _known("act_kwargs.approximate", form, {"none": "gelu", "tanh": "gelu_tanh"})
    activation = "quick_gelu" if model.get("quick_gelu") else gelu
    epsilon = section(values, "norm_kwargs", CONFIG).get("eps", 1e-5)
    return {"activation": activation, "epsilon": float(epsilon)}


def _known(name: str, value: Any, known: Mapping[str, str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{CONFIG} has {name} {value!r}; expected one of {', '.join(known)}.")
    return known[value]
