"""Writes our parameters in the layout of big_vision, Hugging Face or open_clip.

The tables of names that read these layouts are used in reverse, so reading a written file gives the same
bytes. An export fails with an error that names any argument which the layout cannot express.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.models.vit import parse_variant
from bias_clip.pretrained.assemble import flat
from bias_clip.pretrained.files import safetensors
from bias_clip.pretrained.layouts import big_vision, hugging_face
from bias_clip.pretrained.layouts.table import Entry, is_layered, names_in_file, to_file

_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}
_SIZES = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "mlp_dim": "intermediate_size",
    "num_heads": "num_attention_heads",
}
_SIGLIP = {
    "image": dict(class_token=False, pre_norm=False, patch_bias=True, head_bias=True, pool="map"),
    "text": dict(mask="none", head_bias=True, pool="last"),
}
_CLIP_IMAGE = dict(class_token=True, pre_norm=True, patch_bias=False, head_bias=False, pool="class")
_DEFAULTS = {"activation": "gelu_tanh", "epsilon": 1e-6, "posemb": "learned", "stem": "patch"}


def export_big_vision(params: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Writes an `.npz` with one entry per layer and no prefix, which every big_vision reader accepts.

    Args:
      params: in our tree.
      config: the keyword arguments of `make_model`.
      path: of the file, which ends in ".npz".

    Raises:
      ValueError: the layout cannot express the model, or the path does not end in ".npz".
    """
    if path.suffix != ".npz":
        raise ValueError(f"got the path {path}; expected one that ends in .npz.")
    image, text = complete(config)
    refuse("big_vision", "image", image, _SIGLIP["image"] | {"epsilon": 1e-6, "pool": None})
    refuse("big_vision", "text", text, _SIGLIP["text"] | {"epsilon": 1e-6, "pool": None})
    for what, tower in (("image", image), ("text", text)):
        refuse("big_vision", what, tower, {"activation": "gelu_tanh"})
    one_of("big_vision", "image", image, "pool", ("map", "gap"))
    one_of("big_vision", "text", text, "pool", ("last", "map"))
    leaves = flat(params)
    names = _names_of_ends(leaves)
    entries = big_vision.table_of_image(names, scanned=False)
    # Not scanned: a tensor per layer is what every reader of the layout accepts.
    entries += big_vision.table_of_text(names, scanned=False) + big_vision.table_of_scalars()
    tensors: dict[str, Any] = tensors_of("big_vision", leaves, entries)
    np.savez(path, **tensors)


