"""The operations against their definitions, jax.image.resize as reference, and the op-strings."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bias_clip.data.image import OPS, codec, encode_png, geometry, make_image_fn, make_pixel_fn
from bias_clip.data.image import color as image_color


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(h, w, c=3, seed=0):
    return rng(seed).integers(0, 256, (h, w, c), dtype=np.uint8)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form, **options)
    return buffer.getvalue()


# Coding.


@pytest.mark.parametrize("channels", [3, 4])
def test_png_keeps_every_pixel(channels):
    image = noise(7, 5, channels)
    np.testing.assert_array_equal(codec.decode(encode_png(image)), image)


def test_decode_gives_rgb_or_rgba_whatever_the_file_is():
    grey = noise(8, 8)[..., 0]
    assert codec.decode(encoded(grey, "PNG")).shape == (8, 8, 3)
    assert codec.decode(encoded(noise(8, 8), "JPEG")).shape == (8, 8, 3)
    assert codec.decode(encoded(noise(8, 8, 4), "WEBP", lossless=True)).shape == (8, 8, 4)
    palette = io.BytesIO()
    Image.fromarray(grey % 4, mode="P").save(palette, "PNG", transparency=2)
    assert codec.decode(palette.getvalue()).shape == (8, 8, 4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [0, 10, 60, 0.5, -40])
def test_cut_files_are_value_errors_not_half_images(form, keep):
    whole = encoded(noise(32, 32), form)
    cut = whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    with pytest.raises(ValueError, match=f"cannot decode an image of {len(cut)} bytes"):
        codec.decode(cut)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damaged_files_never_raise_anything_else(place, damage):
    data = bytearray(encode_png(noise(16, 16)))
    place %= len(data)
    data[place : place + len(damage)] = damage
    with contextlib.suppress(ValueError):  # a flipped pixel may pass, another error may not
        assert codec.decode(bytes(data)).dtype == np.uint8


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), "a.png", None])
def test_decode_names_what_it_got(image):
    with pytest.raises(ValueError, match=r"got .*expected"):
        codec.decode(image)


# Colours.


def test_background_is_the_alpha_blend():
    image = noise(9, 7, 4)
    alpha = image[..., 3:] / 255
    expected = image[..., :3] * alpha + (1 - alpha) * np.array([255, 0, 16])
    got = image_color.background(image, "#ff0010", rng=rng())
    np.testing.assert_allclose(got, expected, atol=1)


def test_background_leaves_opaque_images():
    image = noise(4, 4)
    assert image_color.background(image, "black", rng=rng()) is image


def test_random_background_is_white_for_the_rest():
    clear = np.zeros((1, 1, 4), np.uint8)
    one = rng()
    colors = [
        tuple(image_color.background(clear, "random", 0.25, rng=one)[0, 0]) for _ in range(400)
    ]
    white = colors.count((255, 255, 255)) / 400
    assert 0.65 < white < 0.85
    assert len(set(colors)) > 80


def test_gray_has_equal_channels_and_pythagorean_luma():
    image = noise(5, 5, 4)
    got = image_color.gray(image, rng=rng())
    luma = image[..., :3] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(got[..., 0], luma, atol=0.51)
    np.testing.assert_array_equal(got[..., 0], got[..., 2])
    np.testing.assert_array_equal(got[..., 3], image[..., 3])
    assert image_color.gray(image, 0.0, rng=rng()) is image


def test_color_jitter_of_nothing_is_the_identity():
    image = noise(6, 6, 4)
    np.testing.assert_array_equal(image_color.color_jitter(image, rng=rng()), image)


def test_color_jitter_scales_brightness_and_spares_alpha():
    image = np.full((3, 3, 4), 100, np.uint8)
    seen = [image_color.color_jitter(image, 0.5, rng=rng(s)) for s in range(200)]
    levels = np.array([x[0, 0, 0] for x in seen])
    assert levels.min() >= 50
    assert levels.max() <= 150
    assert levels.max() - levels.min() > 80
    assert all((x[..., 3] == 100).all() for x in seen)


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((200, 100), 50, (100, 50)),
        ((200, 100), 51, (200, 100)),
        ((200, 101), 25, (50, 26)),
        ((900, 900), 8, (113, 113)),  # an eighth is the smallest
        ((20, 20), 50, (20, 20)),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(size, at_least, expected):
    w, h = size
    smooth = np.add.outer(np.arange(h), np.arange(w))[..., None] * (
        np.array([1, 2, 3]) * 64 / (w + h)
    )
    image = smooth.astype(np.uint8)
    got = codec.decode(encoded(image, "JPEG", quality=95), at_least)
    assert got.shape == (expected[1], expected[0], 3)
    means = Image.fromarray(image).resize(expected, Image.Resampling.BOX)
    assert np.abs(got.astype(int) - np.asarray(means)).mean() < 2


def test_other_formats_are_decoded_whole():
    image = noise(64, 64)
    np.testing.assert_array_equal(codec.decode(encoded(image, "PNG"), at_least=8), image)
    np.testing.assert_array_equal(make_image_fn("decode(at_least=8)")(image, None), image)
    with pytest.raises(ValueError, match="at_least=0, expected at least 1"):
        codec.decode(image, at_least=0)


def test_value_range_maps_the_ends_and_is_float32():
    image = np.array([[[0, 255, 51]]], np.uint8)
    got = image_color.value_range(image, -1, 1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0, 0], [-1, 1, -0.6], atol=1e-6)


def test_a_range_left_to_the_device_gives_the_same_numbers():
    ops = "decode|flip_lr|inception_crop(8)"
    whole = make_image_fn(f"{ops}|value_range(-1, high=.5)")
    part, pixels = make_pixel_fn(f"{ops}|value_range(-1, high=.5)")
    assert pixels == (-1, 0.5)
    got, expected = (f(noise(20, 20, 3), np.random.default_rng(0)) for f in (part, whole))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(image_color.to_range(got, *pixels), expected)
    on_device = jax.jit(lambda x: image_color.to_range(x, *pixels))(got)
    assert on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, expected, rtol=0, atol=2e-7)  # may be one fused operation


def test_mean_and_deviation_left_to_the_device_give_the_same_numbers():
    ops = "decode|normalize((0.1, 0.2, 0.3),(0.4, 0.5, 0.6))"
    part, scaling = make_pixel_fn(ops)
    image = noise(6, 6, 3)
    got = part(image, None)
    assert got.dtype == np.uint8
    on_device = jax.jit(lambda x: image_color.to_normal(x, *scaling))(got)
    assert on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, make_image_fn(ops)(image, None), rtol=0, atol=1e-6)


def test_a_range_left_to_the_device_wants_no_transparency_either():
    part, _ = make_pixel_fn("decode|value_range(-1, 1)")
    with pytest.raises(
        ValueError, match=r"4 channels, expected 3: put background\(white\) or drop_alpha"
    ):
        part(noise(2, 2, 4), np.random.default_rng(0))


def test_where_nothing_can_be_left_to_the_device_all_is_done():
    ops = "decode|resize(4)"
    fn, pixels = make_pixel_fn(ops)
    assert pixels is None
    np.testing.assert_array_equal(
        fn(noise(9, 9, 3), None), make_image_fn(ops)(noise(9, 9, 3), None)
    )


def test_a_range_alone_is_left_to_the_device():
    fn, pixels = make_pixel_fn("value_range")
    assert pixels == (-1, 1)
    np.testing.assert_array_equal(fn(noise(4, 4), None), noise(4, 4))


def test_value_range_wants_no_transparency():
    with pytest.raises(ValueError, match="got 4 channels, expected 3"):
        image_color.value_range(noise(2, 2, 4))


# Shapes.


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("source", "target"), [((64, 64), (48, 48)), ((61, 33), (24, 24)), ((20, 30), (47, 64))]
)
def test_resize_is_jax_bilinear_within_one_level(source, target, antialias):
    image = noise(*source)
    expected = jax.image.resize(
        image.astype(np.float32), (*target, 3), "bilinear", antialias=antialias
    )
    got = geometry.resize(image, *target, antialias=antialias)
    assert got.shape == (*target, 3)
    # One level: the fraction is cut (no antialias) or rounded twice (antialias).
    np.testing.assert_allclose(got.astype(np.float32), expected, atol=1.01)


def test_only_antialias_smooths_fine_stripes():
    fine = np.tile(np.array([[0, 255]], np.uint8), (32, 16))[..., None].repeat(3, 2)
    assert geometry.resize(fine, 11).std() > 40
    assert geometry.resize(fine, 11, antialias=True).std() < 20


def test_resize_small_keeps_the_aspect():
    assert geometry.resize_small(noise(20, 40), 10).shape == (10, 20, 3)
    assert geometry.resize_small(noise(41, 20), 10).shape == (20, 10, 3)


def test_central_crop_is_the_middle():
    image = noise(9, 11)
    np.testing.assert_array_equal(geometry.central_crop(image, 3, 5), image[3:6, 3:8])


def test_random_crop_reaches_every_place_and_no_other():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1).repeat(3, 2)
    firsts = {int(geometry.random_crop(image, 2, rng=rng(s))[0, 0, 0]) for s in range(100)}
    assert firsts == {0, 1, 2, 4, 5, 6}


def test_crops_larger_than_the_image_say_so():
    for crop in (
        geometry.central_crop,
        lambda x, n: geometry.random_crop(x, n, rng=rng()),
    ):
        with pytest.raises(ValueError, match="got 4x4, expected at least 5x5"):
            crop(noise(4, 4), 5)


def test_inception_crop_stays_in_its_area_range():
    image = noise(60, 40)
    for seed in range(50):
        h, w, _ = geometry.inception_crop(image, area=(0.2, 0.5), rng=rng(seed)).shape
        assert 0.17 < h * w / 2400 < 0.53
        assert 0.7 < w / h < 1.4
    assert geometry.inception_crop(image, 16, rng=rng()).shape == (16, 16, 3)


def test_flip_mirrors_half_of_the_time():
    image = noise(4, 6)
    np.testing.assert_array_equal(geometry.flip_lr(image, 1.0, rng=rng()), image[:, ::-1])
    one = rng()
    flips = sum(geometry.flip_lr(image, rng=one) is not image for _ in range(400))
    assert 160 < flips < 240


def test_affine_of_nothing_is_the_identity_and_resizes_as_resize():
    image = noise(24, 32)
    np.testing.assert_array_equal(geometry.affine(image, rng=rng()), image)
    np.testing.assert_array_equal(
        geometry.affine(image, 12, 20, rng=rng()), geometry.resize(image, 12, 20)
    )


def test_affine_quarter_turn_zoom_and_shift():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 7] = 255  # three right of the centre
    draws = np.array([0.5, 0.5, 1.0, 0.0])  # no shift, the whole angle, the low end of the zoom

    class Draws:
        def random(self, count):
            return draws[:count]

    turned = geometry.affine(image, rotate=90.0, fill="black", rng=Draws())
    assert np.argwhere(turned[..., 0]).tolist() in ([[1, 4]], [[7, 4]])
    smaller = geometry.affine(image, scale=(1 / 3, 1 / 3), fill="black", rng=Draws())
    assert np.argwhere(smaller[..., 0] > 50).tolist() == [[4, 5]]
    draws = np.array([1.0, 0.5, 0.5, 0.0])
    moved = geometry.affine(image, shift=1 / 9, fill="black", rng=Draws())
    assert np.argwhere(moved[..., 0] > 50).tolist() == [[4, 8]]


@pytest.mark.parametrize(("fill", "color"), [("corner", [9, 9, 9]), ("#102030", [16, 32, 48])])
def test_affine_fills_what_comes_in(fill, color):
    image = np.full((8, 8, 3), 9, np.uint8)
    image[4] = 200
    got = geometry.affine(image, scale=(0.25, 0.25), fill=fill, rng=rng())
    assert got[0, 0].tolist() == color


def test_affine_of_a_transparent_image_brings_in_nothing():
    image = np.full((8, 8, 4), 255, np.uint8)
    got = geometry.affine(image, scale=(0.5, 0.5), rng=rng())
    assert got[0, 0, 3] == 0
    assert got[4, 4].tolist() == [255, 255, 255, 255]


# Op-strings.


def test_op_string_is_the_composition():
    fn = make_image_fn("decode|background(black)|resize(6, antialias=True)|value_range(0, 1)")
    image = noise(12, 12, 4)
    x = image_color.background(image, "black", rng=rng())
    expected = image_color.value_range(geometry.resize(x, 6, antialias=True), 0, 1)
    np.testing.assert_array_equal(fn(encode_png(image), rng()), expected)


def test_random_operations_depend_on_the_generator_alone():
    ops = (
        "decode|background(random)|affine(scale=(.8, 1.2), shift=.1, rotate=10)|flip_lr|"
        "color_jitter(.2, .2, .2)|gray(.5)|inception_crop(8)|value_range(-1, 1)"
    )
    fn, again = make_image_fn(ops), make_image_fn(ops)
    image = noise(12, 12, 4)
    before = image.copy()
    np.testing.assert_array_equal(fn(image, rng(3)), again(image, rng(3)))
    assert not np.array_equal(fn(image, rng(3)), fn(image, rng(4)))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ("decode|resise(4)", r"unknown operation 'resise' at character 8 .*resize_small"),
        ("resize(sise=4)", r"resize at character 1 .* has 'sise'.*'antialias'.*mean 'size'"),
        ("resize()", r"resize at .*: missing a required argument: 'size'"),
        ("resize(4", r"cannot read the operations .* at character"),
        ("", r"cannot read the operations"),
        ("decode||flip_lr", r"cannot read the operations"),
        ("flip_lr(rng=1)", r"flip_lr at .* has 'rng'; expected one of \['probability'\]"),
        ("resize(__import__('os').getpid())", r"expected a number, a string or a tuple"),
        ("resize.__class__", r"unknown operation 'resize.__class__'"),
        ("resize(*(1, 2))", r"expected a number"),
        ("resize(4, **{'width': 4})", r"resize at .* has 'None'; expected"),
        ("(lambda x: x)(3)", r"unknown operation"),
    ],
)
def test_wrong_op_strings_say_where_and_what_is_valid(ops, message):
    with pytest.raises(ValueError, match=message):
        make_image_fn(ops)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ("background('')", "got the colour ''"),
        ("background('#12 34 ')", "got the colour '#12 34 '"),
        ("resize(0)", "positive int"),
        ("resize_inside(0)", "positive int"),
        ("resize_small(-1)", "positive int"),
        ("resize(4.5)", r"Sequence\[int\] or int"),
        ("resize(4, method=cubic)", "expected one of .*bicubic"),
        ("resize(4, method=bicubic)", "needs antialias=True"),
        ("background(pink)", "got the colour 'pink'.*#rrggbb"),
        ("background('#12345z')", "got the colour"),
        ("affine(scale=(0, 1))", "two positive numbers"),
        ("affine(scale=(1, 1e999))", "two positive numbers"),
        ("affine(shift=-0.1)", "affine.shift is -0.1"),
        ("affine(shift=1e999)", "affine.shift is inf"),
        ("affine(rotate=1e999)", "affine.rotate is inf"),
        ("color_jitter(1e999)", "color_jitter.brightness is inf"),
        ("color_jitter(0, 1.5)", "color_jitter.contrast is 1.5, expected a number from 0 to 1"),
        ("color_jitter(0, 0, -1)", "color_jitter.saturation is -1"),
        ("gray(-1)", "gray.probability is -1"),
        ("flip_lr(1.5)", "flip_lr.probability is 1.5"),
        ("background(random, 2)", "background.probability is 2"),
        (
            "inception_crop(8, area=(0, 1))",
            "area is .0, 1., expected two positive numbers in order",
        ),
        ("inception_crop(8, area=(0.5, 2))", "at most 1.0"),
        ("inception_crop(8, aspect=(2, 1))", "inception_crop.aspect"),
        ("value_range(0, 1e300)", "value_range got 0 to 1e.300"),
    ],
)
def test_wrong_values_are_value_errors(ops, message):
    with pytest.raises(ValueError, match=message):
        make_image_fn(ops)(noise(8, 8, 4), rng())


def test_every_operation_is_documented_and_reachable():
    assert all(op.__doc__ and name == op.__name__ for name, op in OPS.items())
