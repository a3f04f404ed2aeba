"""Load, export, load again: the same bytes; what a layout cannot say is refused by name."""

import json

import jax
import numpy as np
import pytest

from bias_clip.models import make_model
from bias_clip.models.vit import VARIANTS
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.export import export_big_vision, export_hugging_face
from bias_clip.pretrained.exports import export_open_clip_siglip
from bias_clip.pretrained.exports.export_open_clip import export_open_clip
from bias_clip.pretrained.layouts.timm_names import activation_of, heads_of, name_of
from tests.pretrained.cases import GOLDEN, arrays
from tests.pretrained.test_load import same

IMAGE = dict(variant="mu/8", size=16)
TEXT = dict(variant="mu", vocab_size=11, length=6)


@pytest.mark.parametrize("folder", ["hf_siglip_bfloat16", "hf_clip_gelu_float16"])
def test_hugging_face_round_trip_is_the_same_bytes(folder, tmp_path):
    first = load_pretrained(GOLDEN / folder)
    export_hugging_face(first.params, first.config, tmp_path / "out")
    again = load_pretrained(tmp_path / "out")
    same(again.params, first.params)
    assert again.config == first.config
    ours, theirs = (
        arrays(path / "model.safetensors") for path in (tmp_path / "out", GOLDEN / folder)
    )
    assert set(ours) == {name for name in theirs if not name.endswith("position_ids")}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name].astype(np.float32), err_msg=name)


@pytest.mark.parametrize("folder", ["oc_clip_quickgelu_float16", "oc_clip_custom_text", "oc_clipa"])
def test_open_clip_round_trip_is_the_same_bytes(folder, tmp_path):
    first = load_pretrained(GOLDEN / folder)
    export_open_clip(first.params, first.config, tmp_path)
    again = load_pretrained(tmp_path)
    same(again.params, first.params)
    assert again.config == first.config
    # All of what the library wrote, by its names and shapes, except for the prefix of some text towers.
    (file,) = [
        path for path in (GOLDEN / folder).iterdir() if path.suffix in (".bin", ".safetensors")
    ]
    theirs = {name.removeprefix("text."): x for name, x in arrays(file).items()}
    ours = arrays(tmp_path / "open_clip_model.safetensors")
    assert {name: x.shape for name, x in ours.items()} == {n: x.shape for n, x in theirs.items()}


def test_a_siglip_of_open_clip_has_the_names_and_shapes_of_the_library(tmp_path, monkeypatch):
    """Of sizes that timm does not know: its own name of them is put into the table."""
    folder = GOLDEN / "oc_siglip_no_head"
    first = load_pretrained(folder, image={"num_heads": 3})
    theirs = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    name = theirs["vision_cfg"]["timm_model_name"]
    monkeypatch.setattr(export_open_clip_siglip, "name_of", lambda image: name)
    (note,) = export_open_clip(first.params, first.config, tmp_path)
    assert "with gelu, and this model was run with gelu_tanh" in note
    again = load_pretrained(tmp_path, image={"num_heads": 3})
    same(again.params, first.params)
    assert again.config == first.config
    ours = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    assert ours["vision_cfg"] == theirs["vision_cfg"]
    # Theirs was run with erf GELU in the text tower, ours with the activation of the training.
    assert ours["text_cfg"].pop("act_kwargs") == {"approximate": "tanh"}
    assert ours == theirs
    written = arrays(tmp_path / "open_clip_model.safetensors")
    expected = arrays(folder / "open_clip_pytorch_model.bin")
    assert {n: x.shape for n, x in written.items()} == {n: x.shape for n, x in expected.items()}
    for key, array in written.items():
        np.testing.assert_array_equal(array, expected[key].astype(np.float32), err_msg=key)


def test_timm_has_a_name_for_each_published_size_and_for_no_other(tmp_path):
    image = {**VARIANTS["So400m"]._asdict(), "patch": 16, "size": 256}
    assert name_of(image) == "vit_so400m_patch16_siglip_256"
    assert activation_of(name_of(image)) == "gelu_tanh"
    assert activation_of("vit_base_patch16_siglip_224") == "gelu"
    assert heads_of("vit_giantopt_patch16_siglip_384") == 16
    for other in ({"size": 224}, {"depth": 26}, {"patch": 14}):
        with pytest.raises(ValueError, match=r"timm, which has B/16 at 224, B/16 at 256"):
            name_of({**image, **other})
    first = load_pretrained(GOLDEN / "bv_bfloat16")
    with pytest.raises(ValueError, match=r"a name of timm, which has B/16 at 224.*Export to"):
        export_open_clip(first.params, first.config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        ({"pool": "gap"}, {}, "pool of the image is 'gap'"),
        ({"out_dim": 8}, {}, "out_dim of the image is 8"),
        ({}, {"pool": "map"}, "pool of the text is 'map'"),
        ({}, {"mask": "causal"}, "mask of the text is 'causal'"),
        ({}, {"out_dim": 8}, "text features have 8 numbers, and those of the image 768"),
        ({"activation": "quick_gelu"}, {}, "activation of the image is 'quick_gelu'"),
    ],
)
def test_what_a_siglip_of_open_clip_cannot_say_is_refused(image, text, message, tmp_path):
    config = {
        "image": {"variant": "B/16", "size": 224, **image},
        "text": {**TEXT, "out_dim": 768, **text},
    }
    with pytest.raises(ValueError, match=message):
        export_open_clip({}, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["bv_i18n_no_head", "bv_bfloat16"])
def test_big_vision_round_trip_is_the_same_bytes(folder, tmp_path):
    first = load_pretrained(GOLDEN / folder)
    export_big_vision(first.params, first.config, tmp_path / "x.npz")
    again = load_pretrained(tmp_path / "x.npz")
    same(again.params, first.params)
    assert again.config == first.config
    assert arrays(tmp_path / "x.npz")["t"].shape == (1,)


def test_a_text_tower_without_head_gets_the_identity(tmp_path):
    first = load_pretrained(GOLDEN / "bv_i18n_no_head")
    export_hugging_face(first.params, first.config, tmp_path)
    head = load_pretrained(tmp_path).params["txt"]["head"]
    np.testing.assert_array_equal(head["kernel"], np.eye(36))


@pytest.mark.parametrize("export", [export_big_vision, export_hugging_face])
@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        ({"stem": "conv"}, {}, "stem of the image is 'conv'"),
        ({"posemb": "sincos2d"}, {}, "posemb of the image is 'sincos2d'"),
        ({}, {"pool": "gap"}, "pool of the text is 'gap'"),
        ({"pool": "gap_norm"}, {}, "pool of the image is 'gap_norm'"),
        ({"class_token": True}, {}, "of the image is .*; the .* layout can only say"),
    ],
)
def test_what_a_layout_cannot_say_is_refused_by_name(export, image, text, message, tmp_path):
    config = {"image": {**IMAGE, **image}, "text": {**TEXT, **text}}
    params = jax.eval_shape(make_model(**config).init, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        export(params, config, tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_a_map_head_of_texts_has_a_place_in_big_vision_alone(tmp_path):
    config = {"image": IMAGE, "text": {**TEXT, "pool": "map"}}
    params = make_model(**config).init(jax.random.key(0))
    with pytest.raises(ValueError, match="pool of the text is 'map'"):
        export_hugging_face(params, config, tmp_path / "out")
    export_big_vision(params, config, tmp_path / "x.npz")
    same(load_pretrained(tmp_path / "x.npz").params, params)
