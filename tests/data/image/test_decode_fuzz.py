"""Damaged images of every format: an array, or that record's fault; never another error or much memory."""

import collections
import io
import random
import tracemalloc

import numpy as np
import pytest
from PIL import Image, features

from bias_clip.data.bad_records import record_fault
from bias_clip.data.image import make_image_fn
from tests.fuzzing import SEED, count_of

COUNT = count_of(4_000)
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    *(["AVIF"] if features.check("avif") else []),
)
BOUND = 256 * 2**20  # bytes: what `decode` may take for one image


def originals():
    """A small image with colour, noise and, where the format has it, transparency, in each format."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 4)).astype(np.uint8)
    made = {}
    for name in FORMATS:
        file = io.BytesIO()
        modes = {"JPEG": "RGB", "BMP": "RGB", "GIF": "P"}
        image = Image.fromarray(pixels)
        image = image.convert("RGB").quantize(32) if name == "GIF" else image
        image = image.convert(modes[name]) if name in modes and name != "GIF" else image
        image.save(file, name)
        made[name] = file.getvalue()
    return made


def damage(content, rng):
    """Flips bits, most of them in the header; cuts, repeats or overwrites a part."""
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(min(len(raw), rng.choice((16, 64, len(raw)))))
        raw[place] = rng.choice((raw[place] ^ (1 << rng.randrange(8)), 0, 255))
    kind = rng.random()
    if kind < 0.2:
        del raw[rng.randrange(len(raw)) :]
    elif kind < 0.3:
        start = rng.randrange(len(raw))
        raw[start:start] = raw[start : start + rng.randrange(1, 200)]
    return bytes(raw)


@pytest.mark.slow
def test_damaged_images_of_all_formats_are_arrays_or_faults_of_the_record(capsys):
    rng, starts = random.Random(SEED), originals()
    decode = make_image_fn("decode|background(white)|resize(16)")
    counts, peak = collections.Counter(), 0
    for _ in range(COUNT):
        name = rng.choice(FORMATS)
        content = damage(starts[name], rng)
        tracemalloc.start()
        try:
            with record_fault():
                image = decode(content, np.random.default_rng(0))
            assert image.shape == (16, 16, 3)
            counts[f"{name} decoded"] += 1
        except ValueError:
            counts[f"{name} refused"] += 1
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    with capsys.disabled():
        print(f"\nimages: {COUNT}: {dict(sorted(counts.items()))}; peak {peak / 1e6:.0f} MB")
    assert peak < BOUND
    assert len(counts) == 2 * len(FORMATS)  # each format is refused and decoded at times
