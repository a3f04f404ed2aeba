"""CLIP or SigLIP as a folder of open_clip: `open_clip_config.json` and `open_clip_model.safetensors`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.pretrained.assemble import flat
from bias_clip.pretrained.export import check_projections, complete, one_of, refuse, tensors_of
from bias_clip.pretrained.exports import export_open_clip_siglip as siglip
from bias_clip.pretrained.files import safetensors
from bias_clip.pretrained.layouts import open_clip
from bias_clip.pretrained.layouts.table import Entry

WEIGHTS = "open_clip_model.safetensors"


def export_open_clip(
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    folder: Path,
    *,
    preprocess: Mapping[str, Any] | None = None,
    tokens: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Writes a CLIP, a tower in the form of CLIPA, or a SigLIP of sizes that timm has a name for.

    `open_clip.create_model("local-dir:FOLDER")` loads it.

    Args:
      params: in our tree.
      config: the keyword arguments of `make_model`.
      folder: made if it does not exist.
      preprocess: `preprocess_cfg` of the config, see `open_clip_images`.
      tokens: what `text_cfg` says of the tokenizer, see `open_clip_tokens`.

    Returns:
      notes: what open_clip does otherwise.

    Raises:
      ValueError: the layout cannot express the model.
    """
    image, text = complete(config)
    made = _clip(image, text) if image["class_token"] else _siglip(image, text)
    entries = [*made.entries, Entry("log_scale", "logit_scale"), Entry("bias", "logit_bias")]
    tensors = tensors_of("open_clip", flat(params), entries)
    model = made.model
    # None is a model without a bias; a config that does not say has one.
    if config.get("bias_init", 0.0) is not None:
        model["init_logit_bias"] = float(config.get("bias_init", -10.0))
    # After the tower's own entries: the tokenizer adds to them.
    model["text_cfg"] |= tokens or {}
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write(folder / WEIGHTS, tensors, {"format": "pt"})
    whole = {"model_cfg": model, "preprocess_cfg": dict(preprocess or {})}
    written = json.dumps(whole, indent=2, sort_keys=True)
    (folder / open_clip.CONFIG).write_text(written + "\n", encoding="utf-8")
    return made.notes


class _Made(NamedTuple):
    model: dict[str, Any]  # `model_cfg`
    entries: list[Entry]
    notes: tuple[str, ...]


def _clip(image: Mapping[str, Any], text: Mapping[str, Any]) -> _Made:
    refuse("open_clip", "image", image, dict(class_token=True, patch_bias=False, head_bias=False))
    one_of("open_clip", "image", image, "pool", ("class", "gap", "gap_norm"))
    one_of("open_clip", "text", text, "pool", ("argmax", "eos", "last"))
    refuse("open_clip", "text", text, {"head_bias": False})
    check_projections("open_clip", image, text)
    quick = {tower["activation"] == "quick_gelu" for tower in (image, text)}
    if len(quick) > 1:
        raise ValueError(
            "activation of one tower alone is 'quick_gelu'; the open_clip layout says it of both or none."
        )
    entries = open_clip.table_of_image(pre_norm=image["pre_norm"], head=True)
    entries += open_clip.table_of_text(prefix="", head=True, head_bias=False)
    model = {"embed_dim": image["out_dim"], "quick_gelu": quick.pop()}
    return _Made({**model, "vision_cfg": _image(image), "text_cfg": _text(text)}, entries, ())


def _siglip(image: Mapping[str, Any], text: Mapping[str, Any]) -> _Made:
    said, notes = siglip.image_cfg(image)
    siglip.check_text(image, text)
    model = {"embed_dim": image["width"], "custom_text": True, "vision_cfg": said}
    text_cfg = {**_text(text), **siglip.projection_cfg(text)}
    return _Made({**model, "text_cfg": text_cfg}, siglip.entries(text), notes)


def _image(tower: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "image_size": tower["size"],
        "patch_size": tower["patch"],
        "head_width": tower["width"] // tower["num_heads"],
        **_common(tower),
    }
    if not tower["pre_norm"]:
        found["no_ln_pre"] = True
    # "tok" is open_clip's default and needs no word.
    if tower["pool"] != "class":
        found |= {"pool_type": "avg", "final_ln_after_pool": tower["pool"] == "gap_norm"}
    return found


def _text(tower: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "context_length": tower["length"],
        "vocab_size": tower["vocab_size"],
        "heads": tower["num_heads"],
        "pool_type": tower["pool"],
        **_common(tower),
    }
    if tower["mask"] == "none":
        found["no_causal_mask"] = True
    if tower["pool"] == "eos":
        found["eos_id"] = tower["eos_id"]
    return found


def _common(tower: Mapping[str, Any]) -> dict[str, Any]:
    ratio = tower["mlp_dim"] / tower["width"]
    if int(tower["width"] * ratio) < tower["mlp_dim"]:  # open_clip rounds down
        ratio = math.nextafter(ratio, math.inf)
    found = {
        "width": tower["width"],
        "layers": tower["depth"],
        "mlp_ratio": ratio,
        "norm_kwargs": {"eps": tower["epsilon"]},
    }
    if tower["activation"] == "gelu_tanh":
        found["act_kwargs"] = {"approximate": "tanh"}
    return found
