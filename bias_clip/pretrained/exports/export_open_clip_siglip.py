"""What `open_clip_config.json` says of a SigLIP: timm's image tower by its name, and open_clip's text tower."""

from collections.abc import Mapping
from typing import Any

from bias_clip.pretrained.export import one_of, refuse
from bias_clip.pretrained.layouts import open_clip
from bias_clip.pretrained.layouts.table import Entry
from bias_clip.pretrained.layouts.timm_names import activation_of, name_of

_IMAGE = dict(
    class_token=False, pre_norm=False, patch_bias=True, pool="map", out_dim=None, epsilon=1e-6
)
_TEXT = dict(mask="none", head_bias=True, pool="last", epsilon=1e-6)
# The activation is open_clip's own, so a mismatch is stated instead of refused: it publishes SigLIP that way.
_NOTE = (
    "open_clip runs the image tower {name} with {theirs}, and this model was run with {ours}: its logits differ "
    "by about 0.1 %."
)


def image_cfg(image: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns `vision_cfg`, and a note if timm runs the tower with another activation.

    Args:
      image: complete arguments of the image tower.

    Raises:
      ValueError: timm has no tower like this one.
    """
    refuse("open_clip", "image", image, _IMAGE)
    one_of("open_clip", "image", image, "activation", ("gelu_tanh", "gelu"))
    name = name_of(image)
    found = {"image_size": image["size"], "timm_model_name": name}
    theirs = activation_of(name)
    notes = (_NOTE.format(name=name, theirs=theirs, ours=image["activation"]),)
    said = {**found, "timm_pool": "map", "timm_proj": "none"}
    return said, notes if theirs != image["activation"] else ()


def check_text(image: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Raises ValueError for a text tower that open_clip's SigLIP does not have."""
    refuse("open_clip", "text", text, _TEXT)
    one_of("open_clip", "text", text, "activation", ("gelu_tanh", "gelu"))
    width = text["width"] if text["out_dim"] is None else text["out_dim"]
    if width != image["width"]:
        raise ValueError(
            f"The text features have {width} numbers, and those of the image {image['width']}; expected the same."
        )


def projection_cfg(text: Mapping[str, Any]) -> dict[str, Any]:
    """What `text_cfg` says of the projection."""
    return {"proj_type": "none"} if text["out_dim"] is None else {"proj_bias": True}


def entries(text: Mapping[str, Any]) -> list[Entry]:
    """Where each parameter is; `custom_text` puts the text tower under a prefix."""
    head = text["out_dim"] is not None
    return [
        *open_clip.table_of_timm(),
        *open_clip.table_of_text(prefix="text.", head=head, head_bias=True),
    ]