def export_hugging_face(params: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    """Writes `config.json` and `model.safetensors` as transformers' SigLIP or CLIP.

    Args:
      params: in our tree.
      config: the keyword arguments of `make_model`.
      folder: made if it does not exist.

    Raises:
      ValueError: the model is neither SigLIP nor CLIP, or the layout cannot express it.
    """
    image, text = complete(config)
    leaves = flat(params)
    clip = bool(image["class_token"])
    if clip:
        refuse("hugging_face", "image", image, _CLIP_IMAGE)
        refuse("hugging_face", "text", text, {"mask": "causal", "head_bias": False})
        one_of("hugging_face", "text", text, "pool", ("argmax", "eos"))
        check_projections("hugging_face", image, text)
        refuse(
            "hugging_face",
            "model",
            {"bias_init": config.get("bias_init", -10.0)},
            {"bias_init": None},
        )
    else:
        refuse("hugging_face", "image", image, _SIGLIP["image"] | {"out_dim": None})
        refuse("hugging_face", "text", text, _SIGLIP["text"])
        # transformers' SigLIP always has a head; an identity changes no number.
        leaves = _with_text_head(leaves)
    entries = hugging_face.table_of_image(clip=clip, flat=False, head=clip)
    entries += hugging_face.table_of_text(clip=clip, head=True)
    entries += hugging_face.table_of_scalars(clip=clip)
    tensors = tensors_of("hugging_face", leaves, entries)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write(folder / "model.safetensors", tensors, {"format": "pt"})
    text_ = json.dumps(_hugging_face_config(image, text, clip), indent=2, sort_keys=True)
    (folder / hugging_face.CONFIG).write_text(text_ + "\n", encoding="utf-8")


def complete(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of both towers, with sizes instead of a variant, and with all defaults."""
    found = []
    for what in ("image", "text"):
        given = config[what]
        if given is None:
            raise ValueError(f"The model has no {what} tower; an export takes both.")
        sizes = {name: given[name] for name in _SIZES if name in given}
        # Files state sizes, and not our names of variants.
        named, patch = parse_variant(given["variant"], **sizes)
        # Later entries win: the model's own arguments over SigLIP's, and those over the general defaults.
        rest = {**_DEFAULTS, **_SIGLIP[what], "out_dim": None, **given, **named._asdict()}
        found.append(rest | ({"patch": patch} if patch else {}))
        refuse("any published", what, found[-1], {"posemb": "learned", "stem": "patch"})
    return found[0], found[1]


def refuse(layout: str, what: str, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises ValueError for the first argument of a tower that differs from what the layout implies."""
    for name, value in expected.items():
        if (value is not None or name in ("out_dim", "bias_init")) and got.get(name) != value:
            raise ValueError(
                f"{name} of the {what} is {got.get(name)!r}; the {layout} layout can only say {value!r}. "
                "Export to another layout, or train a model without it."
            )


def one_of(layout: str, what: str, got: Mapping[str, Any], name: str, valid: tuple) -> None:
    """Raises ValueError unless the layout supports the argument's value."""
    if got[name] not in valid:
        raise ValueError(
            f"{name} of the {what} is {got[name]!r}; the {layout} layout can only say {' or '.join(valid)}."
        )


def check_projections(layout: str, *towers: Mapping[str, Any]) -> None:
    """Raises ValueError for a CLIP with a tower that has no projection."""
    if any(tower["out_dim"] is None for tower in towers):
        raise ValueError(
            f"out_dim of a tower is None; the {layout} layout of CLIP has a projection in both."
        )


def _names_of_ends(leaves: Mapping[str, Any]) -> set[str]:
    """The names that tell `big_vision`'s tables whether a tower ends in a MAP head or a projection."""
    ends = {"map/probe": "MAPHead_0/probe", "head/kernel": "head/kernel"}
    return {
        f"{tower}/{theirs}"
        for tower in ("img", "txt")
        for ours, theirs in ends.items()
        if f"{tower}/{ours}" in leaves
    }


def _with_text_head(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Adds an identity as text head, because transformers' SigLIP always has one."""
    if "txt/head/kernel" in leaves:
        return dict(leaves)
    width = leaves["txt/encoder/norm/scale"].shape[0]
    head = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
    return {**leaves, **{f"txt/head/{name}": x for name, x in head.items()}}


def tensors_of(
    layout: str, leaves: Mapping[str, Any], entries: list[Entry]
) -> dict[str, np.ndarray]:
    """The tensors of the file, by its table of names."""
    if left := sorted(set(leaves) - {entry.ours for entry in entries}):
        raise ValueError(f"The {layout} layout has no place for {left[0]} of this model.")
    parts: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        # Tables list all that a layout may hold; this model need not have it all.
        if entry.ours not in leaves:
            continue
        array = np.asarray(leaves[entry.ours])
        listed = "{i}" in entry.theirs
        for i, name in enumerate(names_in_file(entry, len(array) if is_layered(entry) else 1)):
            part = to_file(entry, array[i] if listed else array)
            # Query, key and value may share a tensor of the file: their parts are collected first.
            parts.setdefault(name, {})[entry.part] = part
    return {
        # In the order of the parts, and not in that in which the table lists them.
        name: found[0] if len(found) == 1 else np.concatenate([found[i] for i in sorted(found)])
        for name, found in parts.items()
    }


def _hugging_face_config(
    image: Mapping[str, Any], text: Mapping[str, Any], clip: bool
) -> dict[str, Any]:
    towers = []
    for tower in (image, text):
        sizes = {theirs: tower[ours] for ours, theirs in _SIZES.items()}
        numerics = {
            "hidden_act": _ACTIVATIONS[tower["activation"]],
            "layer_norm_eps": tower["epsilon"],
        }
        towers.append({**sizes, **numerics})
    kind = "clip" if clip else "siglip"
    towers[0] |= {"model_type": f"{kind}_vision_model", "patch_size": image["patch"]}
    towers[0] |= {"image_size": image["size"]}
    towers[1] |= {"model_type": f"{kind}_text_model", "vocab_size": text["vocab_size"]}
    towers[1] |= {"max_position_embeddings": text["length"]}
    outer: dict[str, Any] = {
        "model_type": kind,
        "architectures": ["CLIPModel" if clip else "SiglipModel"],
    }
    if clip:
        # Without an id, the largest id ends a text; the old id 2 selects that rule in transformers.
        towers[1]["eos_token_id"] = text["eos_id"] if text["pool"] == "eos" else 2
        outer["projection_dim"] = text["out_dim"]
    else:
        towers[1]["projection_size"] = image["width"]
    return {**outer, "vision_config": towers[0], "text_config": towers[1]}
