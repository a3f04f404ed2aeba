"""What the real libraries computed from their own files is what the loaded model computes."""

import jax
import numpy as np
import pytest

from bias_clip.models import unit_norm
from bias_clip.pretrained import load_pretrained
from tests.pretrained.cases import GOLDEN, distance

# Names of timm do not say the heads of these made-up sizes; open_clip ran this text tower with erf GELU.
ARGUMENTS = {
    "oc_siglip_no_head": {"image": {"num_heads": 3}, "text": {"activation": "gelu"}},
}
EVERY_DAY = ("bv_posemb_in_two_parts", "hf_clip_gelu_float16", "oc_siglip_no_head", "oc_clipa")
FOLDERS = {
    "bv_bfloat16": ("big_vision", "siglip"),
    "bv_i18n_no_head": ("big_vision", "siglip"),
    "bv_posemb_in_two_parts": ("big_vision", "siglip"),
    "hf_siglip_bfloat16": ("hugging_face", "siglip"),
    "hf_siglip2_naflex": ("hugging_face", "siglip"),
    "hf_clip_gelu_float16": ("hugging_face", "clip"),
    "oc_clip_quickgelu_float16": ("open_clip", "clip"),
    "oc_clip_custom_text": ("open_clip", "clip"),
    "oc_siglip_no_head": ("open_clip", "siglip"),
    "oc_clipa": ("open_clip", "clip"),
}


def pixels(oracle, model):
    """The images; of NaFlex the first, whose patches fill the whole square grid."""
    if "image" in oracle:
        return oracle["image"]
    side, patch = 4, 4
    assert tuple(oracle["spatial_shapes"][0]) == (side, side)
    grid = oracle["patches"][0].reshape(side, side, patch, patch, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(1, side * patch, side * patch, 3)


MARKED = [
    pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.slow) for name in FOLDERS
]


@pytest.mark.parametrize("folder", MARKED)  # each compiles for four seconds
def test_features_and_logits_are_the_librarys(folder):
    oracle = dict(np.load(GOLDEN / folder / "oracle.npz"))
    loaded = load_pretrained(GOLDEN / folder, **ARGUMENTS.get(folder, {}))
    assert (loaded.layout, loaded.family) == FOLDERS[folder]
    image = pixels(oracle, loaded.model)
    rows = slice(len(image))
    features = jax.jit(loaded.model.features)(loaded.params, image, oracle["text"][rows])
    assert distance(features.image, oracle["image_features"][rows]) < 1e-5
    assert distance(features.text, oracle["text_features"][rows]) < 1e-5
    zimg, ztxt = unit_norm(features.image), unit_norm(features.text)
    assert distance(zimg, oracle["zimg"][rows]) < 2e-6
    assert distance(ztxt, oracle["ztxt"][rows]) < 2e-6
    scalars = loaded.model.apply(loaded.params)
    logits = scalars.scale * zimg @ ztxt.T + scalars.bias
    assert distance(logits, oracle["logits_per_image"][rows, rows]) < 1e-5
    exact = oracle.get("float64_logits_per_image", oracle["logits_per_image"])
    assert distance(logits, exact[rows, rows]) < 1e-5
