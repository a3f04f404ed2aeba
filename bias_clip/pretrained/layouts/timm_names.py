"""The SigLIP image towers that timm knows by name, which is how open_clip states one.

Source: `timm/models/vision_transformer.py` of timm 1.0.31: each registered name with "siglip" and a MAP head.
"""

from collections.abc import Mapping
from typing import Any

from bias_clip.models.vit import VARIANTS

_VARIANTS = {
    "vit_base": "B",
    "vit_large": "L",
    "vit_so400m": "So400m",
    "vit_giantopt": "g-opt",
}
# (tower, patch): the image sizes that have a name.
_SIZES = {
    ("vit_base", 16): (224, 256, 384, 512),
    ("vit_base", 32): (256,),
    ("vit_large", 16): (256, 384, 512),
    ("vit_so400m", 14): (224, 378, 384),
    ("vit_so400m", 16): (256, 384, 512),
    ("vit_giantopt", 16): (256, 384),
}
NAMES = {
    f"{tower}_patch{patch}_siglip_{size}": (_VARIANTS[tower], patch, size)
    for (tower, patch), sizes in _SIZES.items()
    for size in sizes
}
# timm gives these the tanh GELU of the training, and erf GELU to all others.
_TANH = (
    "vit_base_patch32_siglip_256",
    "vit_large_patch16_siglip_512",
    "vit_so400m_patch16_siglip_",
    "vit_giantopt_patch16_siglip_",
)


def name_of(image: Mapping[str, Any]) -> str:
    """The name of an image tower of these sizes.

    Args:
      image: width, depth, mlp_dim, num_heads, patch and size.

    Raises:
      ValueError: timm has no name for the sizes.
    """
    sizes = {field: image[field] for field in (*VARIANTS["B"]._fields, "patch", "size")}
    for name, (variant, patch, size) in NAMES.items():
        if sizes == {**VARIANTS[variant]._asdict(), "patch": patch, "size": size}:
            return name
    known = ", ".join(f"{variant}/{patch} at {size}" for variant, patch, size in NAMES.values())
    got = ", ".join(f"{field} {value}" for field, value in sizes.items())
    raise ValueError(
        f"The image tower has {got}; the open_clip layout states a SigLIP by a name of timm, which has {known}. "
        "Export to hugging_face or big_vision."
    )


def heads_of(name: str) -> int | None:
    """The number of heads of a named tower; None for a name that is not a SigLIP's."""
    found = [variant for tower, variant in _VARIANTS.items() if name.startswith(f"{tower}_patch")]
    return VARIANTS[found[0]].num_heads if found else None


def activation_of(name: str) -> str:
    """The activation that timm runs a named tower with."""
    return "gelu_tanh" if name.startswith(_TANH) else "gelu"
