"""Decoding of what strangers' files hold: formats, bounds, wide samples, Exif, damage."""

import io
import os
import resource
import struct
import time
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bias_clip.data.image import decode, encode_png, make_image_fn
from bias_clip.data.image.codec import FORMATS
from bias_clip.data.image.exif import orientation

# A 16 x 16 AVIF file with one byte of its data changed: Pillow raises RuntimeError on it.
DAMAGED_AVIF = bytes.fromhex(
    "00000020667479706176696600000000617669666d6966316d696166"
    "4d413142000000eb6d657461000000000000002168646c7200000000"
    "000000007069637400000000000000000000000000000000"
)


def rng(seed=0):
    return np.random.default_rng(seed)


def smooth(h=24, w=40):
    """Red rises downwards, green to the right."""
    down, right = np.mgrid[0:h, 0:w]
    return np.stack([down * 255 // h, right * 255 // w, 0 * down + 90], -1).astype(np.uint8)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def without_chunk(png, name):
    out, place = png[:8], 8
    while place < len(png):
        size = 12 + struct.unpack(">I", png[place : place + 4])[0]
        if png[place + 4 : place + 8] != name:
            out += png[place : place + size]
        place += size
    return out


def png_of(width, height):
    """A valid PNG header that claims a size, and no more data than a few bytes."""

    def chunk(name, data):
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(999)))


# Formats.


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_of_the_list_is_read(form):
    got = decode(encoded(smooth(), form))
    assert np.abs(got.astype(int) - smooth()).mean() < (1 if form in ("PNG", "BMP", "TIFF") else 8)


@pytest.mark.parametrize("form", ["PPM", "TGA", "ICO", "JPEG2000", "DDS"])
def test_other_formats_are_bad_records_until_asked_for(form):
    data = encoded(smooth(64, 64), form)
    with pytest.raises(ValueError, match="no known format, expected one of"):
        decode(data)
    assert decode(data, formats=[form]).shape[:2] == (64, 64)


def test_an_ending_says_nothing_the_content_does():
    assert decode(encoded(smooth(), "BMP"), formats=("BMP",)).shape == (24, 40, 3)
    with pytest.raises(ValueError, match="no known format"):
        decode(encoded(smooth(), "BMP"), formats=("PNG",))


def test_decoding_starts_no_program(tmp_path, monkeypatch):
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
    with pytest.raises(ValueError, match="no known format"):
        decode(eps)
    with pytest.raises(ValueError, match="starts a program"):
        decode(eps, formats=("EPS",))
    assert not (tmp_path / "ran").exists()


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="format 'JPG', expected some of"):
        decode(encode_png(smooth()), formats=("JPG",))


# Whatever Pillow raises is a ValueError.


def test_a_palette_without_colors_is_a_bad_record():
    png = encoded(Image.fromarray(smooth()).quantize(16), "PNG")
    with pytest.raises(ValueError, match="cannot decode an image of"):
        decode(without_chunk(png, b"PLTE"))


def test_a_damaged_avif_is_a_bad_record():
    whole = bytearray(encoded(smooth(), "AVIF"))
    outcomes = set()
    for place in range(len(whole) - 60, len(whole)):  # within the coded image
        data = bytearray(whole)
        data[place] ^= 0x5A
        try:
            decode(bytes(data))
        except ValueError as error:
            outcomes.add(type(error.__cause__))
    assert outcomes  # some damage is seen, and all of it as ValueError
    with pytest.raises(ValueError, match="cannot decode an image"):
        decode(DAMAGED_AVIF)


