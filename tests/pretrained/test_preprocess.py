"""The preprocessing of a checkpoint against pixels of the libraries that published it."""

import json
from pathlib import Path

import numpy as np
import pytest

from bias_clip.data.image import make_image_fn, make_pixel_fn
from bias_clip.pretrained.preprocess import read_preprocess

PEERS = np.load(Path(__file__).parent / "peers" / "pixels.npz", allow_pickle=False)
IMAGES = ("coffee_173x260", "face_62x47", "face_73x47", "face_74x47")
SQUARE = {"height": 48, "width": 48}


def hugging_face(**config):
    return {"preprocessor_config.json": json.dumps(config).encode()}


def open_clip(**config):
    return {"open_clip_config.json": json.dumps({"preprocess_cfg": config}).encode()}


# What peer, and the files, layout and family that state it; how many grey levels it may be away.
CASES = [
    ("hf_siglip_pil", hugging_face(size=SQUARE, resample=3), "hugging_face", "siglip", 0),
    ("hf_siglip_pil", {}, "hugging_face", "siglip", 0),
    ("hf_siglip_tensor", hugging_face(size=SQUARE, resample=3), "hugging_face", "siglip", 1),
    ("hf_siglip_pil_bilinear", hugging_face(size=SQUARE, resample=2), "hugging_face", "siglip", 0),
    ("hf_clip_pil", {}, "hugging_face", "clip", 0),
    ("hf_clip_pil", hugging_face(size={"shortest_edge": 48}), "hugging_face", "clip", 0),
    ("hf_clip_tensor", hugging_face(size=48, crop_size=48), "hugging_face", "clip", 1),
    ("open_clip_shortest_bicubic", open_clip(), "open_clip", "clip", 0),
    ("open_clip_longest_bicubic", open_clip(resize_mode="longest"), "open_clip", "clip", 0),
    (
        "hf_siglip_pil",  # equal to open_clip's squash in every value
        open_clip(resize_mode="squash", mean=[0.5] * 3, std=[0.5] * 3),
        "open_clip",
        "siglip",
        0,
    ),
    (
        "hf_siglip_pil_bilinear",
        open_clip(resize_mode="squash", interpolation="bilinear"),
        "open_clip",
        "clip",
        0,
    ),
    ("bv_resize", {}, "big_vision", "siglip", 1),
]


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("peer", "files", "layout", "family", "levels"), CASES)
def test_pixels_are_those_of_the_library(peer, files, layout, family, levels, name):
    found = read_preprocess(files, layout, family=family, size=48)
    got = make_image_fn(found.ops)(PEERS[f"{name}/file"].tobytes(), rng())
    pixels = np.rint((got * np.float32(found.std) + np.float32(found.mean)) * 255)
    away = np.abs(pixels - PEERS[f"{name}/{peer}"])
    assert away.max() <= levels
    assert (away > 0).mean() < 0.01
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("peer", "layout", "family"),
    [
        ("hf_clip_pil", "hugging_face", "clip"),
        ("open_clip", "open_clip", "clip"),
        ("hf_siglip_pil", "hugging_face", "siglip"),
    ],
)
def test_the_model_gets_the_same_numbers(peer, layout, family):
    ops = read_preprocess({}, layout, family=family, size=48).ops
    got = make_image_fn(ops)(PEERS["face_73x47/file"].tobytes(), rng())
    np.testing.assert_allclose(got, PEERS[f"floats/{peer}"], atol=1.3e-7)  # one step of float32


def test_rounding_and_floor_differ_where_the_rules_say():
    """Without the two rules of CLIP the face of 74 x 47 is tens of grey levels away."""
    plain = "decode|resize_small(48,method=bicubic,antialias=True)|central_crop(48)"
    got = make_image_fn(plain)(PEERS["face_74x47/file"].tobytes(), rng())
    assert np.abs(got.astype(int) - PEERS["face_74x47/open_clip_shortest_bicubic"]).max() > 10


