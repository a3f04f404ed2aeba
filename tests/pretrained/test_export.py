"""Load, export, load again: the same bytes; what a layout cannot say is refused by name."""

import jax
import numpy as np
import pytest

from bias_clip.models import make_model
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.export import export_big_vision, export_hugging_face
from bias_clip.pretrained.exports.export_open_clip import export_open_clip
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


def test_a_siglip_has_no_place_in_open_clip(tmp_path):
    first = load_pretrained(GOLDEN / "bv_bfloat16")
    with pytest.raises(ValueError, match="class_token of the image is False; the open_clip layout"):
        export_open_clip(first.params, first.config, tmp_path)


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