def test_no_memory_is_no_fault_of_the_record(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        decode(encode_png(smooth()))


# Bounds.


def test_a_huge_image_is_refused_by_its_header():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"9000x9000 pixels, expected 1 to 33554432"):
        decode(png_of(9000, 9000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000  # kilobytes


def test_bounds_are_arguments_of_the_operation():
    fn = make_image_fn("decode(max_pixels=100)|resize(4)")
    assert fn(encode_png(smooth(10, 10)), rng()).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="10x11 pixels, expected 1 to 100"):
        fn(encode_png(smooth(10, 11)), rng())
    with pytest.raises(ValueError, match="more than max_bytes=9"):
        decode(encode_png(smooth()), max_bytes=9)


def test_a_jpeg_of_endless_scans_is_refused():
    whole = encoded(smooth(64, 64), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2][:40]
    assert decode(whole[:-2] + 50 * scan + whole[-2:]).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="a JPEG of 5010 scans, expected 100 at most"):
        decode(whole[:-2] + 5000 * scan + whole[-2:])


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1500)])
@pytest.mark.parametrize(
    "ops", ["resize_small(224)|central_crop(224)", "resize_small(224,antialias=True)"]
)
def test_a_narrow_image_is_refused_before_it_is_enlarged(size, ops):
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"would hold .* pixels, more than max_pixels="):
        make_image_fn(f"decode|{ops}")(encode_png(np.zeros((*size, 3), np.uint8)), rng())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000
    assert time.process_time() - start < 5


def test_the_space_between_two_passes_is_bounded():
    tall = np.zeros((300, 1, 3), np.uint8)
    make_image_fn("resize(8,antialias=True,max_pixels=2400)")(tall, rng())
    with pytest.raises(ValueError, match="would hold 300x8 pixels"):
        make_image_fn("resize(8,antialias=True,max_pixels=2399)")(tall, rng())


def test_operations_in_floats_are_bounded():
    wide = np.zeros((4097, 4096, 3), np.uint8)
    for op in ("color_jitter(0.1)", "gray", "value_range", "normalize"):
        with pytest.raises(ValueError, match="would hold 4097x4096 pixels"):
            make_image_fn(op)(wide, rng())


# Wide samples.


def ramp(top, kind):
    return np.tile(np.linspace(0, top, 64), (8, 1)).astype(kind)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_upper_byte(form):
    wide = ramp(65535, np.uint16)
    np.testing.assert_array_equal(decode(encoded(wide, form))[..., 1], wide >> 8)


@pytest.mark.parametrize("top", [255, 65535, 2**31 - 1])
def test_integers_are_scaled_from_the_smallest_range_that_holds_them(top):
    got = decode(encoded(ramp(top, np.int32), "TIFF"))[0, :, 0]
    assert np.abs(got - np.linspace(0, 255, 64)).max() < 1.1


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floats_are_scaled_from_the_smallest_range_that_holds_them(top):
    got = decode(encoded(ramp(top, np.float32), "TIFF"))[0, :, 2]
    assert np.abs(got - np.linspace(0, 255, 64)).max() < 0.51


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e9])
def test_floats_without_a_range_are_bad_records(bad):
    wide = ramp(1, np.float32)
    wide[3, 3] = bad
    with pytest.raises(ValueError, match="samples from"):
        decode(encoded(wide, "TIFF"))


def test_white_is_zero_is_inverted_at_16_bits_too():
    wide = ramp(65535, np.uint16)
    data = encoded(wide, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decode(data)[..., 0], 255 - (wide >> 8))


# Exif.


def tagged(value, order="little"):
    """The smallest block of Exif with an orientation."""
    head = {"little": b"II*\x00", "big": b"MM\x00*"}[order]

    def number(x, size):
        return x.to_bytes(size, order)

    entry = number(0x0112, 2) + number(3, 2) + number(1, 4) + number(value, 2) + b"\0\0"
    return b"Exif\0\0" + head + number(8, 4) + number(1, 2) + entry + number(0, 4)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_the_camera_s_orientation_is_applied(form, value):
    options = {"quality": 98} if form != "PNG" else {}
    tag = Image.Exif()
    tag[0x0112] = value
    data = encoded(smooth(), form, exif=tag, **options)
    got = decode(data)
    # From the corner that Exif says the first row and column stand at: CIPA DC-008, 4.6.4.
    seen = smooth()
    seen = seen[:, ::-1] if value in (2, 3, 7, 6) else seen
    seen = seen[::-1] if value in (3, 4, 7, 8) else seen
    if value in (5, 6, 7, 8):
        seen = smooth().transpose(1, 0, 2)
        seen = seen[:, ::-1] if value in (6, 7) else seen
        seen = seen[::-1] if value in (7, 8) else seen
    assert got.shape == seen.shape
    assert np.abs(got.astype(int) - seen).mean() < 6