def test_another_resolution_is_said():
    found = read_preprocess(
        hugging_face(size={"shortest_edge": 256}, crop_size=224),
        "hugging_face",
        family="clip",
        size=448,
    )
    assert found.ops.startswith("decode|drop_alpha|resize_small(512,method=bicubic,antialias=True")
    assert "central_crop(448" in found.ops
    assert found.stated[-1] == "size 448 in place of 224, as the model has it"


def test_naflex_takes_the_full_square_grid_and_says_so():
    files = {"config.json": b'{"model_type": "siglip2"}'} | hugging_face(
        patch_size=16, max_num_patches=256
    )
    found = read_preprocess(files, "hugging_face", family="siglip", size=256)
    assert found.interpolation == "bilinear"
    assert "full square grid" in found.stated[-1]
    larger = {**files, **hugging_face(patch_size=16, max_num_patches=576)}
    found = read_preprocess(larger, "hugging_face", family="siglip", size=256)
    assert found.stated[-1] == "size 256 in place of 384, as the model has it"
    for count in (200, 0, True, "256"):
        other = {**files, **hugging_face(patch_size=16, max_num_patches=count)}
        with pytest.raises(ValueError, match=r"max_num_patches is .*only the full square grid"):
            read_preprocess(other, "hugging_face", family="siglip", size=256)


def test_the_newer_form_of_processor_files_is_read():
    files = {
        "processor_config.json": json.dumps(
            {"image_processor": {"size": SQUARE, "resample": 2}}
        ).encode()
    }
    found = read_preprocess(files, "hugging_face", family="siglip", size=48)
    assert found.interpolation == "bilinear"
    assert found.stated == ("processor_config.json",)


def test_files_are_read_from_paths(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_bytes(hugging_face(size=SQUARE, resample=1)["preprocessor_config.json"])
    found = read_preprocess({path.name: path}, "hugging_face", family="siglip", size=48)
    assert found.interpolation == "lanczos"


def test_equal_channels_are_left_to_the_device():
    ops = read_preprocess({}, "hugging_face", family="siglip", size=48).ops
    _, pixels = make_pixel_fn(ops)
    assert pixels == (-1.0, 1.0)
    fill = open_clip(resize_mode="longest", fill_color=[1, 2, 255], mean=[0, 0, 0], std=1.0)
    found = read_preprocess(fill, "open_clip", family="clip", size=8)
    assert found.ops.endswith("fill='#0102ff')|value_range(0.0,1.0)")


def test_transparency_is_cut_off_as_the_libraries_do():
    ops = read_preprocess({}, "hugging_face", family="siglip", size=4).ops
    clear = np.full((4, 4, 4), 255, np.uint8)
    clear[..., 3] = 0
    assert (make_image_fn(ops)(clear, rng()) == 1).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"height": 4, "width": 8}}, "expected one number, or a square"),
        ({"size": {"height": "4", "width": "4"}}, "expected an integer from 1 to 4096"),
        ({"size": {"height": 10**9, "width": 10**9}}, "expected an integer from 1 to 4096"),
        ({"resample": 0}, "resample=0"),
        ({"resample": True}, "resample=True"),
        ({"image_mean": [0.5, "x", 0.5]}, "expected three finite numbers"),
        ({"image_std": [0.5, 0.5]}, "expected three finite numbers"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"do_resize": False}, "leaves images unresized"),
        ({"size": {"shortest_edge": 48}}, "does not crop"),
    ],
)
def test_what_no_operation_does_is_refused_with_the_file(config, message):
    with pytest.raises(ValueError, match=f"preprocessor_config.json.*{message}"):
        read_preprocess(hugging_face(**config), "hugging_face", family="siglip", size=48)


def test_damaged_files_and_unknown_names_are_refused():
    for data in (b"{", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"preprocessor_config\.json is"):
            read_preprocess(
                {"preprocessor_config.json": data}, "hugging_face", family="clip", size=4
            )
    with pytest.raises(ValueError, match="layout"):
        read_preprocess({}, "timm", family="clip", size=4)
    with pytest.raises(ValueError, match="family"):
        read_preprocess({}, "open_clip", family="blip", size=4)
    with pytest.raises(ValueError, match="fill_color"):
        read_preprocess(open_clip(fill_color=999), "open_clip", family="clip", size=4)
