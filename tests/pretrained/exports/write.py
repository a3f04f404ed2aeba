"""Exports small models, with what ours computes beside them, for `load.py` in an environment with torch.

python -m tests.pretrained.exports.write FOLDER
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from bias_clip.data.image import make_image_fn
from bias_clip.data.text import make_text_fn
from bias_clip.models import make_model
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.exports.export_card import Facts
from bias_clip.pretrained.exports.export_folder import Exported, export_folder
from tests.pretrained.cases import GOLDEN
from tests.pretrained.gemma import CAPTIONS, SPECIAL, train_gemma

PEERS = GOLDEN.parent / "peers"
FROM_FILES = {
    "hf_siglip_bfloat16": "hugging_face",
    "bv_i18n_no_head": "hugging_face",
    "hf_clip_gelu_float16": "hugging_face",
    "oc_clip_quickgelu_float16": "open_clip",
    "oc_clip_custom_text": "open_clip",
    "oc_clipa": "open_clip",
}
CLIP = dict(
    image=dict(
        variant="mu/16", size=48, class_token=True, pre_norm=True, patch_bias=False,
        head_bias=False, pool="class", out_dim=24, epsilon=1e-5, activation="quick_gelu",
    ),
    text=dict(
        variant="mu", vocab_size=49_408, length=77, mask="causal", pool="eos", eos_id=49_407,
        head_bias=False, out_dim=24, epsilon=1e-5, activation="quick_gelu",
    ),
    bias_init=None,
)  # fmt: skip
SIGLIP = dict(
    image=dict(variant="mu/16", size=48, pool="map"),
    text=dict(variant="mu", vocab_size=2_000, length=24, out_dim=32),
)


def _siglip(variant, size, activation):
    return dict(
        image=dict(variant=variant, size=size, pool="map", activation=activation),
        text=dict(variant="mu", vocab_size=2_000, length=24, out_dim=768, activation=activation),
    )


CROP = "resize_small(48,method=bicubic,antialias=True,longer=below)|central_crop(48,middle={})"
CLIP_OPS = f"decode|drop_alpha|{CROP}|normalize((0.48,0.46,0.41),(0.27,0.26,0.28))"
SIGLIP_OPS = "decode|drop_alpha|resize(48,antialias=True)|value_range(-1,1)"
OF_SIGLIP = {"tokenizer": "emoji", "length": 24, "lower": False, "pad": 1, "form": "siglip"}
OF_GEMMA = {"tokenizer": "gemma", "length": 24, "lower": False, "pad": 0, "form": "letter_lower"}
OF_CLIP = {"tokenizer": "clip", "length": 77, "lower": False, "bos": True}
WHOLE = {
    # name: layout, model, operations of images, rules of texts
    "whole_hf_clip": (
        "hugging_face",
        CLIP,
        CLIP_OPS.format("below"),
        {**OF_CLIP, "form": "clip_transformers", "pad": 49_407},
    ),
    "whole_oc_clip": (
        "open_clip",
        CLIP,
        CLIP_OPS.format("even"),
        {**OF_CLIP, "form": "clip", "pad": 0},
    ),
    "whole_hf_siglip": ("hugging_face", SIGLIP, SIGLIP_OPS, OF_SIGLIP),
    "whole_hf_siglip_2": ("hugging_face", SIGLIP, SIGLIP_OPS, OF_GEMMA),
    # Real sizes, because open_clip knows no others: one that timm runs with tanh GELU, one with erf.
    "whole_oc_siglip": (
        "open_clip",
        _siglip("B/32", 256, "gelu_tanh"),
        SIGLIP_OPS.replace("48", "256"),
        {**OF_SIGLIP, "form": "open_clip|siglip"},
    ),
    "whole_oc_siglip_2": (
        "open_clip",
        _siglip("B/16", 224, "gelu"),
        SIGLIP_OPS.replace("48", "224"),
        {**OF_GEMMA, "form": "open_clip_canonical|letter_lower"},
    ),
}


def main(out: Path) -> None:
    """Writes one folder per model, and `ours.npz` in each."""
    for name, layout in FROM_FILES.items():
        loaded = load_pretrained(GOLDEN / name)
        model = Exported(loaded.params, loaded.config, loaded.preprocess.ops, None, Facts(name, ()))
        export_folder(model, out / name, layout=layout)
        oracle = np.load(GOLDEN / name / "oracle.npz")
        _write(out / name, layout, loaded.model, loaded.params, oracle["image"], oracle["text"], {})
    captions = [*CAPTIONS, *SPECIAL]
    out.mkdir(parents=True, exist_ok=True)
    gemma = train_gemma(out)
    files = np.load(PEERS / "pixels.npz")
    photos = {name: files[name] for name in files.files if name.endswith("/file")}
    for name, (layout, config, ops, rules) in WHOLE.items():
        if rules["tokenizer"] == "gemma":
            rules = {**rules, "tokenizer": gemma}
        model = make_model(**config)
        params = _drawn(model.init(jax.random.key(1)))
        export_folder(
            Exported(params, config, ops, rules, Facts(name, ())), out / name, layout=layout
        )
        if name == "whole_hf_clip":
            # The vocabulary of this package names the first and last token as open_clip does, the exported
            # one as transformers does; captions that contain these names differ.
            rules = {**rules, "tokenizer": str(out / name)}
        image_fn, text_fn = make_image_fn(ops), make_text_fn(**rules)
        rng = np.random.default_rng(0)
        image = np.stack([image_fn(photo.tobytes(), rng) for photo in photos.values()])
        text = np.stack([text_fn(caption) for caption in captions])
        rest = {"captions": np.frombuffer(json.dumps(captions).encode(), np.uint8)}
        rest |= {f"photo_{i}": photo for i, photo in enumerate(photos.values())}
        _write(out / name, layout, model, params, image, text, rest)


def _drawn(params):
    """Random norms and biases, too: zeros and ones would hide a mistake."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(2)
    return tree.unflatten([x + rng.normal(0, 0.1, x.shape).astype(np.float32) for x in leaves])


def _write(folder, layout, model, params, image, text, rest):
    found = jax.jit(model.apply)(params, image=image, text=text)
    logits = np.asarray(found.scale * found.zimg @ found.ztxt.T + found.bias)
    np.savez(folder / "ours.npz", layout=layout, image=image, text=text, logits=logits, **rest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