def test_the_orientation_can_be_left_alone():
    tag = Image.Exif()
    tag[0x0112] = 6
    data = encoded(smooth(), "JPEG", exif=tag)
    assert decode(data).shape == (40, 24, 3)
    assert decode(data, exif=False).shape == (24, 40, 3)
    assert make_image_fn("decode(exif=False)")(data, rng()).shape == (24, 40, 3)


@pytest.mark.parametrize("order", ["little", "big"])
def test_damaged_exif_turns_nothing_and_raises_nothing(order):
    whole = tagged(6, order)
    assert orientation(whole) == orientation(whole[6:]) == 6
    assert orientation(tagged(0, order)) == orientation(tagged(99, order)) == 1
    for cut in range(len(whole) - 6):
        assert orientation(whole[:cut]) == 1
    assert orientation(whole[:14] + b"\xff\xff" + whole[16:]) == 6  # claims 65,535 entries
    data = rng().integers(0, 256, (500, 60), dtype=np.uint8)
    assert all(1 <= orientation(whole[:10] + row.tobytes()) <= 8 for row in data)


# Fuzz.


def _variants(image):
    """One file of each kind of reader that Pillow has for the formats of the list."""
    gray = image[..., 0]
    wide = gray.astype(np.uint16) * 257
    alpha = np.dstack([image, gray])
    frames = {"save_all": True, "append_images": [Image.fromarray(image[::-1].copy())]}
    tag = Image.Exif()
    tag[0x0112] = 6
    yield "jpeg", encoded(image, "JPEG", exif=tag)
    yield "jpeg progressive", encoded(image, "JPEG", progressive=True)
    yield "jpeg cmyk", encoded(Image.fromarray(image).convert("CMYK"), "JPEG")
    yield "png", encoded(image, "PNG", exif=tag)
    yield "png palette", encoded(Image.fromarray(image).quantize(16), "PNG", transparency=3)
    yield "png 16 bit", encoded(wide, "PNG")
    yield "webp", encoded(alpha, "WEBP", exif=tag)
    yield "webp lossless", encoded(alpha, "WEBP", lossless=True)
    yield "webp animated", encoded(image, "WEBP", **frames)
    yield "gif", encoded(image, "GIF")
    yield "gif animated", encoded(image, "GIF", **frames)
    yield "bmp", encoded(image, "BMP")
    yield "bmp palette", encoded(Image.fromarray(image).quantize(16), "BMP")
    yield "tiff", encoded(image, "TIFF", exif=tag)
    yield "tiff lzw", encoded(image, "TIFF", compression="tiff_lzw")
    yield "tiff deflate", encoded(wide, "TIFF", compression="tiff_adobe_deflate")
    yield "tiff jpeg", encoded(image, "TIFF", compression="jpeg")
    yield "tiff float", encoded(gray.astype(np.float32) / 255, "TIFF")
    yield "avif", encoded(alpha, "AVIF", exif=tag)


def _damaged(draw, whole):
    data = np.frombuffer(whole, np.uint8).copy()
    for _ in range(draw.integers(1, 8)):
        # Half of the changes in the header, where the sizes are.
        end = len(data) if draw.random() < 0.5 else min(len(data), 120)
        data[draw.integers(end)] = draw.choice([0, 1, 127, 128, 255, draw.integers(256)])
    cut = len(data) if draw.random() < 0.7 else draw.integers(len(data))
    return data[:cut].tobytes()


def _outcome(data):
    start = time.process_time()
    try:
        outcome = "decoded" if decode(data).dtype == np.uint8 else "wrong"
    except ValueError:
        outcome = "refused"
    assert time.process_time() - start < 20
    return outcome


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pillow warns of much that it reads all the same
def test_flips_and_cuts_of_every_format_end_as_an_image_or_a_value_error():
    draw = rng(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = smooth(37, 53) + draw.integers(0, 9, (37, 53, 3), dtype=np.uint8)
    for name, whole in _variants(image):
        assert decode(whole).dtype == np.uint8
        outcomes = Counter(_outcome(_damaged(draw, whole)) for _ in range(1500))
        print(f"{name}: {dict(outcomes)}")
        assert outcomes["refused"] > 100
        assert outcomes["wrong"] == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 700_000  # of MAX_PIXELS
